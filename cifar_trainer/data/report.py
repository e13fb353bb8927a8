"""What `prepare` says while it works, and what it hands back."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _ignore(*_: object) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Reporter:
    """Where `prepare` reports; every callback may be left out.

    Attributes:
        note: something in passing, a sentence.
        warn: something that the user should know.
        on_download: bytes that are there, bytes in all (None where unknown), host.
        on_images: images read, images in all.
    """

    note: Callable[[str], None] = _ignore
    warn: Callable[[str], None] = _ignore
    on_download: Callable[[int, int | None, str], None] = _ignore
    on_images: Callable[[int, int], None] = _ignore


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """A split in figures.

    Attributes:
        images: how many.
        per_class: how many of each class, by label.
        fingerprint: the content fingerprint, 64 hexadecimal digits.
        mean: of each channel (R, G, B), pixels scaled to 0..1.
        std: of each channel, over the whole split.
    """

    images: int
    per_class: tuple[int, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class PreparedReport:
    """What lies in a prepared folder.

    Attributes:
        dataset: its name, `cifar10` or `synthetic`.
        data_dir: the data folder as it was given; the files are in `folder`.
        folder: DATA_DIR/dataset.
        source: what it was made from.
        verified: both fingerprints are CIFAR-10's.
        title: what to call it.
        classes: the ten names, by label.
        already: it was there before, and nothing was done.
    """

    dataset: str
    data_dir: Path
    folder: Path
    source: str
    verified: bool
    title: str
    classes: tuple[str, ...]
    train: SplitSummary
    test: SplitSummary
    already: bool

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `prepare --json`."""
        return {
            "dataset": self.dataset,
            "data_dir": str(self.data_dir),
            "source": self.source,
            "verified": self.verified,
            "train": self.train.to_json(),
            "test": self.test.to_json(),
        }
