"""Images as a source has them, by split; and how they become a training and a test set."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cifar_trainer.data.dataset import RawDataset
from cifar_trainer.data.fingerprints import image_digests
from cifar_trainer.data.sources import abridged
from cifar_trainer.data.splits import stratified_part
from cifar_trainer.errors import DataError, UsageError
from cifar_trainer.images import CONVERSIONS, ImageError, Preprocessing

#: What is set aside of a source of a user's own that has no test set.
DEFAULT_TEST_FRACTION = 0.2
MIN_SIZE, MAX_SIZE = 28, 64
MIN_CLASSES, MAX_CLASSES = 2, 1000
#: More images than that cannot be read are told by their number.
_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How images are read that are not in a data set's official form.

    Attributes:
        shape: height, width and channels to bring them to.
        resize: how, one of `images.RESIZES`.
        classes: the names that are known beforehand, by label; empty for a user's own.
        other_names: other names of `classes`, each with the right one.
        title: what the data set is called, for messages.
        test_fraction: how much of a source without a test set becomes one; None refuses such a source, or
            takes DEFAULT_TEST_FRACTION for a user's own.
        seed: decides which.
        skip_unreadable: leave out what cannot be decoded instead of refusing all of it.

    Raises:
        UsageError: a value out of its range.
    """

    shape: tuple[int, int, int]
    resize: str = "stretch"
    classes: tuple[str, ...] = ()
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    title: str = "the data set"
    test_fraction: float | None = None
    seed: int = 0
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        Preprocessing(self.shape, self.resize)
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UsageError(
                f"--test-fraction {self.test_fraction} is out of range. Expected a number between 0 and 1, "
                "such as 0.2."
            )
        if not self.classes and not MIN_SIZE <= self.shape[0] <= MAX_SIZE:
            raise UsageError(
                f"--size {self.shape[0]} is out of range. Expected pixels from {MIN_SIZE} to {MAX_SIZE}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Images and labels as they were found.

    Attributes:
        classes: the names, by label.
        images: uint8 [N, H, W, C] of each part: `train`, `test`, `validation`, or `all` without a split.
        labels: int64 [N] of each.
        conversions: how many images were changed, by what.
        notes: what the user should know, a sentence each.
        without_test_labels: what to say where the source has training images alone, and why.
    """

    classes: tuple[str, ...]
    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    conversions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    without_test_labels: str = ""


class Decoder:
    """Decodes images one by one, and remembers what had to be changed and which could not be read."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._preprocessing = Preprocessing(options.shape, options.resize)
        self._conversions: Counter[str] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._read = 0
        self._unreadable: list[str] = []

    def decode(self, content: bytes, where: str) -> np.ndarray | None:
        """The image as uint8 [H, W, C], or None where it cannot be read."""
        try:
            image = self._preprocessing.decode(content)
        except ImageError as error:
            self._unreadable.append(f"{where}: {error}")
            return None
        self._read += 1
        if image.conversions:
            self._conversions.update(image.conversions)
            if "resized" in image.conversions:
                self._sizes[image.width, image.height] += 1
        return image.pixels

    def check(self) -> None:
        """Raise DataError where images could not be read and are not to be skipped."""
        if self._unreadable and not self._options.skip_unreadable:
            raise DataError(f"{self._list_unreadable()}\nMend or remove them, or add --skip-unreadable.")

    @property
    def all_grey(self) -> bool:
        """Whether every image was stored without colours."""
        return self._read > 0 and self._conversions["greyscale"] == self._read

    def conversions(self, *, kept_grey: bool = False) -> dict[str, int]:
        """How many images were changed, by what."""
        counts = dict(self._conversions)
        if kept_grey:
            counts.pop("greyscale", None)
        return {name: counts[name] for name in CONVERSIONS if name in counts}

    def notes(self, *, kept_grey: bool = False) -> tuple[str, ...]:
        """The same in words, and what was left out."""
        found = []
        for name, count in self.conversions(kept_grey=kept_grey).items():
            found.append(f"{count:,} of {self._read:,} images: {CONVERSIONS[name]}{self._from_sizes(name)}.")
        if self._unreadable:
            found.append(f"Left out: {self._list_unreadable()}")
        return tuple(found)

    def _from_sizes(self, name: str) -> str:
        if name != "resized":
            return ""
        (width, height), _ = self._sizes.most_common(1)[0]
        others = f" and {len(self._sizes) - 1:,} other sizes" if len(self._sizes) > 1 else ""
        return (
            f" from {width}×{height}{others} to {self._options.shape[1]}×{self._options.shape[0]} "
            f"({self._options.resize})"
        )

    def _list_unreadable(self) -> str:
        count = len(self._unreadable)
        lines = "".join(f"\n  {line}" for line in self._unreadable[:_EXAMPLES])
        more = f"\n  and {count - _EXAMPLES:,} more" if count > _EXAMPLES else ""
        return f"{count:,} image{'s' if count > 1 else ''} cannot be read:{lines}{more}"


def to_raw(parts: Parts, options: ReadOptions, where: str) -> RawDataset:
    """A training and a test set out of what was found.

    Args:
        parts: what was found.
        options: how to split where there is no test set.
        where: the source, for messages.

    Raises:
        DataError: there is no test set and none is to be made, or a class has too few images.
        UsageError: there is a test set, and another was asked for.
    """
    notes = list(parts.notes)
    images, labels = dict(parts.images), dict(parts.labels)
    _check_classes(parts, where)
    if "validation" in images:
        _place_validation(images, labels, notes)
    if "test" in images:
        if options.test_fraction is not None:
            raise UsageError(
                f"--test-fraction {options.test_fraction} is for a source without a test set; {where} has "
                f"one of {len(labels['test']):,} images. Leave the option out."
            )
    else:
        _make_test_set(parts, options, where, images, labels, notes)
    if not options.classes:
        _drop_duplicates(images, labels, notes, where)
    kind = np.uint8 if len(parts.classes) <= 256 else np.uint16
    for split in ("train", "test"):
        missing = set(range(len(parts.classes))) - set(np.unique(labels[split]).tolist())
        if missing:
            named = abridged(f"{split}/{parts.classes[label]}" for label in missing)
            raise DataError(
                f"{where} lacks images for {named}. Expected the same classes for training and for testing."
            )
    return RawDataset(
        parts.classes,
        images["train"],
        labels["train"].astype(kind),
        images["test"],
        labels["test"].astype(kind),
        parts.conversions,
        tuple(notes),
        options.resize,
    )


def _check_classes(parts: Parts, where: str) -> None:
    if not MIN_CLASSES <= len(parts.classes) <= MAX_CLASSES:
        raise DataError(
            f"{where} holds {len(parts.classes)} classes ({abridged(parts.classes)}); "
            f"expected {MIN_CLASSES} to {MAX_CLASSES:,}."
        )


def _place_validation(images: dict[str, np.ndarray], labels: dict[str, np.ndarray], notes: list[str]) -> None:
    count = len(labels["validation"])
    if "test" not in images:
        images["test"], labels["test"] = images.pop("validation"), labels.pop("validation")
        notes.append(f"There is no test set: the {count:,} validation images are used as one.")
        return
    images["train"] = np.concatenate([images["train"], images.pop("validation")])
    labels["train"] = np.concatenate([labels["train"], labels.pop("validation")])
    notes.append(
        f"The {count:,} validation images were added to the training images; "
        "train --validation holdout sets some of these aside."
    )


def _make_test_set(
    parts: Parts,
    options: ReadOptions,
    where: str,
    images: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    notes: list[str],
) -> None:
    fraction = options.test_fraction
    if fraction is None and options.classes:
        reason = parts.without_test_labels or f"{where} has no test set."
        raise DataError(
            f"{reason} Add --test-fraction 0.2 to set a part of its images aside, and note that what comes "
            f"of it cannot be compared with results on {options.title}."
        )
    fraction = DEFAULT_TEST_FRACTION if fraction is None else fraction
    whole, name = ("all", "train") if "all" in images else ("train", "train")
    every, classes = images.pop(whole), labels.pop(whole)
    few = [parts.classes[label] for label, n in enumerate(np.bincount(classes)) if n == 1]
    if few:
        raise DataError(
            f"{where} has a single image of {abridged(few)}; a class needs two, one of them for the test "
            "set. Add images, or remove the class."
        )
    train, test = stratified_part(classes, fraction, options.seed)
    images[name], labels[name] = every[train], classes[train]
    images["test"], labels["test"] = every[test], classes[test]
    notes.append(
        f"There is no test set: {len(test):,} of {len(classes):,} images were set aside as one, "
        f"the same part of each class ({fraction:g}), chosen by the seed {options.seed}."
    )


def _drop_duplicates(
    images: dict[str, np.ndarray], labels: dict[str, np.ndarray], notes: list[str], where: str
) -> None:
    """Leave out of the test set what is in the training set too: accuracy on it would say nothing."""
    trained = set(image_digests(images["train"]))
    fresh = np.array([digest not in trained for digest in image_digests(images["test"])], bool)
    doubled = int((~fresh).sum())
    if not doubled:
        return
    if doubled == len(fresh):
        raise DataError(
            f"{where}: all {doubled:,} test images are training images too, so that a test would say "
            "nothing. Name a source with other test images, or one without, and add --test-fraction 0.2."
        )
    images["test"], labels["test"] = images["test"][fresh], labels["test"][fresh]
    notes.append(f"{doubled:,} test images are training images too: they were left out of the test set.")


class ImageStack:
    """Images of one shape, taken one by one and given as one array, with room for little more than that.

    Args:
        shape: of each image.
    """

    #: Images of a block; a block's memory goes back to the system once it has been copied.
    _BLOCK = 1000

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._blocks: list[np.ndarray] = []
        self._latest: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._blocks)) + len(self._latest)

    def append(self, image: np.ndarray) -> None:
        """Take an image, uint8 [H, W, C]."""
        self._latest.append(image)
        if len(self._latest) == self._BLOCK:
            self._blocks.append(np.stack(self._latest))
            self._latest = []

    def to_array(self, *, grey: bool) -> np.ndarray:
        """All of them, uint8 [N, H, W, C], of grey ones a single channel; the stack is empty then."""
        array = np.empty((len(self), *self._shape[:2], 1 if grey else self._shape[2]), np.uint8)
        if self._latest:
            self._blocks.append(np.stack(self._latest))
            self._latest = []
        end = len(array)
        while self._blocks:
            block = self._blocks.pop()
            array[end - len(block) : end] = block[..., :1] if grey else block
            end -= len(block)
        return array


def stacked(images: Sequence[np.ndarray], shape: tuple[int, int, int], *, grey: bool) -> np.ndarray:
    """Images of one shape as one array, uint8 [N, H, W, C]; of grey ones a single channel is kept."""
    array = np.empty((len(images), *shape[:2], 1 if grey else shape[2]), np.uint8)
    for row, image in enumerate(images):
        array[row] = image[..., :1] if grey else image
    return array
