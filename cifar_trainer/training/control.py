"""What a caller has to do with a run while it trains: what it is told, and what it may ask for.

Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.devices import Device
from cifar_trainer.errors import UsageError
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings, check_seconds

if TYPE_CHECKING:
    import keras


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

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        """An epoch is complete; `row` is its row of the history."""


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Options:
    """What changes how a run is carried out, and nothing that it computes.

    Attributes:
        checkpoint_every: seconds between checkpoints inside an epoch.
        profile: write a trace of some steps for TensorBoard's profiler.
        histograms: write the weights and the gradient's norm for TensorBoard after each epoch.
        callbacks: Keras callbacks, called at epochs and at chunks of steps.
        should_stop: asked between chunks of steps whether to save and stop.
        time_limit: seconds of training, over all processes of the run, after which no epoch ends; the run is
            then finished. None sets no limit.
        end_after: epochs after which training ends, although the schedule is that of more; None trains all.
        side_by_side: runs that are trained in one program, this one included.

    Raises:
        UsageError: `checkpoint_every` or `time_limit` is not above 0.
    """

    checkpoint_every: float = 60.0
    profile: bool = False
    histograms: bool = False
    callbacks: "tuple[keras.callbacks.Callback, ...]" = ()
    should_stop: Callable[[], bool] = _never
    time_limit: float | None = None
    end_after: int | None = None
    side_by_side: int = 1

    def __post_init__(self) -> None:
        if not self.checkpoint_every > 0:
            raise UsageError(
                f"--checkpoint-every {self.checkpoint_every} is out of range. Expected seconds above 0."
            )
        if self.time_limit is not None:
            check_seconds("time-limit", self.time_limit)
