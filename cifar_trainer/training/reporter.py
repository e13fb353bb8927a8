"""Reporters of a training run. Imports no TensorFlow."""

import builtins
import sys
from collections.abc import Mapping
from typing import Any

from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.devices import Device
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training.history import format_epoch


class TrainingReporter:
    """Receives what happens while a run trains; the methods of this class do nothing.

    Methods must not raise if there is no terminal.

    Attributes:
        prepare: receives what happens while the data are prepared.
    """

    prepare = PrepareReporter()

    def note(self, text: str) -> None:
        """A note in passing."""

    def warn(self, text: str) -> None:
        """A warning that does not end the run."""

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        """This process holds the run, whose data set is called `title`; training starts in a moment."""

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """Epoch `epoch` (1-based) of `epochs` starts, or resumes after `step` of `steps` steps."""

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        """`step` steps of this epoch are done.

        Loss, accuracy and speed are the epoch's so far; the time left is the whole run's, at that speed.
        """

    def phase(self, what: str) -> None:
        """The epoch's steps are done; it is, for example, `validating` or `saving`."""

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        """An epoch is complete; `row` is its row of the history."""


class PrintReporter(TrainingReporter):
    """Prints notes, warnings and a line an epoch: the default for Python callers.

    To stderr; in a notebook to stdout, since notebooks show stderr as if it were an error.
    """

    def __init__(self) -> None:
        self.prepare = PrepareReporter(note=self.note, warn=self.warn)

    def note(self, text: str) -> None:
        print(text, file=sys.stdout if hasattr(builtins, "__IPYTHON__") else sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.note(f"Warning: {text}")

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self.note(f"{config.recipe} on {title}, on {device.description}\nrun: {run.path}")

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self.note(format_epoch(row, epochs))


class SeedReporter(TrainingReporter):
    """Forwards what happens in one of several stacked runs, with its seed.

    Args:
        reporter: receives it.
        seed: of the run.
        leads: whether a live bar shows this run.
    """

    def __init__(self, reporter: TrainingReporter, seed: int, *, leads: bool) -> None:
        self._reporter, self._seed, self._leads = reporter, seed, leads
        self.prepare = reporter.prepare

    def note(self, text: str) -> None:
        self._reporter.note(f"seed {self._seed}: {text}")

    def warn(self, text: str) -> None:
        self._reporter.warn(f"seed {self._seed}: {text}")

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._reporter.begun(run, config, title, device)

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if self._leads:
            self._reporter.epoch_begun(epoch, epochs, step, steps)

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        if self._leads:
            self._reporter.progress(step, loss, accuracy, images_per_second, seconds_left)

    def phase(self, what: str) -> None:
        if self._leads:
            self._reporter.phase(what)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._reporter.epoch_ended({**row, "seed": self._seed}, epochs)
