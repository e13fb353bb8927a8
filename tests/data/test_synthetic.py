"""The synthetic set: the same bytes everywhere, ten classes, never called CIFAR-10."""

import json
from pathlib import Path

import numpy as np
from builders import RunCli

from cifar_trainer.data.store import load_dataset
from cifar_trainer.data.synthetic import CLASSES

TRAIN = "5f3dcfe11a696befbedb70cb24721efef700e04ceb9fb6f188760efb545e3af4"
TEST = "5a9ed304f821fe861cd40967916b160345e8d4c1a9ee67ad2dd4728590b97f42"


def test_same_pictures_on_every_machine(data_dir: Path) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    assert (dataset.train.fingerprint, dataset.test.fingerprint) == (TRAIN, TEST)


def test_ten_classes_of_equal_size_in_turn(data_dir: Path) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    assert dataset.classes == CLASSES and len(dataset.train) == 10_000 and len(dataset.test) == 2_000
    np.testing.assert_array_equal(dataset.train.labels, np.arange(10_000) % 10)
    np.testing.assert_array_equal(dataset.test.labels, np.arange(2_000) % 10)


def test_no_picture_twice(data_dir: Path) -> None:
    """Not within a split, and not in both."""
    dataset = load_dataset(data_dir, "synthetic")
    pictures = [image.tobytes() for split in (dataset.train, dataset.test) for image in split.images]
    assert len(set(pictures)) == 12_000


def test_never_called_cifar10(data_dir: Path, run_cli: RunCli) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    assert not dataset.verified and dataset.title == "synthetic images (not CIFAR-10)"
    said = run_cli(["prepare", "--dataset", "synthetic", "--data-dir", data_dir])
    assert "synthetic images (not CIFAR-10)" in said.stdout
    said = run_cli(["prepare", "--dataset", "synthetic", "--data-dir", data_dir, "--json"])
    assert json.loads(said.stdout)["verified"] is False
