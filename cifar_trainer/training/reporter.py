"""How training tells what happens; whoever calls it decides what a person sees."""

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Told by the training loop. None of these may raise for want of a terminal."""

    def note(self, text: str) -> None:
        """Something in passing."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that does not end the run."""

    def epoch_begun(self, epoch: int, epochs: int, done: int, images: int) -> None:
        """Epoch `epoch` (1-based) of `epochs` begins, or goes on after `done` of `images` images."""

    def progress(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """`done` images of this epoch are done; loss and accuracy are the epoch's so far."""

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        """An epoch is complete; `row` is its row of the history."""
