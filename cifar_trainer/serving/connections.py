"""Limits of connections, on top of uvicorn's HTTP/1.1 protocol."""

import asyncio
import collections
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cifar_trainer.serving.settings import MIB, Limits

#: Seconds that an idle connection stays open once the server stops: a request may be on its way.
DRAIN_SECONDS = 0.5
#: Bytes of a refused body that are read after its answer; the connection is closed if there are more.
_DISCARD_BYTES = 64 * MIB
#: Seconds before an upload can count as slow.
_UPLOAD_SECONDS = 1.0


def protocol_with(limits: Limits, is_stopping: Callable[[], bool]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with limits of connections and of headers.

    uvicorn waits forever for the first request and for the end of headers, httptools keeps headers and
    trailers of any length, and both send their errors as text.
    """
    #: Connections without a request, longest idle first.
    idle: collections.OrderedDict[Any, None] = collections.OrderedDict()

    class LimitedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _draining = False
        _in_headers = False
        _began = 0.0
        #: Bytes of this request's line, headers and trailers.
        _header_bytes = 0
        #: All bytes of this request, including chunk framing, except those that arrived together with the end
        #: of the previous request.
        _request_bytes = 0
        #: Bytes that arrived last; 0 if a request was being answered then.
        _piece_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections and not self._make_room():
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "All connections are in use. Try again later.")
                return
            idle[self] = None
            self._start_timer()
            if is_stopping():
                # uvicorn has called `shutdown` for the others already.
                self.shutdown()

        def _make_room(self) -> bool:
            """Close the longest idle connection, or else the slowest upload."""
            if idle:
                idle.popitem(last=False)[0].transport.abort()
                return True
            now = self.loop.time()
            opened: set[Any] = self.connections
            uploads = [each for each in opened if each is not self and each.upload_seconds(now)]
            if not uploads:
                return False
            slowest = min(uploads, key=lambda each: each._request_bytes / each.upload_seconds(now))
            slowest._refuse(HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly for a busy server.")
            return True

        def upload_seconds(self, now: float) -> float:
            """Seconds that this connection has been sending a body; 0 if it is not, or has just begun."""
            if not self._is_busy() or not self.cycle.more_body or self.transport.is_closing():
                return 0.0
            return now - self._began if now - self._began >= _UPLOAD_SECONDS else 0.0

        def send_400_response(self, msg: str) -> None:
            if self._header_bytes > limits.header_bytes:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"The request's line, headers and trailers have more than {limits.header_bytes:,} bytes.",
                )
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, msg)

        def _refuse(self, status: HTTPStatus, message: str) -> None:
            """Answer an error outside of ASGI, and close."""
            body = json.dumps({"error": message}).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            idle.pop(self, None)
            self._stop_timer()
            if not self.transport.is_closing():
                if not (self._is_busy() and self.cycle.response_started):
                    self.transport.write(head.encode("ascii") + body)
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            idle.pop(self, None)
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._is_busy() and self._timer is None:
                self._start_timer()
            self._piece_bytes = 0 if self._is_busy() else len(data)
            self._request_bytes += len(data)
            super().data_received(data)
            allowed = limits.header_bytes + (0 if self._in_headers else limits.body_bytes + MIB)
            if self._is_busy() and self.cycle.response_started:
                allowed += _DISCARD_BYTES
            if self._request_bytes > allowed and not self.transport.is_closing():
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers or chunks are too long."
                )
            self._note_state()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers = True
            self._began = self.loop.time()
            self._header_bytes, self._request_bytes = 0, self._piece_bytes

        def on_url(self, url: bytes) -> None:
            self._count_header(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count_header(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_headers = False
            super().on_headers_complete()

        def _count_header(self, count: int) -> None:
            self._header_bytes += count
            if self._header_bytes > limits.header_bytes:
                raise ValueError(f"headers of more than {limits.header_bytes} bytes")

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._note_state()

        def shutdown(self) -> None:
            # uvicorn would close an idle connection at once, and lose a request that is on its way. From now
            # on, answers say `Connection: close`.
            self._draining = True
            self._end_soon()

        def _is_busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _note_state(self) -> None:
            if self._is_busy():
                idle.pop(self, None)
                self._stop_timer()
            elif not self.transport.is_closing():
                idle[self] = None
                # The next request may have begun before the answer to this one.
                if self._in_headers and self._timer is None:
                    self._start_timer()
                if self._draining:
                    self._end_soon()

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _end_soon(self) -> None:
            self.loop.call_later(DRAIN_SECONDS, self._end_if_idle)

        def _end_if_idle(self) -> None:
            if not self._is_busy():
                super().shutdown()

    return LimitedProtocol
