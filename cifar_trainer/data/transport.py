"""One request for a file over HTTP: what a part lacks is asked for, checked and appended.

requests and urllib3 carry it; here stand the limits, and what each failure means in words.
"""

import dataclasses
import json
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import requests.adapters
import urllib3
from requests.utils import get_environ_proxies, select_proxy

from cifar_trainer import __version__
from cifar_trainer.data import disk
from cifar_trainer.data.archives import is_html
from cifar_trainer.data.dataset import Archive

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


PATIENCE = Patience()


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


def printable_url(url: str) -> str:
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
    least_speed: int,
    on_bytes: Callable[[int, int | None], None],
) -> None:
    """Ask `url` for what `part` lacks of `archive`, and append it.

    Args:
        url: an http or https address.
        part: goes on at its end, or begins again where the server gives another version.
        archive: its size, where known, is the most that is accepted.
        least_speed: bytes a second, over `PATIENCE.window`.
        on_bytes: told how many bytes are there, and of how many.

    Raises:
        FetchError: the file is not whole. What did arrive is kept, if it may be of use.
        OSError: it could not be written.
    """
    with _Session() as session, _open(session, url, part, archive) as response:
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
        have = _append(response, part, start, archive.size or MAX_BYTES, least_speed, total, on_bytes)
    expected = archive.size or end
    if expected is not None and have < expected:
        raise FetchError(f"the connection was cut after {have:,} of {expected:,} bytes", again=True)


class _Retry(urllib3.Retry):
    """Asks again where a connection fails or a server is busy, as often and as long as PATIENCE allows."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        answer = f"answered {response.status} {response.reason}"
        try:
            seconds = super().get_retry_after(response)
        except urllib3.exceptions.InvalidHeader:
            raise FetchError(answer) from None
        if seconds is not None and seconds > PATIENCE.longest_wait:
            raise FetchError(f"{answer}, and asks to wait for {seconds:,.0f} seconds")
        return seconds


class _Adapter(requests.adapters.HTTPAdapter):
    """Trusts the system's certificates beside those that requests trusts."""

    def __init__(self) -> None:
        # SSL_CERT_FILE and SSL_CERT_DIR count here, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE in requests itself.
        self._context = ssl.create_default_context()
        super().__init__(
            max_retries=_Retry(
                total=PATIENCE.attempts - 1,
                other=0,
                status_forcelist=(408, 500, 502, 504),
                backoff_factor=PATIENCE.pause,
                raise_on_status=False,
            )
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)


class _Session(requests.Session):
    """Follows a few redirects, but never from HTTPS to an address that anybody may read and change."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 5
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
        # identity: a server must not pack or unpack what is packed already.
        self.headers.update({"User-Agent": f"cifar-trainer/{__version__}", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        absolute = urllib.parse.urljoin(resp.url, target)
        if resp.url.startswith("https:") and not absolute.startswith("https:"):
            raise FetchError(f"redirects from HTTPS to {printable_url(absolute)}: refused")
        if not absolute.startswith(("http:", "https:")):
            # Nothing here checks what comes by another protocol.
            raise FetchError(f"answered {resp.status_code}, a redirect to {printable_url(absolute)}: refused")
        return target


def _open(session: _Session, url: str, part: Part, archive: Archive) -> requests.Response:
    headers = {}
    version = part.version(url)
    # Any mirror may go on with a part whose SHA-256 will tell in the end; without one, only its own version.
    if part.size and (archive.sha256 or version):
        headers["Range"] = f"bytes={part.size}-"
        if version:
            headers["If-Range"] = version
    try:
        response = session.get(url, headers=headers, stream=True, timeout=PATIENCE.seconds)
    except requests.TooManyRedirects as error:
        found = error.response
        answer = f"answered {found.status_code}" if found is not None else "redirects"
        raise FetchError(f"{answer}, more than {session.max_redirects} redirects") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _connection_error(url, error) from error
    if response.status_code not in (200, 206):
        raise _refusal(url, response, part)
    return response


def _start(url: str, response: requests.Response, part: Part, archive: Archive) -> int:
    """Where the body begins: at the end of the part, or at 0 where the server sends all of it."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise FetchError("sent an HTML page instead of the archive")
    if response.status_code != 206:
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
    response: requests.Response,
    part: Part,
    have: int,
    cap: int,
    least_speed: int,
    total: int | None,
    on_bytes: Callable[[int, int | None], None],
) -> int:
    """Append the body to the part; returns the bytes that are there then."""
    since, counted = time.monotonic(), 0
    with open(part.path, "ab") as file:
        while chunk := _read(response):
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
            if elapsed > PATIENCE.window:
                if counted / elapsed < least_speed:
                    raise FetchError(f"is too slow: {counted / elapsed:,.0f} bytes a second")
                since, counted = time.monotonic(), 0
    return have


def _read(response: requests.Response) -> bytes:
    try:
        chunk: bytes = response.raw.read1(_CHUNK, decode_content=False)
        return chunk
    except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
        raise FetchError(f"sent nothing for {PATIENCE.seconds:g} seconds", again=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        cause = _root(error)
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            # Whether that was the end is told by the sizes.
            return b""
        raise FetchError(f"the connection broke: {_in_words(cause)}", again=True) from error


def _refusal(url: str, response: requests.Response, part: Part) -> FetchError:
    """What an answer other than 200 and 206 means for the download."""
    answer = f"answered {response.status_code} {response.reason}".strip()
    if response.status_code == 407:
        return FetchError(f"the proxy {_proxy(url)} {answer}: it asks for a name and a password")
    if response.status_code == 416:
        # The server has no more than the part, and had that been the whole, its hash would have told.
        part.discard()
        return FetchError(answer, again=True, wait=0)
    return FetchError(answer)


#: What OpenSSL calls a certificate that has expired, or is another host's: no other authority would help.
_EXPIRED, _OTHER_HOST = 10, 62


def _connection_error(url: str, error: Exception) -> FetchError:
    cause = _root(error)
    proxy = _proxy(url)
    via = f" (through the proxy {proxy})" if proxy else ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        help_ = (
            ""
            if cause.verify_code in (_EXPIRED, _OTHER_HOST)
            else ". Where your network's proxy inspects TLS, name a file with its certificate in "
            "SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
        )
        return FetchError(f"its certificate is refused: {cause.verify_message}{via}{help_}")
    if "407" in str(cause):
        return FetchError(f"the proxy {proxy} answered 407: it asks for a name and a password")
    if isinstance(cause, TimeoutError | requests.Timeout):
        return FetchError(f"did not answer within {PATIENCE.seconds:g} seconds{via}")
    return FetchError(f"cannot be reached: {_in_words(cause)}{via}")


def _root(error: BaseException) -> BaseException:
    """The error of the system or of OpenSSL that requests and urllib3 have wrapped."""
    inner = error.__cause__ or error.__context__
    return error if inner is None else _root(inner)


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return disk.reason(error)
    return str(error) or type(error).__name__


def _proxy(url: str) -> str | None:
    """The proxy that the environment sets for `url`, without its user's name and password."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy is None:
        return None
    return printable_url(proxy if "://" in proxy else f"http://{proxy}")
