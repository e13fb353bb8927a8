"""Data set types: declarations, images read from a source, and prepared data."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.folder import Folder
from cifar_trainer.data.mapped import take
from cifar_trainer.images import Preprocessing

#: Called with the number of images read so far and the total number of images.
OnImages = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        name: its file name in the folder of downloads.
        size: in bytes; None if unknown.
        sha256: in hexadecimal; None if unknown.
        mirrors: URLs of exactly these bytes, in the order to try them.
        folders: the folders it contains, by which a damaged archive can still be recognized.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Fingerprints (`data.fingerprints`), which identify a data set by its content.

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
class OfficialForm:
    """An official form of a data set, as its authors publish it.

    Attributes:
        recognizes: whether a folder with these file names has this form.
        read: reads such a folder. Raises DataError if a file is missing, unknown or damaged.
        shared: whether other data sets have the same file names.
    """

    recognizes: Callable[[Collection[str]], bool]
    read: Callable[[Folder, OnImages], "ImageSet"]
    shared: bool = False


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set that is known by name.

    Attributes:
        name: as in `--dataset`, and the name of its folder.
        title: the name of verified data in reports.
        classes: the names, by label.
        image_shape: height, width and channels.
        images: the number of images.
        fingerprints: None if none were published or measured.
        archives: all files to download.
        mirrors_variable: the environment variable for alternative URLs, if there is just one archive.
        other_archives: equivalents of `archives`, used if they have been downloaded.
        caches: where other programs cache it, as patterns for `caches.find_cached`.
        hugging_face: its repository on the Hugging Face Hub.
        forms: the official forms.
        draw: generates the images of a drawn data set, which is not read from a source.
        origin: what to record as the source of a drawn data set.
        other_names: common synonyms of the classes.
        limits: a sentence for the model card about the data's limits.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    images: int = 0
    fingerprints: Fingerprints | None = None
    archives: tuple[Archive, ...] = ()
    mirrors_variable: str = ""
    other_archives: tuple[Archive, ...] = ()
    caches: tuple[str, ...] = ()
    hugging_face: str = ""
    forms: tuple[OfficialForm, ...] = ()
    draw: Callable[[], "ImageSet"] | None = None
    origin: str = ""
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limits: str = ""

    def has_fingerprints(self, train: str, test: str) -> bool:
        """Whether the fingerprints of both splits are this data set's."""
        known = self.fingerprints
        return known is not None and (train, test) == (known.train, known.test)

    def title_of(self, *, verified: bool) -> str:
        """The name of prepared data in reports: the title only if it is verified."""
        if verified or self.draw is not None:
            return self.title
        if self.fingerprints is not None:
            return f"{self.title}-shaped data that is not {self.title}"
        return f"{self.title}-shaped data (not verified)"


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [N, H, W, C]; C is 3 for RGB, 1 for greyscale. May be a read-only memory map.
        labels: uint8 [N], or uint16 for more than 256 classes.
        fingerprint: the content fingerprint of the whole split (`data.fingerprints`).
        sha256: hash of the whole split's files; unlike the fingerprint, it depends on the images' order.
        files: the name of each image's file, relative to the source; empty if the source had no names.
        groups: int32 [N], the number of each image's group (--keep-groups), -1 for none; None without groups.
        indices: int64 [N], positions in the whole split; None for the whole split.
        sizes: int32 [N, 2], width and height in pixels of each image's file, as stored; None if they are
            unknown, or all the same.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str = ""
    sha256: str = ""
    files: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    indices: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def take(self, indices: np.ndarray, scratch: Path | None = None) -> "Split":
        """The images at `indices`, int64 [N]. Fingerprint and hash remain those of the whole split.

        With `scratch`, a folder, memory-mapped images are copied to a temporary file there, not to memory.
        """
        files = tuple(self.files[index] for index in indices) if self.files else ()
        positions = indices if self.indices is None else self.indices[indices]
        return dataclasses.replace(
            self, labels=self.labels[indices], files=files, indices=positions,
            images=self.images[indices] if scratch is None else take(self.images, indices, scratch),
            groups=None if self.groups is None else self.groups[indices],
            sizes=None if self.sizes is None else self.sizes[indices],
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Corrections:
    """Which labels `prepare --relabel FILE` changed, and how many images it deleted.

    Attributes:
        file, sha256: the path as it was given, and the SHA-256 of its bytes in hexadecimal.
    """

    file: str
    sha256: str
    relabelled: int
    deleted: int


@dataclasses.dataclass(frozen=True)
class Groups:
    """How many groups, and images in them, `prepare --keep-groups FILE` keeps on one side of a split.

    Attributes:
        file, sha256: as in `Corrections`.
    """

    file: str
    sha256: str
    groups: int
    images: int


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels, from a source.

    Attributes:
        classes: the names, by label.
        splits: `train`, `test` and `validation`, or `all` if the source has no splits.
        conversions: the number of images by conversion (`images.CONVERSIONS`).
        notes: sentences for the user.
        corrections, groups: what --relabel and --keep-groups did.
        published: whether they come unchanged from the published archives, verified by SHA-256.
        preprocessing: how image files were decoded; None if there were none.
        test_fraction, seed: how the test set was split off; None if the source had one.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    conversions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    corrections: Corrections | None = None
    groups: Groups | None = None
    published: bool = False
    preprocessing: Preprocessing | None = None
    test_fraction: float | None = None
    seed: int | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return next(iter(self.splits.values())).image_shape


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """Counts, fingerprint, and the mean and standard deviation of each channel of pixels/255."""

    images: int
    per_class: tuple[int, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set.

    Attributes:
        name: as in `--dataset`.
        folder: DATA_DIR/name.
        verified_by: `content` (fingerprints) or `archive` (SHA-256 of the published files) if it is verified
            to be the data set of this name; else None.
        classes: the names, by label.
        train, test: the images.
        title: the name in reports; a known title only if verified.
        preprocessing: how image files are decoded for this data set.
    """

    name: str
    folder: Path
    verified_by: str | None
    classes: tuple[str, ...]
    train: Split
    test: Split
    title: str
    preprocessing: Preprocessing

    @property
    def verified(self) -> bool:
        """Whether the data are verified to be the data set that `name` says."""
        return self.verified_by is not None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    @functools.cached_property
    def originals(self) -> np.ndarray:
        """For each training image, the index of its first copy or of its group's first image: int64 [N]."""
        return find_originals(self.train.images, groups=self.train.groups)
