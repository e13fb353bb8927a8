"""Downloads: resumable, checked against a size and a SHA-256, from one mirror after another."""

import dataclasses
import email.utils
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path
from typing import IO

import certifi

from cifar_trainer import __version__, files
from cifar_trainer.data import disk
from cifar_trainer.data.archives import is_html
from cifar_trainer.data.cifar10 import ENVIRONMENT_VARIABLE, Archive
from cifar_trainer.errors import DataError, DataNotFoundError


def _ignore(*_: object) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class PrepareReporter:
    """Where `prepare` reports; every callback may be left out.

    Attributes:
        note: something in passing, a sentence.
        warn: something that the user should know.
        on_download: bytes that are there, bytes in all (None where unknown), host.
        on_images: images read, images in all.
    """

    note: Callable[[str], None] = _ignore
    warn: Callable[[str], None] = _ignore
    on_download: Callable[[int, int | None, str], None] = _ignore
    on_images: Callable[[int, int], None] = _ignore


#: More than any data set of this shape; the cap where the size is not known.
MAX_BYTES = 1 << 30
_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask again.

    Attributes:
        seconds: without a byte, before the connection is given up.
        attempts: in a row that bring nothing new, before the mirror is given up.
        pause: seconds before the second attempt; twice as long before each further one.
        window: seconds over which the speed is measured.
        slow: bytes a second below which the next mirror is tried, where there is one.
        crawl: bytes a second below which even the last one counts as stalled.
        longest_wait: seconds of Retry-After that are still obeyed.
    """

    seconds: float = 20
    attempts: int = 3
    pause: float = 1
    window: float = 20
    slow: int = 100_000
    crawl: int = 1_000
    longest_wait: float = 30


class FetchError(Exception):
    """Why a request brought no whole file.

    Attributes:
        again: whether the same server may do better.
        wait: seconds that it asked to wait.
    """

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a file that has been fetched, and a note of which server's version it is."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, url: str) -> str | None:
        """The strong ETag under which `url` gave this part, if it was this address."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            etag = note["etag"] if note["url"] == url else None
            return etag if isinstance(etag, str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, etag: str | None) -> None:
        """Empty the part, and note which version it will be."""
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps({"url": url, "etag": etag}), encoding="utf-8")

    def discard(self) -> None:
        """Delete the part."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def move(self, target: Path) -> None:
        """Give the part its final name."""
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")


def shown(url: str) -> str:
    """An address for messages and records: without a password, and without a query that may hold a key."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def fetch(
    url: str,
    part: Part,
    archive: Archive,
    patience: Patience,
    least_speed: int,
    on_bytes: Callable[[int, int | None], None],
) -> None:
    """Ask `url` for what `part` lacks of `archive`, and append it.

    Args:
        url: an http or https address.
        part: goes on at its end, or begins anew where the server gives another version.
        archive: its size, where known, is the most that is accepted.
        patience: time-outs.
        least_speed: bytes a second, over `patience.window`.
        on_bytes: told how many bytes are there, and of how many.

    Raises:
        FetchError: the file is not whole. What did arrive is kept, if it may be of use.
        OSError: it could not be written.
    """
    with _open(url, part, archive, patience) as response:
        start = _start(url, response, part, archive)
        declared = response.headers.get("Content-Length", "")
        # More digits than any size has say nothing.
        end = start + int(declared) if declared.isdecimal() and len(declared) < 19 else None
        total = archive.size or end
        if total is not None and total > MAX_BYTES:
            raise FetchError(f"declares {total:,} bytes, expected at most {MAX_BYTES:,}")
        if start == 0:
            etag = response.headers.get("ETag")
            part.begin(url, etag if etag and not etag.startswith("W/") else None)
        if total is not None:
            disk.check_room(part.path.parent, total - start)
        have = _append(
            response, part, start, archive.size or MAX_BYTES, patience, least_speed, total, on_bytes
        )
    expected = archive.size or end
    if expected is not None and have < expected:
        raise FetchError(f"the connection was cut after {have:,} of {expected:,} bytes", again=True)


def _open(url: str, part: Part, archive: Archive, patience: Patience) -> http.client.HTTPResponse:
    # identity: a server must not pack or unpack what is packed already.
    headers = {"User-Agent": f"cifar-trainer/{__version__}", "Accept-Encoding": "identity"}
    version = part.version(url)
    # Any mirror may go on with a part whose SHA-256 will tell in the end; without one, only its own version.
    if part.size and (archive.sha256 or version):
        headers["Range"] = f"bytes={part.size}-"
        if version:
            headers["If-Range"] = version
    try:
        request = urllib.request.Request(url, headers=headers)
        opener = urllib.request.build_opener(
            _SafeRedirects, urllib.request.HTTPSHandler(context=_trusted_certificates())
        )
        response: http.client.HTTPResponse = opener.open(request, timeout=patience.seconds)
        return response
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error, part, patience) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _connection_error(url, error, patience) from error


def _start(url: str, response: http.client.HTTPResponse, part: Part, archive: Archive) -> int:
    """Where the body begins: at the end of the part, or at 0 where the server sends all of it."""
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FetchError("sent an HTML page instead of the archive")
    if response.status != 206:
        return 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    version, etag = part.version(url), response.headers.get("ETag")
    right_range = found is not None and int(found[1]) == part.size
    right_size = found is not None and (archive.size is None or found[2] in ("*", str(archive.size)))
    right_version = version is None or etag is None or etag == version
    if not (right_range and right_size and right_version):
        part.discard()
        raise FetchError("answered with another range or version than was asked for", again=True, wait=0)
    return part.size


def _append(
    response: http.client.HTTPResponse,
    part: Part,
    have: int,
    cap: int,
    patience: Patience,
    least_speed: int,
    total: int | None,
    on_bytes: Callable[[int, int | None], None],
) -> int:
    """Append the body to the part; returns the bytes that are there then."""
    since, counted = time.monotonic(), 0
    with open(part.path, "ab") as file:
        while chunk := _read(response, patience):
            if have == 0 and is_html(chunk):
                part.discard()
                raise FetchError("sent an HTML page instead of the archive")
            if have + len(chunk) > cap:
                part.discard()
                raise FetchError(f"sent more than the {cap:,} bytes that were expected")
            file.write(chunk)
            have += len(chunk)
            counted += len(chunk)
            on_bytes(have, total)
            elapsed = time.monotonic() - since
            if elapsed > patience.window:
                if counted / elapsed < least_speed:
                    raise FetchError(f"is too slow: {counted / elapsed:,.0f} bytes a second")
                since, counted = time.monotonic(), 0
    return have


def _read(response: http.client.HTTPResponse, patience: Patience) -> bytes:
    try:
        return response.read1(_CHUNK)
    except TimeoutError as error:
        raise FetchError(f"sent nothing for {patience.seconds:g} seconds", again=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"the connection broke: {_in_words(error)}", again=True) from error


def _refusal(url: str, error: urllib.error.HTTPError, part: Part, patience: Patience) -> FetchError:
    """What an answer of 3xx to 5xx means for the download."""
    answer = f"answered {error.code} {error.reason}".strip()
    if error.code == 407:
        return FetchError(f"the proxy {_proxy(url)} {answer}: it asks for a name and a password")
    if error.code == 416:
        # The server has no more than the part, and had that been the whole, its hash would have told.
        part.discard()
        return FetchError(answer, again=True, wait=0)
    if error.code in (429, 503):
        wait = _retry_after(error.headers)
        if wait is not None and wait > patience.longest_wait:
            return FetchError(f"{answer}, and asks to wait for {wait:,.0f} seconds")
        return FetchError(answer, again=wait is not None, wait=wait)
    return FetchError(answer, again=error.code in (408, 500, 502, 504))


def _retry_after(headers: Message) -> float | None:
    value = str(headers.get("Retry-After", "")).strip()
    if value.isdecimal() and len(value) < 19:
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _connection_error(url: str, error: Exception, patience: Patience) -> FetchError:
    if isinstance(error, FetchError):
        return error
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    through = _proxy(url)
    via = f" (through the proxy {through})" if through else ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FetchError(f"its certificate is refused: {cause.verify_message}{via}")
    if isinstance(cause, TimeoutError):
        return FetchError(f"did not answer within {patience.seconds:g} seconds{via}", again=True)
    return FetchError(f"cannot be reached: {_in_words(cause)}{via}", again=isinstance(cause, ConnectionError))


def _in_words(error: object) -> str:
    if isinstance(error, OSError):
        return disk.reason(error)
    return str(error) or type(error).__name__


def _proxy(url: str) -> str | None:
    """The proxy that the environment sets for `url`, without its user's name and password."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return shown(proxy if "://" in proxy else f"http://{proxy}")


def _trusted_certificates() -> ssl.SSLContext:
    """The system's certificates and Mozilla's, for a Python that came without any."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    return context


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, but never from HTTPS to an address that anybody may read and change."""

    max_redirections = 5

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise FetchError(f"redirects from HTTPS to {shown(newurl)}: refused")
        # urllib would follow to FTP as well; nothing here checks what comes that way.
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise FetchError(f"answered {code}, a redirect to {shown(newurl)}: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


PATIENCE = Patience()

#: An attempt that brought one part in so many was not in vain: the count of attempts begins again.
_PROGRESS = 100

WAYS_OUT = (
    "Prepare it from a copy that you have, or from another address: cifar-trainer prepare --source PATH|URL; "
    f"or name other mirrors in {ENVIRONMENT_VARIABLE}; or use drawn pictures instead: --dataset synthetic."
)


def download(archive: Archive, urls: Sequence[str], folder: Path, reporter: PrepareReporter) -> Path:
    """Fetch `archive` into `folder`, from the first of `urls` that gives the right bytes.

    A part that an earlier call has left is gone on with. The file gets its name only
    when it is whole and, where its SHA-256 is known, right.

    Args:
        archive: what to fetch.
        urls: where from, in the order in which to try.
        folder: it is made where it is missing.
        reporter: told of progress, and of mirrors that failed.

    Returns:
        The file.

    Raises:
        DataNotFoundError: no address gave it; each is named with its reason.
        DataError: it could not be written.
    """
    target = folder / archive.name
    part = Part(folder / f"{archive.name}.part")
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, url in enumerate(urls, 1):
            try:
                least = PATIENCE.crawl if number == len(urls) else PATIENCE.slow
                _fetch_whole(url, part, archive, least, reporter)
                part.move(target)
                files.flush_folder(folder)
                return target
            except FetchError as error:
                failures.append(f"  {shown(url)}: {error}")
                if number < len(urls):
                    reporter.note(f"{shown(url)}: {error}. Trying the next mirror.")
    except OSError as error:
        raise disk.write_error(part.path, archive.size or part.size, error) from error
    raise DataNotFoundError(
        f"{archive.name} could not be downloaded:\n" + "\n".join(failures) + f"\n{WAYS_OUT}"
    )


def local_archive(archives: Sequence[Archive], folder: Path) -> Path | None:
    """The first of `archives` that lies whole in `folder`.

    Raises:
        DataError: one lies there under its name, but with other bytes.
    """
    for archive in archives:
        path = folder / archive.name
        if not path.exists():
            continue
        size, actual = path.stat().st_size, files.sha256_file(path)
        if actual != archive.sha256:
            raise DataError(
                f"{path} is not what its name says: it has {size:,} bytes and the SHA-256 {actual}, "
                f"expected {archive.size:,} bytes and {archive.sha256}. Remove it, and it is downloaded."
            )
        return path
    return None


def _fetch_whole(url: str, part: Part, archive: Archive, least_speed: int, reporter: PrepareReporter) -> None:
    """Ask `url` until the part is whole and right, as long as that may help.

    Raises:
        FetchError: it did not help.
    """
    host = shown(url).split("/")[2]
    if not _is_right(part, archive):
        amount = f" ({archive.size:,} bytes)" if archive.size else ""
        going_on = f", going on after {part.size:,}" if part.size else ""
        reporter.note(f"Downloading {archive.name}{amount} from {host}{going_on}.")
    attempt = 1
    while not _is_right(part, archive):
        before = part.size
        if archive.size is not None and before >= archive.size:
            _set_aside(part, archive)
        try:
            fetch(
                url, part, archive, PATIENCE, least_speed,
                lambda done, total: reporter.on_download(done, total, host),
            )  # fmt: skip
            if archive.sha256 is None:
                return
            if not _is_right(part, archive):
                # Wrong bytes may be those of an earlier mirror: then this one may give all of them.
                raise FetchError(_set_aside(part, archive), again=before > 0, wait=0)
        except FetchError as error:
            brought = part.size - before
            attempt = 1 if brought > (archive.size or MAX_BYTES) // _PROGRESS else attempt + 1
            if not error.again or attempt > PATIENCE.attempts:
                raise
            pause = PATIENCE.pause * 2 ** (attempt - 2) if error.wait is None else error.wait
            reporter.note(f"{host}: {error}. Asking again.")
            time.sleep(pause)


def _is_right(part: Part, archive: Archive) -> bool:
    """Whether the part is the whole archive; without a known SHA-256 there is no telling."""
    return archive.size == part.size and files.sha256_file(part.path) == archive.sha256


def _set_aside(part: Part, archive: Archive) -> str:
    """Give wrong bytes another name, so that the next attempt begins anew; returns what is wrong."""
    actual = files.sha256_file(part.path)
    aside = part.path.with_name(f"{archive.name}.wrong")
    part.move(aside)
    return f"gave the SHA-256 {actual}, expected {archive.sha256} (set aside as {aside})"
