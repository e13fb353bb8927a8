"""SVHN (Netzer et al. 2011), cropped digits: photographs of house numbers, 32×32, in MATLAB files."""

from collections.abc import Collection

import numpy as np

from cifar_trainer.data.arrays import load_mat
from cifar_trainer.data.dataset import Archive, DatasetSpec, ImageSet, OfficialForm, OnImages, Split
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import check_labels
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


_NAMES = {archive.name for archive in ARCHIVES}


def _is_official(names: Collection[str]) -> bool:
    return not _NAMES.isdisjoint(names)


def _read_official(folder: Folder, on_images: OnImages) -> ImageSet:
    """Read two MATLAB files with the arrays X, 32×32×3×N, and y, in which 10 means the digit 0."""
    missing = _NAMES - set(folder.files)
    if missing:
        raise DataError(f"{folder.path} lacks {abridged(missing)}; it contains {abridged(folder.files)}.")
    splits = {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        where = folder.describe(name)
        found = load_mat(folder.local(name), where, ("X", "y").__contains__)
        images, labels = found.get("X"), found.get("y")
        if images is None or labels is None or images.dtype != np.uint8 or images.shape[:3] != IMAGE_SHAPE:
            raise DataError(f"{where} contains {abridged(found)}, expected X of 32×32×3×N and y of N×1.")
        if images.shape[3:] != (labels.size,):
            raise DataError(f"{where} contains images {images.shape} and {labels.size:,} labels.")
        digits = labels.reshape(-1).astype(np.int64)
        check_labels(digits, 10, where, first=1)
        pixels = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
        splits[split] = Split(pixels, (digits % 10).astype(np.uint8))
        on_images(len(digits), len(digits))
    return ImageSet(CLASSES, splits)


SVHN = DatasetSpec(
    name="svhn",
    title="SVHN",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    archives=ARCHIVES,
    forms=(OfficialForm(_is_official, _read_official),),
    images=99_289,
)
