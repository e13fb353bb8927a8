"""What a person sees while data is prepared: a bar on a terminal, a few plain lines elsewhere."""

import contextlib
from collections.abc import Iterator

from rich.progress import Progress, TaskID

from cifar_trainer.cli.base import printable
from cifar_trainer.console import Output
from cifar_trainer.data import Reporter

#: Without a terminal, a line of a download's progress for each so many bytes.
_LINE_BYTES = 20_000_000


@contextlib.contextmanager
def reporting(output: Output) -> Iterator[Reporter]:
    """A reporter that shows on `output` what `prepare` says."""
    display = _Display(output)
    try:
        yield Reporter(
            note=lambda text: output.note(printable(text)),
            warn=lambda text: output.warn(printable(text)),
            on_download=display.on_download,
            on_images=display.on_images,
        )
    finally:
        display.close()


class _Display:
    """One bar at a time: that of the download, then that of the images."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stack = contextlib.ExitStack()
        self._bar: tuple[str, Progress, TaskID] | None = None
        self._said = 0

    def on_download(self, done: int, total: int | None, host: str) -> None:
        self._show(f"from {host}", done, total, download=True)
        if not self._output.live and (done - self._said >= _LINE_BYTES or done == total):
            self._said = done
            self._output.note(f"{done:,} of {total:,} bytes" if total else f"{done:,} bytes")

    def on_images(self, done: int, total: int) -> None:
        self._show("reading images", done, total, download=False)

    def _show(self, title: str, done: int, total: int | None, *, download: bool) -> None:
        if self._bar is None or self._bar[0] != title:
            self.close()
            bar = self._output.download_bar() if download else self._output.count_bar()
            progress = self._stack.enter_context(bar)
            self._bar = (title, progress, progress.add_task(printable(title), total=total))
        _, progress, task = self._bar
        progress.update(task, completed=done, total=total)

    def close(self) -> None:
        self._stack.close()
        self._bar = None
