"""Parts of a split keep each class's share, and are the same on every machine."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cifar_trainer.data.splits import holdout, split_for, stratified_limit
from cifar_trainer.data.store import load_dataset
from cifar_trainer.settings import Settings

LABELS = (np.arange(50_000) * 7919 % 10).astype(np.uint8)
UNEVEN = np.repeat(np.arange(10, dtype=np.uint8), [1, 2, 3, 4, 5, 60, 70, 80, 90, 100])


def test_limit_takes_the_first_of_each_class() -> None:
    indices = stratified_limit(LABELS, 2_000)
    assert np.bincount(LABELS[indices]).tolist() == [200] * 10
    for label in range(10):
        first = np.flatnonzero(label == LABELS)[:200]
        np.testing.assert_array_equal(indices[LABELS[indices] == label], first)
    assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize("labels", [LABELS, UNEVEN])
@pytest.mark.parametrize("count", [1, 7, 10, 123, 415])
def test_limit_is_exact_and_proportional(labels: np.ndarray, count: int) -> None:
    indices = stratified_limit(labels, count)
    assert len(set(indices.tolist())) == count
    shares = np.bincount(labels) * count / len(labels)
    assert (abs(np.bincount(labels[indices], minlength=10) - shares) < 1).all()


def test_limit_of_everything_is_everything() -> None:
    np.testing.assert_array_equal(stratified_limit(UNEVEN, len(UNEVEN)), np.arange(len(UNEVEN)))


def test_holdout_is_stratified_and_shares_no_image_with_the_rest() -> None:
    rest, aside = holdout(LABELS, 5_000, seed=0)
    assert np.bincount(LABELS[aside]).tolist() == [500] * 10
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, aside])), np.arange(50_000))


def test_holdout_depends_on_the_seed_alone() -> None:
    _, aside = holdout(LABELS, 5_000, seed=0)
    assert not np.array_equal(aside, holdout(LABELS, 5_000, seed=1)[1])
    np.random.seed(3)
    np.testing.assert_array_equal(aside, holdout(LABELS, 5_000, seed=0)[1])
    # Pinned: another NumPy, another processor must choose the same images.
    digest = hashlib.sha256(aside.astype("<i8").tobytes()).hexdigest()
    assert digest == "af1098a0d464d73b2f3b09b2fdd8de672f1f0c83e5abada8b49973d93c352019"


def test_a_run_that_validates_on_training_images_watches_a_tenth_of_those_it_trains_on(
    data_dir: Path,
) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    config = Settings("tutorial", "synthetic", 1, 32, 0.001, validation="train", limit=500)
    indices, watched = split_for(dataset, config)
    trained_on = {image.tobytes() for image in dataset.train.images[indices]}
    assert [len(watched), {image.tobytes() for image in watched.images} <= trained_on] == [50, True]


def test_a_run_that_validates_on_training_images_trains_on_all_of_them(data_dir: Path) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    config = Settings("tutorial", "synthetic", 1, 32, 0.001, validation="train")
    np.testing.assert_array_equal(split_for(dataset, config)[0], np.arange(len(dataset.train)))
