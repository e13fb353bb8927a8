"""What a training run reports while it trains. Imports no TensorFlow."""

from collections.abc import Mapping
from typing import Any

from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.devices import Device
from cifar_trainer.run import Run
from cifar_trainer.settings import RuntimeOptions as Options
from cifar_trainer.settings import Settings

__all__ = ["Options", "TrainingReporter"]


class TrainingReporter:
    """Told what happens while a run trains; each method does nothing here.

    None of them may raise for want of a terminal.

    Attributes:
        prepare: told what happens while the data are prepared.
    """

    prepare = PrepareReporter()

    def note(self, text: str) -> None:
        """Something in passing."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that does not end the run."""

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        """The run is held by this process; its data are called `title`. It trains in a moment."""

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        """Epoch `epoch` (1-based) of `epochs` begins, or goes on after `step` of `steps` steps."""

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        """`step` steps of this epoch are done.

        Loss, accuracy and speed are the epoch's so far; the time left is the whole run's, at that speed.
        """

    def phase(self, what: str) -> None:
        """The epoch has trained its steps, and now e.g. validates or saves."""

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        """An epoch is complete; `row` is its row of the history."""
