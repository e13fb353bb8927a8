"""A local HTTP server that misbehaves in whatever way a path asks for.

`/BEHAVIOUR` gives the server's content, or what the method BEHAVIOUR makes of it.
"""

import contextlib
import http.server
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

ETAG = '"version-1"'


class BadServer(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        url: the address to put before a behaviour.
        seen: for each request its path, Range and If-Range.
        content: what is served.
    """

    daemon_threads = True

    def __init__(self, content: bytes, scheme: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.url = f"{scheme}://localhost:{self.server_port}"
        self.seen: list[tuple[str, str | None, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""


@contextlib.contextmanager
def serve(content: bytes = b"", certificate: tuple[Path, Path] | None = None) -> Iterator[BadServer]:
    """Serve until the block ends; with a certificate and its key, by HTTPS."""
    server = BadServer(content, "https" if certificate else "http")
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: BadServer

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Range"], self.headers["If-Range"]))
        self.content = self.server.content
        # A proxy is asked for whole addresses.
        self.path = re.sub(r"^http://[^/]+", "", self.path)
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        self.start = int(found[1]) if found else 0
        self.first_time = sum(path == self.path for path, *_ in self.server.seen) == 1
        getattr(self, self.path.strip("/").split("/")[0].replace("-", "_"))()

    def answer(self, body: bytes, status: int | None = None, **headers: object) -> None:
        """Send a body; Content-Length is its length unless said otherwise, or None for none at all."""
        self.send_response(status or (206 if self.start else 200))
        total = len(self.content)
        given = {"Content-Length": len(body), "ETag": ETAG}
        if self.start:
            given["Content-Range"] = f"bytes {self.start}-{total - 1}/{total}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in given.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def whole(self) -> None:
        self.answer(self.content[self.start :])

    def no_range(self) -> None:
        self.start = 0
        self.whole()

    def cut_once(self) -> None:
        """The connection ends half way, the first time."""
        rest = self.content[self.start :]
        self.answer(rest[: len(rest) // 2] if self.first_time else rest, Content_Length=len(rest))

    def cut_always(self) -> None:
        rest = self.content[self.start :]
        self.answer(rest[:7], Content_Length=len(rest))

    def wrong(self) -> None:
        self.answer(bytes(byte ^ 1 for byte in self.content[self.start :]))

    def html(self) -> None:
        self.answer(b"<html>Please log in to the network</html>", 200, Content_Type="text/html")

    def html_in_disguise(self) -> None:
        self.answer(b"\n<!DOCTYPE html><html></html>", 200, Content_Type="application/gzip")

    def status(self) -> None:
        """/status/404, or /status/503/7 with a Retry-After of 7."""
        _, _, code, *wait = urllib.parse.unquote(self.path).split("/")
        self.answer(b"no", int(code), **({"Retry-After": wait[0]} if wait else {}))

    def busy_once(self) -> None:
        if self.first_time:
            self.answer(b"later", 429, Retry_After=0)
        else:
            self.whole()

    def stall(self) -> None:
        rest = self.content[self.start :]
        self.answer(rest[:5], Content_Length=len(rest))
        time.sleep(60)

    def hang(self) -> None:
        self.answer(self.content[:5], 200, Content_Length=len(self.content))
        self.wfile.flush()
        time.sleep(120)

    def trickle(self) -> None:
        self.answer(b"", 200, Content_Length=len(self.content))
        for byte in self.content[:12]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def another_range(self) -> None:
        if self.start:
            self.answer(self.content, Content_Range=f"bytes 0-{len(self.content) - 1}/{len(self.content)}")
        else:
            self.whole()

    def another_version(self) -> None:
        """The connection ends half way, and by then the file has changed."""
        if self.start:
            self.answer(self.content[self.start :], ETag='"version-2"')
        else:
            self.cut_once()

    def unsatisfiable(self) -> None:
        if self.start:
            self.answer(b"", 416, Content_Range=f"bytes */{len(self.content)}")
        else:
            self.whole()

    def no_length(self) -> None:
        self.answer(self.content[self.start :], Content_Length=None)

    def too_much(self) -> None:
        self.answer(self.content + b"more", Content_Length=None)

    def says_too_little(self) -> None:
        """Declares less than it has, the first time; a client reads no more than that."""
        rest = self.content[self.start :]
        self.answer(rest, Content_Length=len(rest) - 1000 * self.first_time)

    def says_terabytes(self) -> None:
        self.answer(self.content[self.start :][:9], Content_Length=1 << 40)

    def to(self) -> None:
        """/to/ADDRESS redirects there."""
        self.answer(b"", 302, Location=self.path.removeprefix("/to/"))

    def log_message(self, *_: object) -> None:
        """Quiet."""
