"""Progress displays of `prepare` and `train`."""

import contextlib
import datetime
import signal
from collections.abc import Mapping
from typing import Any, NoReturn, Self

import click
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cifar_trainer.cli.console import IGNORE_CLOSED_TERMINAL, Output
from cifar_trainer.cli.signals import StopRequest, stop_on_signals
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.devices import Device
from cifar_trainer.errors import counted, printable
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training.history import format_epoch
from cifar_trainer.training.reporter import TrainingReporter

#: Bytes between two lines of a download's progress, without a live terminal.
_LINE_BYTES = 20_000_000
#: The epoch, losses and accuracies, shown even on a narrow terminal.
_MIN_FIGURES = 5


class PrepareDisplay:
    """Shows one progress bar at a time: first the download, then the images.

    Attributes:
        reporter: the reporter to pass to `prepare`.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stack = contextlib.ExitStack()
        self._bar: tuple[str, Progress, TaskID] | None = None
        self._said = 0
        self.reporter = PrepareReporter(output.note, output.warn, self._on_download, self._on_images)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the screen."""
        self._stack.close()
        self._bar = None

    def _on_download(self, done: int, total: int | None, host: str) -> None:
        self._show(f"from {host}", done, total, download=True)
        if not self._output.live and (done - self._said >= _LINE_BYTES or done == total):
            self._said = done
            self._output.note(f"{done:,} of {total:,} bytes" if total else f"{done:,} bytes")

    def _on_images(self, done: int, total: int) -> None:
        self._show("reading images", done, total, download=False)

    def _show(self, title: str, done: int, total: int | None, *, download: bool) -> None:
        if self._bar is None or self._bar[0] != title:
            self.close()
            bar = self._output.download_bar() if download else self._output.count_bar()
            progress = self._stack.enter_context(bar)
            self._bar = (title, progress, progress.add_task(printable(title), total=total))
        _, progress, task = self._bar
        progress.update(task, completed=done, total=total)


class StoppableDisplay:
    """Base class: a display of work that a signal can stop.

    Before `handle_signals`, for example during a download, a signal ends the process at once. After it, the
    first signal only makes `should_stop` true.

    Attributes:
        prepare: the reporter to pass to `prepare`.
    """

    def __init__(self, output: Output) -> None:
        self._output, self._stop = output, StopRequest()
        self._handlers = contextlib.ExitStack()
        self.prepare = self._handlers.enter_context(PrepareDisplay(output)).reporter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._handlers.close()

    def close(self) -> None:
        """Remove live output from the screen."""

    def note(self, text: str) -> None:
        self._output.note(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def handle_signals(self) -> None:
        """From now on, treat a signal as a request to stop."""
        self._handlers.enter_context(stop_on_signals(self._stop))

    def should_stop(self) -> bool:
        """Whether a signal has requested a stop."""
        return bool(self._stop)

    def exit_stopped(self, how_to_resume: str) -> NoReturn:
        """Print how to resume the work, and exit with the signal's exit code."""
        self.close()
        self._output.note(f"Stopped and saved. {how_to_resume}", wrap=False)
        # In a cluster, another process may have received the signal.
        raise click.exceptions.Exit(128 + int(self._stop.received or signal.SIGTERM))


class TrainingDisplay(StoppableDisplay, TrainingReporter):
    """Shows a run on stderr: a live bar on a terminal, otherwise one line per epoch."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._steps = 0

    def run_started(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self.handle_signals()
        self.note(
            f"{config.recipe} on {title}, {counted(config.epochs, 'epoch')}, batch {config.batch_size}, "
            f"seed {config.seed}, {config.precision}, on {device.description}\nrun: {run.path}"
        )

    def epoch_started(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if not self._output.live:
            return
        self._steps = steps
        title = f"epoch {epoch}/{epochs}"
        # A fixed width, so that the bar does not jump when the text beside it changes.
        width = 20 if self._output.notes.width >= 100 else 10
        self._room = self._output.notes.width - len(title) - width - 2
        columns = (TextColumn(title), BarColumn(bar_width=width), TextColumn("{task.fields[figures]}"))
        self._bar = self._output.bar(*columns)
        self._task = self._bar.add_task("", total=steps, completed=step, figures="starting"[: self._room])
        with IGNORE_CLOSED_TERMINAL:
            self._bar.start()

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        left = str(datetime.timedelta(seconds=round(seconds_left))).removeprefix("0:")
        figures = {
            "step": f"step {step}/{self._steps}",
            "loss": f"loss {loss:.4f}",
            "accuracy": f"accuracy {accuracy:.2%}",
            "speed": f"{images_per_second:,.0f} images/s",
            "left": f"{left} left",
        }
        self._update(_fitting(figures, self._room if self._bar is not None else 0), step)

    def phase(self, what: str) -> None:
        self._update(what[: self._room] if self._bar is not None else what)

    def _update(self, figures: str, step: int | None = None) -> None:
        if self._bar is not None:
            with IGNORE_CLOSED_TERMINAL:
                # Drawn now: the next periodic refresh may come after the epoch's end.
                self._bar.update(self._task, completed=step, figures=figures, refresh=True)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self.close()
        figures = format_epoch(row, epochs).split("  ")
        if self._output.live:
            # The least important figures, such as the duration, come last.
            while len("  ".join(figures)) > self._output.notes.width and len(figures) > _MIN_FIGURES:
                figures.pop()
        self._output.note("  ".join(figures))

    def close(self) -> None:
        if self._bar is not None:
            with IGNORE_CLOSED_TERMINAL:
                self._bar.stop()
            self._bar = None


def _fitting(figures: dict[str, str], room: int) -> str:
    """Join the figures, dropping the least important ones until the text fits into `room` columns."""
    for dropped in ("", "speed", "accuracy", "left", "loss"):
        figures.pop(dropped, None)
        text = " ".join(figures.values())
        if len(text) <= room:
            return text
    return ""
