"""The prepared dataset, as it lies on the disk and as the rest of the package sees it."""

import dataclasses
from pathlib import Path

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
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [N, 32, 32, 3], RGB; may be a read-only memory map.
        labels: uint8 [N], 0 to 9.
        fingerprint: the content fingerprint of the whole split (docs: "Fingerprints").
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str

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
        if self.name == "synthetic":
            return "synthetic pictures (not CIFAR-10)"
        return "CIFAR-10" if self.verified else "CIFAR-10-shaped data that is not CIFAR-10"
