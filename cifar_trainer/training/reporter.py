"""Progress reporters for training. Does not import TensorFlow."""

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
    """Receives the progress of a run. This base class ignores it.

    Methods must not raise if there is no terminal.

    Attributes:
        prepare: receives the progress of preparing the data.
    """

    prepare = PrepareReporter()

    def note(self, text: str) -> None:
        """An informational message."""

    def warn(self, text: str) -> None:
        """A warning that does not end the run."""

    def run_started(self, run: Run, config: Settings, title: str, device: Device) -> None:
        """This process has locked the run and is about to train on the data set called `title`."""

    def epoch_started(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """Epoch `epoch` (1-based) of `epochs` starts, or resumes after `step` of `steps` steps."""

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        """`step` steps of this epoch are done.

        Loss, accuracy and speed are those of the epoch so far; the time left is that of the whole run.
        """

    def phase(self, what: str) -> None:
        """A phase after the epoch's steps has started, such as `validating` or `saving`."""

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        """An epoch is complete; `row` is its row in the history."""


class PrintReporter(TrainingReporter):
    """Prints notes, warnings and a line per epoch: the default for Python callers.

    Prints to stderr; in a notebook to stdout, because notebooks highlight stderr as an error.
    """

    def __init__(self) -> None:
        self.prepare = PrepareReporter(note=self.note, warn=self.warn)

    def note(self, text: str) -> None:
        print(text, file=sys.stdout if hasattr(builtins, "__IPYTHON__") else sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.note(f"Warning: {text}")

    def run_started(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self.note(f"{config.recipe} on {title}, on {device.description}\nrun: {run.path}")

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self.note(format_epoch(row, epochs))


class SeedReporter(TrainingReporter):
    """Forwards the progress of one of several stacked runs, labelled with its seed.

    Args:
        reporter: receives the progress.
        seed: the run's seed.
        leads: whether the live progress bar shows this run.
    """

    def __init__(self, reporter: TrainingReporter, seed: int, *, leads: bool) -> None:
        self._reporter, self._seed = reporter, seed
        self.prepare = reporter.prepare
        if leads:
            for method in ("epoch_started", "progress", "phase"):
                setattr(self, method, getattr(reporter, method))

    def note(self, text: str) -> None:
        self._reporter.note(f"seed {self._seed}: {text}")

    def warn(self, text: str) -> None:
        self._reporter.warn(f"seed {self._seed}: {text}")

    def run_started(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._reporter.run_started(run, config, title, device)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._reporter.epoch_ended({**row, "seed": self._seed}, epochs)
