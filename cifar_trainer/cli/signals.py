"""Stop requests by signal: the first asks to finish the step and save, the second stops at once."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

#: What a terminal, a scheduler and a closed session send.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """The first signal that was received, or None."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Record the first signal in `request` and let the process run; end it at once at the second.

    A checkpoint gets its name only when it is complete, so nothing saved is lost. Signals that the caller
    ignores (nohup) stay ignored.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if request.received is not None:
            _show_cursor()
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


def _show_cursor() -> None:
    # A live bar hides the cursor, and os._exit skips the code that shows it again.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if os.isatty(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), _SHOW_CURSOR)
