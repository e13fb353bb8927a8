"""Stopping when asked: once to finish the step and save, twice to stop at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

#: What a terminal, a scheduler and a closed session send.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """The first signal that came, or None."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Note the first signal in `request` and leave the process running; the second ends it at once.

    A checkpoint has its name only when it is whole, so ending at once loses nothing
    that was saved. Signals that the caller had set to be ignored (nohup) stay ignored.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if request.received is not None:
            os._exit(128 + number)
        request.received = signal.Signals(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    watched = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in watched:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in watched:
            signal.signal(number, before[number])
