"""Connections that cannot be held open for nothing, on top of uvicorn's HTTP/1.1."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cifar_trainer.serving.settings import Limits

#: How long a connection without a request stays open once the server stops: a request may be under way.
DRAIN_SECONDS = 0.5


def protocol_with(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol with a time limit for headers, and a limit of connections.

    uvicorn itself waits forever for the end of a request's headers, and for the first request.
    """
    #: Connections without a request, the one that has waited longest first.
    idle: dict[H11Protocol, None] = {}

    class LimitedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _draining = False

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
            super().data_received(data)
            self._note_state()

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
                if self.conn.trailing_data[0] and self._timer is None:
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
