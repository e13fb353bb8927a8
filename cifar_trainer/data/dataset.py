"""What a data set is: the value that declares it, what a source held, and what lies prepared on the disk."""

import dataclasses
import mmap
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.data.sources import Source
from cifar_trainer.images import Preprocessing

#: Told how many images are read, and of how many.
OnImages = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that can be downloaded.

    Attributes:
        name: its name in the folder of downloads.
        size: bytes, None where it is not known beforehand.
        sha256: hexadecimal, None where it is not known beforehand.
        mirrors: addresses of these very bytes, in the order in which to try them.
        folders: the folders in it, by which it is told when it is damaged.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """How a data set is recognised by its content (`data.fingerprints`), whatever file it comes from.

    Attributes:
        train, test: of the images with their labels.
        train_pixels, test_pixels: of the images alone.
        train_classes, test_classes: of the images of each class alone, by label.
    """

    train: str
    test: str
    train_pixels: str = ""
    test_pixels: str = ""
    train_classes: tuple[str, ...] = ()
    test_classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CacheNames:
    """What other programs call a data set in the folders where they keep their downloads.

    Attributes:
        keras: entries of `~/.keras/datasets`.
        torchvision: entries of the `root` that its data sets are given.
        hugging_face: repositories, as `owner/name`.
        tensorflow_datasets: entries of `~/tensorflow_datasets`.
    """

    keras: tuple[str, ...] = ()
    torchvision: tuple[str, ...] = ()
    hugging_face: tuple[str, ...] = ()
    tensorflow_datasets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class OfficialForm:
    """One of the forms in which the authors of a data set publish it.

    Attributes:
        recognizes: whether a source with members of these names has this form.
        read: reads it. Raises DataError where a member is missing, unknown or damaged.
    """

    recognizes: Callable[[Collection[str]], bool]
    read: Callable[[Source, OnImages], "RawDataset"]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set that is known by name.

    Attributes:
        name: as in `--dataset`, and the name of its folder.
        title: what to call it once its fingerprints hold.
        unverified_title: what to call data of its shape whose fingerprints differ.
        summary: one line for help.
        classes: the names, by label.
        image_shape: height, width and channels.
        fingerprints: None where there are none to compare with.
        archives: what to download, all of it.
        mirrors_variable: the environment variable that names other addresses of the only archive.
        other_archives: files that serve as well as `archives` where they have been downloaded already.
        caches: what other programs call it where they keep it.
        forms: the official forms in which it is read.
        draw: makes the data set where it needs no source; None for all others.
        origin: where `draw` takes it from, for the record.
        images: how many `draw` makes, or the archives hold.
        other_names: names that people give the classes, each with the right one.
        limits: what a user of a model that was trained on it should know, in a sentence.
    """

    name: str
    title: str
    unverified_title: str
    summary: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    fingerprints: Fingerprints | None = None
    archives: tuple[Archive, ...] = ()
    mirrors_variable: str = ""
    other_archives: tuple[Archive, ...] = ()
    caches: CacheNames = CacheNames()
    forms: tuple[OfficialForm, ...] = ()
    draw: Callable[[], "RawDataset"] | None = None
    origin: str = ""
    images: int = 0
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limits: str = ""

    def is_verified(self, train: str, test: str) -> bool:
        """Whether the fingerprints of both splits are this data set's."""
        known = self.fingerprints
        return known is not None and (train, test) == (known.train, known.test)

    def title_of(self, *, verified: bool) -> str:
        """What to call prepared data of this name: never by its title unless the fingerprints hold."""
        return self.title if verified else self.unverified_title


@dataclasses.dataclass(frozen=True, eq=False)
class RawDataset:
    """What a source held, before it is written as a prepared data set.

    Attributes:
        classes: the names, by label.
        train_images: uint8 [N, H, W, C]; C is 3 for RGB, 1 for greyscale.
        train_labels: uint8 [N], or uint16 for more than 256 classes.
        test_images: uint8 [M, H, W, C].
        test_labels: of the type of `train_labels`, [M].
        conversions: how many images were changed, by what (`images.CONVERSIONS`).
        notes: what the user should know about how they were read, a sentence each.
        resize: how images of another size were resized (`images.RESIZES`).
    """

    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    conversions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resize: str = "stretch"

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of `train` or of `test`."""
        if name == "train":
            return self.train_images, self.train_labels
        return self.test_images, self.test_labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """A split in figures.

    Attributes:
        images: how many.
        per_class: how many of each class, by label.
        fingerprint: the content fingerprint, 64 hexadecimal digits.
        mean: of each channel, pixels scaled to 0..1.
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
        images: uint8 [N, H, W, C]; may be a read-only memory map.
        labels: uint8 [N], or uint16 for more than 256 classes.
        fingerprint: the content fingerprint of the whole split (`data.fingerprints`).
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
    """A prepared data set.

    Attributes:
        name: as in `--dataset`.
        folder: where it lies, DATA_DIR/name.
        verified: both fingerprints are those of the data set of this name.
        classes: the names, by label.
        title: what to call it on a screen or a page: never CIFAR-10 unless it is.
        resize: how images of other sizes were resized (`images.RESIZES`).
    """

    name: str
    folder: Path
    verified: bool
    classes: tuple[str, ...]
    train: Split
    test: Split
    title: str
    resize: str = "stretch"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def preprocessing(self) -> Preprocessing:
        """How any image becomes one of this data set's shape."""
        return Preprocessing(self.image_shape, self.resize)


def release_pages(array: np.ndarray) -> None:
    """Give back the memory that reading a memory-mapped array has taken; the next read fetches it anew.

    Of an array that is no map, and where the system knows no such call, nothing happens.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
