"""How a run looks while it trains."""

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cifar_trainer.cli.console import Output
from cifar_trainer.cli.signals import StopRequest, stop_on_signals
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.devices import Device
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training.control import TrainingReporter
from cifar_trainer.training.history import format_epoch

#: What drawing on a terminal that is gone raises.
_UNSEEN = contextlib.suppress(OSError, ValueError)


class TrainingDisplay(TrainingReporter):
    """Shows what happens on stderr: a live bar on a terminal, a plain line an epoch elsewhere.

    From the moment at which a run has begun, the first signal asks it to stop; what comes before, such
    as a download, is ended at once.
    """

    def __init__(self, output: Output, prepare: PrepareReporter, stop: StopRequest) -> None:
        self._output, self.prepare, self._stop = output, prepare, stop
        self._handlers = contextlib.ExitStack()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        self._output.note(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._handlers.close()

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._handlers.enter_context(stop_on_signals(self._stop))
        self.note(
            f"{config.recipe} on {title}, {config.epochs} epochs, batch {config.batch_size}, "
            f"seed {config.seed}, {config.precision}, on {device.description}\nrun: {run.path}"
        )

    # A terminal that goes away while a run trains must not take the run with it:
    # what is drawn may be lost, what is written to the run's folder is not.

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if not self._output.live:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            console=self._output.notes,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=steps, completed=step, epoch=f"{epoch}/{epochs}", figures="starting"
        )
        with _UNSEEN:
            self._bar.start()

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        if self._bar is not None:
            # All of it fits into 80 columns, where the bar itself is left out.
            left = str(datetime.timedelta(seconds=round(seconds_left))).removeprefix("0:")
            figures = f"loss {loss:.4f} accuracy {accuracy:.2%} {images_per_second:,.0f} images/s {left} left"
            with _UNSEEN:
                self._bar.update(self._task, completed=step, figures=figures)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self.close()
        self._output.note(format_epoch(row, epochs))

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            with _UNSEEN:
                self._bar.stop()
            self._bar = None
