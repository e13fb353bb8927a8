"""The prepared dataset, as it lies on the disk and as the rest of the package sees it."""

import dataclasses
import mmap
from pathlib import Path
from typing import Any

import numpy as np

#: CIFAR-10's classes, in the order of the labels (Krizhevsky 2009, table of the official page).
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclasses.dataclass(frozen=True, eq=False)
class RawDataset:
    """What a source held, before it is written as a prepared dataset.

    Attributes:
        classes: the ten names, by label.
        train_images: uint8 [N, 32, 32, 3], RGB.
        train_labels: uint8 [N], 0 to 9.
        test_images: uint8 [M, 32, 32, 3], RGB.
        test_labels: uint8 [M], 0 to 9.
    """

    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of `train` or of `test`."""
        if name == "train":
            return self.train_images, self.train_labels
        return self.test_images, self.test_labels


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


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [N, 32, 32, 3], RGB; may be a read-only memory map.
        labels: uint8 [N], 0 to 9.
        fingerprint: the content fingerprint of the whole split (`data.fingerprint`).
        sha256: over the files of the whole split, so that it tells the order of the images too.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: `cifar10` or `synthetic`.
        folder: where it lies, DATA_DIR/name.
        verified: both fingerprints are CIFAR-10's.
        classes: the ten names, by label.
    """

    name: str
    folder: Path
    verified: bool
    classes: tuple[str, ...]
    train: Split
    test: Split

    @property
    def title(self) -> str:
        """What to call it on a screen or a page: never CIFAR-10 unless it is."""
        return title_of(self.name, self.verified)


def title_of(name: str, verified: bool) -> str:
    """What to call a prepared dataset: never CIFAR-10 unless both fingerprints are CIFAR-10's."""
    if name == "synthetic":
        return "synthetic pictures (not CIFAR-10)"
    return "CIFAR-10" if verified else "CIFAR-10-shaped data that is not CIFAR-10"


def release_pages(array: np.ndarray) -> None:
    """Give back the memory that reading a memory-mapped array has taken; the next read fetches it anew.

    Of an array that is no map, and where the system knows no such call, nothing happens.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
