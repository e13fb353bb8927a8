"""Fashion-MNIST (Xiao et al. 2017): 70,000 greyscale images of clothes, 28×28, in MNIST's IDX files."""

from collections.abc import Collection

import numpy as np

from cifar_trainer.data.arrays import load_idx
from cifar_trainer.data.dataset import Archive, DatasetSpec, ImageSet, OfficialForm, OnImages, Split
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import check_labels
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
#: MNIST, KMNIST and EMNIST have the same file names and sizes, but different first labels.
FIRST_LABELS = {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "t10k": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}


def _is_official(names: Collection[str]) -> bool:
    return any(_plain(name).endswith(("-idx3-ubyte", "-idx1-ubyte")) for name in names)


def _plain(name: str) -> str:
    """The file name spelled with a dash; older archives have a dot."""
    return name.replace(".idx", "-idx")


def _read_official(folder: Folder, on_images: OnImages) -> ImageSet:
    splits = {}
    for split, count in SIZES.items():
        images = _read_idx(folder, f"{split}-images-idx3-ubyte", (count, *IMAGE_SHAPE[:2]))
        labels = _read_idx(folder, f"{split}-labels-idx1-ubyte", (count,))
        check_labels(labels, len(CLASSES), f"{folder.path}: {split}-labels-idx1-ubyte")
        first = labels[: len(FIRST_LABELS[split])].tolist()
        if first != FIRST_LABELS[split]:
            raise DataError(
                f"{folder.path} has Fashion-MNIST's file names but different labels: they start "
                f"with {first}, expected {FIRST_LABELS[split]}. MNIST and EMNIST have the same names. "
                "Choose a name of your own, such as --dataset mnist."
            )
        splits["train" if split == "train" else "test"] = Split(images[..., None], labels)
        on_images(count, count)
    return ImageSet(CLASSES, splits)


def _read_idx(folder: Folder, name: str, shape: tuple[int, ...]) -> np.ndarray:
    stored = next((file for file in folder.files if _plain(file) == name), None)
    if stored is None:
        raise DataError(f"{folder.path} lacks {name}; it contains {abridged(folder.files)}.")
    array = load_idx(folder.local(stored), folder.describe(stored))
    if array.shape != shape:
        raise DataError(f"{folder.describe(stored)} contains an array {array.shape}, expected {shape}.")
    return array


FASHION_MNIST = DatasetSpec(
    name="fashion-mnist",
    title="Fashion-MNIST",
    classes=CLASSES,
    image_shape=IMAGE_SHAPE,
    archives=ARCHIVES,
    forms=(OfficialForm(_is_official, _read_official, shared=True),),
    images=sum(SIZES.values()),
)
