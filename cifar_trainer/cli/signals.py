"""Stop requests by signal: the first finishes the step and saves; the second exits at once."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

#: Sent by a terminal, by a scheduler, and when a session closes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """The first signal received; true once there is one."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Record the first signal in `request`; exit at once on the second.

    Exiting loses nothing that was saved: a checkpoint gets its name only when it is complete. Signals that
    the caller ignores (nohup) stay ignored.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if request.received is not None:
            _show_cursor()
            os._exit(128 + number)
        request.received = signal.Signals(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _show_cursor() -> None:
    # A live bar hides the cursor, and os._exit skips the code that shows it again.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if os.isatty(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), _SHOW_CURSOR)
