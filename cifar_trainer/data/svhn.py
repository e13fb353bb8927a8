"""SVHN (Netzer et al. 2011), cropped digits: photographs of house numbers, 32×32, in MATLAB files."""

from collections.abc import Collection

import numpy as np

from cifar_trainer.data.dataset import Archive, DatasetSpec, OfficialForm, OnImages, RawDataset
from cifar_trainer.data.sources import Source, abridged
from cifar_trainer.data.tables import load_mat
from cifar_trainer.errors import DataError

CLASSES = tuple("0123456789")
IMAGE_SHAPE = (32, 32, 3)
_MIRROR = "http://ufldl.stanford.edu/housenumbers/"
ARCHIVES = (
    Archive(
        "train_32x32.mat",
        182_040_794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        (f"{_MIRROR}train_32x32.mat",),
    ),
    Archive(
        "test_32x32.mat",
        64_275_384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        (f"{_MIRROR}test_32x32.mat",),
    ),
)


def is_official(names: Collection[str]) -> bool:
    """Whether a member is one of the two files."""
    return bool({archive.name for archive in ARCHIVES} & set(names))


def read_official(source: Source, on_images: OnImages) -> RawDataset:
    """Read two MATLAB files with the arrays X, 32×32×3×N, and y, where 10 stands for the digit 0.

    Raises:
        DataError: one is missing or damaged, or holds other arrays.
    """
    missing = {archive.name for archive in ARCHIVES} - set(source.members)
    if missing:
        raise DataError(f"{source.path} lacks {abridged(missing)}; it holds {abridged(source.members)}.")
    arrays = {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        with source.on_disk(name) as path:
            found = load_mat(path, source.describe(name), ("X", "y").__contains__)
        images, labels = found.get("X"), found.get("y")
        if images is None or labels is None or images.dtype != np.uint8 or images.shape[:3] != IMAGE_SHAPE:
            raise DataError(
                f"{source.describe(name)} holds {abridged(found)}, expected X of 32×32×3×N and y of N×1."
            )
        if images.shape[3:] != (labels.size,):
            raise DataError(
                f"{source.describe(name)} holds images {images.shape} and {labels.size:,} labels."
            )
        digits = labels.reshape(-1).astype(np.int64)
        wrong = np.flatnonzero((digits < 1) | (digits > 10))
        if len(wrong):
            raise DataError(
                f"{source.describe(name)}, record {wrong[0]}: the label is {digits[wrong[0]]}, "
                "expected 1 to 10."
            )
        arrays[split] = np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (digits % 10).astype(np.uint8)
        on_images(len(digits), len(digits))
    return RawDataset(CLASSES, *arrays["train"], *arrays["test"])


SVHN = DatasetSpec(
    name="svhn",
    title="SVHN",
    unverified_title="SVHN (no fingerprint to verify it by)",
    summary="photographs of the digits of house numbers",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    archives=ARCHIVES,
    forms=(OfficialForm(is_official, read_official),),
    images=99_289,
)
