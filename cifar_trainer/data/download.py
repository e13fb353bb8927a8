"""Downloads that resume, verify size and SHA-256, and try several mirrors in turn."""

import dataclasses
import os
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests
import requests.adapters
import urllib3
from requests.utils import get_environ_proxies, select_proxy

from cifar_trainer import __version__, files
from cifar_trainer.data import disk
from cifar_trainer.data.dataset import Archive
from cifar_trainer.data.formats import is_html
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError

#: Maximum size of a download of unknown size.
MAX_BYTES = 1 << 30
#: Progress by one part in this many resets the retry counter.
_PROGRESS = 100
_CHUNK = 1 << 16


def _ignore(*_: object) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class PrepareReporter:
    """Callbacks of `prepare`, all optional.

    Attributes:
        note: receives a sentence about progress.
        warn: receives a sentence that the user should not miss.
        on_download: receives the bytes so far, in total (None if unknown), and the host.
        on_images: receives the number of images so far, and in total.
    """

    note: Callable[[str], None] = _ignore
    warn: Callable[[str], None] = _ignore
    on_download: Callable[[int, int | None, str], None] = _ignore
    on_images: Callable[[int, int], None] = _ignore


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to retry.

    Attributes:
        seconds: time-out without a byte.
        attempts: number of attempts without progress per mirror.
        pause: seconds before the second attempt; doubled for each further one.
        window: seconds over which the speed is measured.
        slow: bytes per second below which the next mirror is tried, if there is one.
        crawl: bytes per second below which the last mirror counts as stalled.
        longest_wait: the longest Retry-After to obey, in seconds.
    """

    seconds: float = 20
    attempts: int = 3
    pause: float = 1
    window: float = 20
    slow: int = 100_000
    crawl: int = 1_000
    longest_wait: float = 30


PATIENCE = Patience()


class FetchError(Exception):
    """Why a request did not complete the file.

    Attributes:
        again: whether to retry with the same server.
        wait: seconds to wait before that; None for the usual pause.
    """

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait


def is_url(source: str) -> bool:
    """Whether `source` is an HTTP URL rather than a path."""
    try:
        parts = urllib.parse.urlsplit(source)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def printable_url(url: str) -> str:
    """A URL for messages and records, without password and query, which may contain keys."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "a malformed URL"
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _host(url: str) -> str:
    return printable_url(url).split("/")[2]


def mirrors(archive: Archive, variable: str) -> tuple[str, ...]:
    """The URLs of `archive` to try in order, from the environment variable or the declaration."""
    given = [url.strip() for url in os.environ.get(variable, "").split(",") if url.strip()]
    wrong = [url for url in given if not is_url(url)]
    if wrong:
        raise UsageError(
            f"{variable} contains {wrong[0]!r}, which is not a URL. "
            "Expected http://HOST/PATH or https://HOST/PATH, separated by commas."
        )
    return tuple(given) or archive.mirrors


def ways_out(variable: str = "") -> str:
    """Advice for a failed download."""
    others = f"or set other mirrors in {variable}; " if variable else ""
    return (
        "Prepare it from your own copy or another URL: cifar-trainer prepare "
        f"--source PATH|URL; {others}or use drawn images instead: --dataset synthetic."
    )


def download(
    archive: Archive, urls: Sequence[str], folder: Path, reporter: PrepareReporter, variable: str = ""
) -> Path:
    """Download `archive` into `folder` from the first of `urls` that works.

    An earlier partial download is resumed if the SHA-256 is known, or if the same URL still has the same
    version. The file gets its final name only when it is complete and verified. `variable` is the environment
    variable for mirrors, for the message.

    Raises:
        DataNotFoundError: no URL worked; each is listed with the reason.
        DataError: the file could not be written.
        UsageError: an environment variable names a certificate file that does not exist.
    """
    _check_certificates(urls)
    target = folder / archive.name
    part = Part(folder / f"{archive.name}.part")
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, url in enumerate(urls, 1):
            try:
                least = PATIENCE.crawl if number == len(urls) else PATIENCE.slow
                _complete(url, part, archive, least, reporter)
                part.move(target)
                return target
            except FetchError as error:
                failures.append(f"  {printable_url(url)}: {error}")
                if number < len(urls):
                    reporter.note(f"{printable_url(url)}: {error}. Trying the next mirror.")
    except OSError as error:
        raise disk.write_error(part.path, archive.size or part.size, error) from error
    raise DataNotFoundError(
        f"{archive.name} could not be downloaded:\n" + "\n".join(failures) + f"\n{ways_out(variable)}"
    )


def local_archive(archives: Sequence[Archive], folder: Path, reporter: PrepareReporter) -> Path | None:
    """The first of `archives` that is complete in `folder`. Damaged ones are renamed, with a note."""
    for archive in archives:
        path = folder / archive.name
        try:
            if path.is_file() and not is_archive(path, archive):
                reporter.note(f"{path} {_set_aside(path, archive)}")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {disk.reason(error)}. Remove it.") from error
        if path.is_file():
            return path
    return None


def is_archive(path: Path, archive: Archive) -> bool:
    """Whether a file is this archive, by size and SHA-256."""
    return path.stat().st_size == archive.size and files.sha256_file(path) == archive.sha256


def _set_aside(path: Path, archive: Archive) -> str:
    """Rename a wrong file, so that the next attempt starts over; returns what is wrong with it."""
    actual, size = files.sha256_file(path), path.stat().st_size
    aside = path.with_name(f"{archive.name}.wrong")
    path.replace(aside)
    return (
        f"has {size:,} bytes and the SHA-256 {actual}, expected {archive.size:,} bytes and {archive.sha256} "
        f"(set aside as {aside})"
    )


@dataclasses.dataclass(frozen=True)
class Part:
    """A partial download, and beside it a file with its version: the URL's hash and the strong ETag."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _version(self) -> Path:
        return self.path.with_name(f"{self.path.name}.etag")

    def version(self, url: str) -> str | None:
        """The ETag of the part; None if it is unknown, or another URL started it."""
        if not self._version.exists():
            return None
        started, _, etag = self._version.read_text(encoding="utf-8").partition(" ")
        return etag if started == files.sha256_bytes(url.encode()) else None

    def begin(self, url: str, etag: str | None) -> None:
        """Empty the part, and remember its version."""
        self.remove()
        self.path.touch()
        if etag:
            # The URL itself may contain a key.
            self._version.write_text(f"{files.sha256_bytes(url.encode())} {etag}", encoding="utf-8")

    def remove(self) -> None:
        """Delete the part and its version."""
        for path in (self.path, self._version):
            path.unlink(missing_ok=True)

    def move(self, target: Path) -> None:
        """Flush the part to the disk, then rename it."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self.remove()
        files.flush_folder(target.parent)


def _complete(url: str, part: Part, archive: Archive, least_speed: int, reporter: PrepareReporter) -> None:
    """Request `url` until the part is complete and verified, or raise FetchError."""
    host = _host(url)
    if part.size and is_archive(part.path, archive):
        return
    amount = f" ({archive.size:,} bytes)" if archive.size else ""
    resumed = f", resuming after {part.size:,}" if part.size else ""
    reporter.note(f"Downloading {archive.name}{amount} from {host}{resumed}.")
    attempt = 1
    while True:
        before = part.size
        if archive.size is not None and before >= archive.size:
            _set_aside(part.path, archive)
        try:
            _fetch(url, part, archive, least_speed, reporter)
            if archive.sha256 is None or is_archive(part.path, archive):
                return
            # If the wrong bytes came from another mirror, download all of them from this one.
            raise FetchError(f"the file {_set_aside(part.path, archive)}", again=before > 0, wait=0)
        except FetchError as error:
            progress = part.size - before > (archive.size or MAX_BYTES) // _PROGRESS
            attempt = 1 if progress else attempt + 1
            if not error.again or attempt > PATIENCE.attempts:
                raise
            reporter.note(f"{host}: {error}. Retrying.")
            time.sleep(PATIENCE.pause * 2 ** (attempt - 2) if error.wait is None else error.wait)


# One request


def _fetch(url: str, part: Part, archive: Archive, least_speed: int, reporter: PrepareReporter) -> None:
    """Request the rest of `archive` from `url` once, and append it to `part`.

    Raises:
        FetchError: the file is incomplete. Usable bytes are kept.
        OSError: the file could not be written.
    """
    with _Session() as session, _open(session, url, part, archive) as response:
        start = _start(url, response, part, archive)
        declared = response.headers.get("Content-Length", "")
        # Ignore an absurdly long Content-Length.
        end = start + int(declared) if declared.isdecimal() and len(declared) < 19 else None
        total, most = archive.size or end, archive.size or MAX_BYTES
        if total is not None and total > MAX_BYTES:
            raise FetchError(f"declares {total:,} bytes, expected at most {MAX_BYTES:,}")
        if start == 0:
            etag = response.headers.get("ETag")
            part.begin(url, etag if etag and not etag.startswith("W/") else None)
        if total is not None:
            disk.check_room(part.path.parent, total - start)
        have, counted, since = start, 0, time.monotonic()
        with open(part.path, "ab") as file:
            while chunk := _read(response):
                if have == 0 and is_html(chunk):
                    part.remove()
                    raise FetchError("sent an HTML page instead of the archive")
                if have + len(chunk) > most:
                    part.remove()
                    raise FetchError(f"sent more than the expected {most:,} bytes")
                file.write(chunk)
                have, counted = have + len(chunk), counted + len(chunk)
                reporter.on_download(have, total, _host(url))
                elapsed = time.monotonic() - since
                if elapsed > PATIENCE.window:
                    if counted / elapsed < least_speed:
                        raise FetchError(f"is too slow: {counted / elapsed:,.0f} bytes a second")
                    counted, since = 0, time.monotonic()
    if total is not None and have < total:
        raise FetchError(f"the connection was cut after {have:,} of {total:,} bytes", again=True)


def _open(session: "_Session", url: str, part: Part, archive: Archive) -> requests.Response:
    headers = {}
    version = part.version(url)
    # With a known SHA-256, any mirror can resume a part. Otherwise the version must be the same.
    if part.size and (archive.sha256 or version):
        headers["Range"] = f"bytes={part.size}-"
        if version:
            headers["If-Range"] = version
    try:
        response = session.get(url, headers=headers, stream=True, timeout=PATIENCE.seconds)
    except requests.TooManyRedirects as error:
        raise FetchError(f"answered with more than {session.max_redirects} redirects") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _connection_error(url, error) from error
    if response.status_code in (200, 206):
        return response
    too_far = response.status_code == 416
    if too_far:
        # The part is longer than the server's file.
        part.remove()
    answer = f"answered {response.status_code} {response.reason}"
    if response.status_code in (408, 429, 500, 502, 503, 504):
        raise FetchError(answer, again=True, wait=_retry_after(response, answer))
    if response.status_code == 407:
        answer += f" (the proxy {_proxy(url)} asks for a user name and a password)"
    raise FetchError(answer, again=too_far, wait=0)


def _start(url: str, response: requests.Response, part: Part, archive: Archive) -> int:
    """The offset of the response: the end of the part, or 0 if the server sends the whole file."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise FetchError("sent an HTML page instead of the archive")
    if response.status_code != 206:
        return 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    version, etag = part.version(url), response.headers.get("ETag")
    fits = (
        found is not None
        and int(found[1]) == part.size
        and (archive.size is None or found[2] in ("*", str(archive.size)))
        and (version is None or etag is None or etag == version)
    )
    if not fits:
        part.remove()
        raise FetchError("answered with a different range or version", again=True, wait=0)
    return part.size


def _read(response: requests.Response) -> bytes:
    try:
        chunk: bytes = response.raw.read1(_CHUNK, decode_content=False)
        return chunk
    except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
        raise FetchError(f"sent nothing for {PATIENCE.seconds:g} seconds", again=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        cause = _root(error)
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            # The caller compares the sizes.
            return b""
        raise FetchError(f"the connection broke: {cause}", again=True) from error


# Connections


def _retry_after(response: requests.Response, answer: str) -> float | None:
    """A busy server's Retry-After in seconds; None if it sends none."""
    try:
        seconds = urllib3.Retry().get_retry_after(response.raw)
    except urllib3.exceptions.InvalidHeader:
        raise FetchError(answer) from None
    if seconds is not None and seconds > PATIENCE.longest_wait:
        raise FetchError(f"{answer}, and asks to wait for {seconds:,.0f} seconds")
    return seconds


class _Adapter(requests.adapters.HTTPAdapter):
    """Trusts the system's certificates in addition to those of requests."""

    def __init__(self) -> None:
        # OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR; requests reads REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.
        self._context = ssl.create_default_context()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)


class _Session(requests.Session):
    """Follows up to five redirects, but never from HTTPS to HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 5
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
        # identity: archives are compressed already.
        self.headers.update({"User-Agent": f"cifar-trainer/{__version__}", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        absolute = urllib.parse.urljoin(resp.url, target)
        if resp.url.startswith("https:") and not absolute.startswith("https:"):
            raise FetchError(f"redirects from HTTPS to {printable_url(absolute)}: refused")
        if not absolute.startswith(("http:", "https:")):
            raise FetchError(f"answered {resp.status_code}, a redirect to {printable_url(absolute)}: refused")
        return target


def _check_certificates(urls: Sequence[str]) -> None:
    """Raise UsageError if a variable names a missing certificate file, with which every mirror would fail."""
    if not any(url.lower().startswith("https:") for url in urls):
        return
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and not Path(path).exists():
            raise UsageError(
                f"{variable} names {path}, which does not exist. Expected a file with trusted certificates; "
                "correct the variable, or unset it."
            )


def _connection_error(url: str, error: Exception) -> FetchError:
    cause = _root(error)
    proxy = _proxy(url)
    via = f" (through the proxy {proxy})" if proxy else ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FetchError(
            f"its certificate is refused: {cause.verify_message}{via}. If your network's proxy inspects TLS, "
            "name a file with its certificate in SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
        )
    # Only the cause, because messages of requests quote the URL, which may contain a key.
    reason = disk.reason(cause) if isinstance(cause, OSError) else str(cause) or type(cause).__name__
    return FetchError(f"cannot be reached: {reason}{via}", again=True)


def _root(error: BaseException) -> BaseException:
    """The innermost error, of the system or OpenSSL, inside those of requests and urllib3."""
    inner = error.__cause__ or error.__context__
    return error if inner is None else _root(inner)


def _proxy(url: str) -> str | None:
    """The environment's proxy for `url`, without user name and password."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy and printable_url(proxy if "://" in proxy else f"http://{proxy}")
