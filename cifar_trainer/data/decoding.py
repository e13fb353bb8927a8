"""Decode the image files of a source, and count conversions and unreadable images."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec, ImageSet, Split
from cifar_trainer.data.image_lists import ImageList
from cifar_trainer.data.mapped import ScratchImages, parts
from cifar_trainer.errors import DataError, UsageError, counted, printable
from cifar_trainer.images import CONVERSIONS, MAX_BYTES, ImageError, Preprocessing, bits_in_use
from cifar_trainer.settings import MAX_SIZE, MIN_SIZE

#: Default of --size.
DEFAULT_SIZE = 32
#: The share of your own images that becomes the test set if the source has none.
DEFAULT_TEST_FRACTION = 0.2
#: Number of unreadable images that are listed; the others are counted.
_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How to read a source: the options of `prepare`.

    Attributes:
        spec: the requested data set; None for your own classes.
        size: None keeps the size of arrays, and resizes image files to DEFAULT_SIZE.
        corrections, groups: the files of --relabel and --keep-groups.
        grey_bits: see `images.Preprocessing`; None finds out.
        scratch: the folder for temporary files; None for the system's.

    Raises:
        UsageError: a value is out of its range.
    """

    spec: DatasetSpec | None = None
    size: int | None = None
    resize: str = "stretch"
    test_fraction: float | None = None
    seed: int = 0
    skip_unreadable: bool = False
    grey_bits: int | None = None
    corrections: ImageList | None = None
    groups: ImageList | None = None
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UsageError(
                f"--test-fraction {self.test_fraction} is out of range. Expected a number between 0 and 1, "
                "such as 0.2."
            )
        if self.size is not None and self.spec is not None:
            raise UsageError(
                f"--size {self.size} is for classes of your own; {self.spec.title} has "
                f"{self.spec.image_shape[1]}×{self.spec.image_shape[0]} pixels. Leave it out, or choose "
                "a name of your own with --dataset."
            )
        if self.size is not None and not MIN_SIZE <= self.size <= MAX_SIZE:
            raise UsageError(
                f"--size {self.size} is out of range. Expected pixels from {MIN_SIZE} to {MAX_SIZE}."
            )
        _ = self.preprocessing  # Checks `resize`.

    @property
    def fraction(self) -> float:
        """The share of each class to split off as the test set."""
        return DEFAULT_TEST_FRACTION if self.test_fraction is None else self.test_fraction

    def refuse_test_fraction(self, where: str) -> None:
        """Raise UsageError if --test-fraction is set, because the source `where` has a test set."""
        if self.test_fraction is not None:
            raise UsageError(
                f"--test-fraction {self.test_fraction} is for a source without a test set; {where} has one. "
                "Leave the option out."
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """How image files are decoded."""
        side = DEFAULT_SIZE if self.size is None else self.size
        return Preprocessing(
            self.spec.image_shape if self.spec else (side, side, 3), self.resize, self.grey_bits
        )


class ReadAgain(Exception):  # noqa: N818
    """The greyscale images use `bits` bits, so the source must be read again with this number."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.bits = bits


class Decoder:
    """Decodes images into one array per split.

    Attributes:
        read: how many images were decoded.
        kept: the label and file name of each of them, by split.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._preprocessing = options.preprocessing
        self._conversions: Counter[str] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._sizes_by_split: dict[str, list[tuple[int, int]]] = {}
        self.read = 0
        self.kept: dict[str, list[tuple[Any, str]]] = {}
        self._unreadable: list[str] = []
        self._peak: int | None = None
        self._refused_grey = False
        self._pixels: dict[str, ScratchImages] = {}

    def add(
        self, read: Callable[[], bytes], describe: Callable[[], str], split: str, label: Any, file: str
    ) -> None:
        """Decode the image that `read` returns and add it to a split, or note that it is unreadable."""
        if split not in self.kept:
            self.kept[split] = []
            self._pixels[split] = ScratchImages(self._options.scratch, self._preprocessing.image_shape)
        try:
            content = read()
            if len(content) > MAX_BYTES:
                raise ImageError(f"it has more than {MAX_BYTES:,} bytes.")
            image = self._preprocessing.decode(content)
        except (ImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            if isinstance(error, ImageError) and error.peak is not None:
                self._peak, self._refused_grey = max(self._peak or 0, error.peak), True
            self._unreadable.append(f"{describe()}: {reason}")
            return
        self.read += 1
        if image.conversions:
            self._conversions.update(image.conversions)
            if "resized" in image.conversions:
                self._sizes[image.width, image.height] += 1
        if image.peak is not None:
            self._peak = max(self._peak or 0, image.peak)
        self._pixels[split].append(image.pixels)
        self._sizes_by_split.setdefault(split, []).append((image.width, image.height))
        self.kept[split].append((label, printable(file)))

    def check(self) -> None:
        """Check the images once all are read.

        Raises:
            ReadAgain: greyscale images of 16 or 32 bits use fewer bits.
            DataError: images are unreadable, and --skip-unreadable is not set.
        """
        if self._peak is not None and self._options.grey_bits is None:
            bits = bits_in_use(self._peak)
            if bits < 16 or self._refused_grey:
                raise ReadAgain(bits)
        if self._unreadable and not self._options.skip_unreadable:
            raise DataError(f"{self._list_unreadable()}\nFix or remove them, or pass --skip-unreadable.")

    def finish(
        self, classes: tuple[str, ...], labels: Mapping[str, np.ndarray], notes: tuple[str, ...]
    ) -> ImageSet:
        """The decoded images, with `labels` as the numeric labels of each split."""
        splits = {}
        differ = len(set().union(*self._sizes_by_split.values())) > 1
        for split, kept in self.kept.items():
            files = tuple(file for _, file in kept)
            sizes = self._sizes_by_split.get(split, [])
            splits[split] = Split(
                self._images(split),
                labels[split],
                files=files if any(files) else (),
                sizes=np.array(sizes, np.int32).reshape(-1, 2) if differ else None,
            )
        return ImageSet(classes, splits, self.conversions, (*notes, *self.notes))

    def _images(self, split: str) -> np.ndarray:
        """The images of a split, uint8 [N, H, W, C]."""
        array = self._pixels[split].array()
        if not self._keeps_grey:
            return array
        grey = ScratchImages(self._options.scratch, (*array.shape[1:3], 1))
        for _, part in parts(array):
            grey.append(part[..., :1])
        return grey.array()

    @property
    def _keeps_grey(self) -> bool:
        """Whether the data set is your own and all its images are greyscale, so that it has one channel."""
        return self._options.spec is None and 0 < self.read == self._conversions["greyscale"]

    @property
    def conversions(self) -> dict[str, int]:
        """The number of images by conversion."""
        unchanged = {"greyscale"} if self._keeps_grey else set()
        counts = self._conversions
        return {name: counts[name] for name in CONVERSIONS if counts[name] and name not in unchanged}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about conversions and skipped images."""
        found = []
        for name, count in self.conversions.items():
            sizes = self._describe_sizes() if name == "resized" else ""
            found.append(f"{count:,} of {self.read:,} images: {CONVERSIONS[name]}{sizes}.")
        if self._peak is not None and self._options.grey_bits is not None:
            found.append(
                f"The largest value of the greyscale images of more than 8 bits is {self._peak:,}. They are "
                f"scaled as images of {self._options.grey_bits} bits, in predictions too."
            )
        if self._unreadable:
            found.append(f"Left out: {self._list_unreadable()}")
        return tuple(found)

    def _describe_sizes(self) -> str:
        (width, height), _ = self._sizes.most_common(1)[0]
        others = f" and {len(self._sizes) - 1:,} other sizes" if len(self._sizes) > 1 else ""
        target_height, target_width, _ = self._preprocessing.image_shape
        return f" from {width}×{height}{others} to {target_width}×{target_height} ({self._options.resize})"

    def _list_unreadable(self) -> str:
        count = len(self._unreadable)
        lines = "".join(f"\n  {line}" for line in self._unreadable[:_EXAMPLES])
        more = f"\n  and {count - _EXAMPLES:,} more" if count > _EXAMPLES else ""
        return f"{counted(count, 'image')} cannot be read:{lines}{more}"
