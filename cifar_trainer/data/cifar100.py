"""CIFAR-100 (Krizhevsky 2009): 100 fine classes, or the 20 coarse classes that they belong to."""

from collections.abc import Callable

import numpy as np

from cifar_trainer.data.cifar10 import (
    IMAGE_SHAPE,
    Batch,
    binary_records,
    by_pixel,
    python_batch,
)
from cifar_trainer.data.dataset import Archive, DatasetSpec, ImageSet, OfficialForm, OnImages, Split
from cifar_trainer.data.folder import Folder
from cifar_trainer.data.labels import check_labels
from cifar_trainer.data.unpickler import load_dictionary

FINE_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip
COARSE_CLASSES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables",
    "household_electrical_devices", "household_furniture", "insects", "large_carnivores",
    "large_man-made_outdoor_things", "large_natural_outdoor_scenes", "large_omnivores_and_herbivores",
    "medium_mammals", "non-insect_invertebrates", "people", "reptiles", "small_mammals", "trees",
    "vehicles_1", "vehicles_2",
)  # fmt: skip
SIZES = {"train": 50_000, "test": 10_000}
_MIRROR = "https://www.cs.toronto.edu/~kriz/"
PYTHON_VERSION = Archive(
    "cifar-100-python.tar.gz",
    169_001_437,
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    (f"{_MIRROR}cifar-100-python.tar.gz",),
    ("cifar-100-python",),
)
BINARY_VERSION = Archive(
    "cifar-100-binary.tar.gz",
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    (f"{_MIRROR}cifar-100-binary.tar.gz",),
    ("cifar-100-binary",),
)


def _form(
    suffix: str, classes: tuple[str, ...], read_file: Callable[[Folder, str, int], Batch]
) -> OfficialForm:
    """A version with one file per split."""

    def read(folder: Folder, on_images: OnImages) -> ImageSet:
        splits = {}
        for split, count in SIZES.items():
            pixels, labels, files = read_file(folder, f"{split}{suffix}", count)
            splits[split] = Split(np.ascontiguousarray(by_pixel(pixels)), labels, files=files)
            on_images(count, count)
        return ImageSet(classes, splits)

    # Only the Python version has this file.
    beside = {"meta"} if not suffix else set()
    return OfficialForm({*beside, *(f"{split}{suffix}" for split in SIZES)}.issubset, read)


def _python_file(key: str, classes: int) -> Callable[[Folder, str, int], Batch]:
    """Reads a pickle of data, filenames, fine_labels and coarse_labels."""

    def read(folder: Folder, name: str, count: int) -> Batch:
        where = folder.describe(name)
        return python_batch(load_dictionary(folder.read(name), where), where, key, count, classes)

    return read


def _binary_file(byte: int, classes: int) -> Callable[[Folder, str, int], Batch]:
    """Reads records of a coarse label byte, a fine label byte, then the pixels by channel."""

    def read(folder: Folder, name: str, count: int) -> Batch:
        labels, pixels = binary_records(folder, name, count, 2)
        check_labels(labels[:, byte], classes, folder.describe(name))
        return pixels, labels[:, byte].copy(), ()

    return read


def _spec(name: str, title: str, classes: tuple[str, ...], key: str, byte: int) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        classes=classes,
        image_shape=IMAGE_SHAPE,
        archives=(PYTHON_VERSION,),
        other_archives=(BINARY_VERSION,),
        forms=(
            _form("", classes, _python_file(key, len(classes))),
            _form(".bin", classes, _binary_file(byte, len(classes))),
        ),
        images=sum(SIZES.values()),
    )


CIFAR100 = _spec("cifar100", "CIFAR-100", FINE_CLASSES, "fine_labels", 1)
CIFAR100_COARSE = _spec("cifar100-coarse", "CIFAR-100 with coarse labels", COARSE_CLASSES, "coarse_labels", 0)
