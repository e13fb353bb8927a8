"""Fashion-MNIST (Xiao et al. 2017): 70,000 greyscale images of clothes, 28×28, in MNIST's IDX files."""

import gzip
import zlib
from collections.abc import Collection

import numpy as np

from cifar_trainer.data.dataset import Archive, DatasetSpec, OfficialForm, OnImages, RawDataset
from cifar_trainer.data.sources import Source, abridged
from cifar_trainer.errors import DataError

CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
IMAGE_SHAPE = (28, 28, 1)
_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _archive(name: str, size: int, sha256: str) -> Archive:
    return Archive(name, size, sha256, (f"{_MIRROR}{name}",))


ARCHIVES = (
    _archive(
        "train-images-idx3-ubyte.gz",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    _archive(
        "train-labels-idx1-ubyte.gz",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    _archive(
        "t10k-images-idx3-ubyte.gz",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    _archive(
        "t10k-labels-idx1-ubyte.gz", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
)
SIZES = {"train": 60_000, "t10k": 10_000}


def is_official(names: Collection[str]) -> bool:
    """Whether a member is one of the four files, compressed or not."""
    return any(name.removesuffix(".gz").endswith(("-idx3-ubyte", "-idx1-ubyte")) for name in names)


def read_official(source: Source, on_images: OnImages) -> RawDataset:
    """Read the four IDX files, compressed or not.

    Raises:
        DataError: one is missing, damaged or of another size.
    """
    arrays = {}
    for split, count in SIZES.items():
        images = _read_idx(source, f"{split}-images-idx3-ubyte", (count, *IMAGE_SHAPE[:2]))
        labels = _read_idx(source, f"{split}-labels-idx1-ubyte", (count,))
        wrong = np.flatnonzero(labels >= len(CLASSES))
        if len(wrong):
            raise DataError(
                f"{source.path}: {split}-labels-idx1-ubyte, record {wrong[0]}: the label is "
                f"{labels[wrong[0]]}, expected 0 to {len(CLASSES) - 1}."
            )
        arrays[split] = images[..., None], labels
        on_images(count, count)
    return RawDataset(CLASSES, *arrays["train"], *arrays["t10k"])


def _read_idx(source: Source, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array in the IDX format: two zeros, the type, the number of axes, each axis's length, the bytes."""
    stored = next((found for found in (f"{name}.gz", name) if found in source.members), None)
    if stored is None:
        raise DataError(f"{source.path} lacks {name}.gz; it holds {abridged(source.members)}.")
    size = 4 + 4 * len(shape) + int(np.prod(shape))
    try:
        with source.on_disk(stored) as path, gzip.open(path) if stored != name else open(path, "rb") as file:
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source.describe(stored)} is damaged: {error}. Fetch it again.") from error
    head = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    if len(content) != size or not content.startswith(head):
        raise DataError(
            f"{source.describe(stored)} begins with {content[: len(head)].hex()} and has "
            f"{len(content):,} bytes, expected {head.hex()} and {size:,}."
        )
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape)


FASHION_MNIST = DatasetSpec(
    name="fashion-mnist",
    title="Fashion-MNIST",
    unverified_title="Fashion-MNIST (no fingerprint to verify it by)",
    summary="greyscale images of ten kinds of clothes",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    archives=ARCHIVES,
    forms=(OfficialForm(is_official, read_official),),
    images=sum(SIZES.values()),
)
