"""Connections that cannot be held open for nothing, on top of uvicorn's HTTP/1.1 by httptools."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cifar_trainer.serving.settings import MIB, Limits

#: How long a connection without a request stays open once the server stops: a request may be under way.
DRAIN_SECONDS = 0.5


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with limits of a request's headers, in bytes and in time, and of connections.

    uvicorn itself waits forever for the end of a request's headers, and for the first request; and
    httptools keeps headers and trailers of any length.
    """
    #: Connections without a request, the one that has waited longest first.
    idle: dict[HttpToolsProtocol, None] = {}

    class LimitedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _draining = False
        _in_headers = False
        #: Of this request: the bytes of its line, headers and trailers; and all bytes, with what frames
        #: its chunks, but not those of the piece that it began in if the one before it ended there.
        _header_bytes = _request_bytes = 0
        _piece_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            idle[self] = None
            self._start_timer()
            if len(self.connections) > limits.connections:
                oldest = next(iter(idle))
                idle.pop(oldest)
                oldest.transport.abort()

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
            if self._request_bytes > allowed and not self.transport.is_closing():
                self.send_400_response("The request's headers, or its chunks, are too long.")
            self._note_state()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers = True
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
            # uvicorn would close at once what has no request, and lose one that is under way. What is
            # asked from here on is answered with `Connection: close` (see Guard).
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
                # A further request may have begun before the answer to this one.
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
