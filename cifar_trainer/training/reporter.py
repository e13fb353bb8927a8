"""How training tells what happens; whoever calls it decides what a person sees."""

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Told by the training loop. None of these may raise for want of a terminal."""

    def note(self, text: str) -> None:
        """Something in passing."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that does not end the run."""

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
