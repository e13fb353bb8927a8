"""CIFAR-100 (Krizhevsky 2009): a hundred fine classes, or the twenty coarse ones that they belong to."""

from collections.abc import Callable, Collection

import numpy as np

from cifar_trainer.data.cifar10 import IMAGE_SHAPE, by_pixel, python_batch
from cifar_trainer.data.dataset import (
    Archive,
    DatasetSpec,
    OfficialForm,
    OnImages,
    RawDataset,
)
from cifar_trainer.data.sources import Source
from cifar_trainer.data.unpickler import load_dictionary
from cifar_trainer.errors import DataError

FINE_CLASSES = (
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
)
COARSE_CLASSES = (
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
)
SIZES = {"train": 50_000, "test": 10_000}
_PIXELS = int(np.prod(IMAGE_SHAPE))
_PYTHON = ("train", "test", "meta")
_BINARY = ("train.bin", "test.bin")

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


def is_python_version(names: Collection[str]) -> bool:
    """Whether the members are those of the official Python version."""
    return set(_PYTHON) <= set(names)


def is_binary_version(names: Collection[str]) -> bool:
    """Whether the members are those of the official binary version."""
    return set(_BINARY) <= set(names)


def _python_reader(key: str, classes: tuple[str, ...]) -> Callable[[Source, OnImages], RawDataset]:
    def read(source: Source, on_images: OnImages) -> RawDataset:
        """Read two pickles of data, fine_labels and coarse_labels."""
        arrays = {}
        for name, content in source.read(["train", "test"]):
            where = source.describe(name)
            batch = load_dictionary(content, where)
            pixels, labels = python_batch(batch, where, key, SIZES[name], len(classes))
            arrays[name] = np.ascontiguousarray(by_pixel(pixels)), labels
            on_images(len(labels), len(labels))
        return RawDataset(classes, *arrays["train"], *arrays["test"])

    return read


def _binary_reader(byte: int, classes: tuple[str, ...]) -> Callable[[Source, OnImages], RawDataset]:
    def read(source: Source, on_images: OnImages) -> RawDataset:
        """Read records of a coarse label byte, a fine label byte, then the pixels by channel."""
        arrays = {}
        for name in _BINARY:
            split, where = name.removesuffix(".bin"), source.describe(name)
            with source.on_disk(name) as path:
                expected = SIZES[split] * (2 + _PIXELS)
                if path.stat().st_size != expected:
                    raise DataError(
                        f"{where} has {path.stat().st_size:,} bytes, expected {expected:,}: "
                        f"{SIZES[split]:,} records of {2 + _PIXELS:,}."
                    )
                records = np.fromfile(path, np.uint8).reshape(SIZES[split], 2 + _PIXELS)
            labels = records[:, byte].copy()
            wrong = np.flatnonzero(labels >= len(classes))
            if len(wrong):
                raise DataError(
                    f"{where}, record {wrong[0]}: the label is {labels[wrong[0]]}, "
                    f"expected 0 to {len(classes) - 1}."
                )
            arrays[split] = np.ascontiguousarray(by_pixel(records[:, 2:])), labels
            on_images(SIZES[split], SIZES[split])
        return RawDataset(classes, *arrays["train"], *arrays["test"])

    return read


def _spec(name: str, title: str, classes: tuple[str, ...], key: str, byte: int) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        unverified_title=f"{title} (no fingerprint to verify it by)",
        summary=f"photographs of {len(classes)} kinds of things",
        classes=classes,
        image_shape=IMAGE_SHAPE,
        archives=(PYTHON_VERSION,),
        other_archives=(BINARY_VERSION,),
        forms=(
            OfficialForm(is_python_version, _python_reader(key, classes)),
            OfficialForm(is_binary_version, _binary_reader(byte, classes)),
        ),
        images=sum(SIZES.values()),
    )


CIFAR100 = _spec("cifar100", "CIFAR-100", FINE_CLASSES, "fine_labels", 1)
CIFAR100_COARSE = _spec("cifar100-coarse", "CIFAR-100 with coarse labels", COARSE_CLASSES, "coarse_labels", 0)
