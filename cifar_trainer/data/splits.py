"""Which images a run trains on, and which it validates on."""

import numpy as np

from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Settings


def stratified_limit(labels: np.ndarray, count: int) -> np.ndarray:
    """The indices of the first `count` images, stratified: the first of each class, by its share.

    Args:
        labels: uint8 [N].
        count: how many, 1 to N.

    Returns:
        int64 [count], ascending.
    """
    shares = _shares(np.bincount(labels), count)
    first = [np.flatnonzero(labels == label)[:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(first))


def holdout(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Set `count` images aside, stratified, chosen by `seed`.

    The choice is the same on every machine and with every NumPy: the raw words of
    PCG64 are part of NumPy's promise (NEP 19), the methods of Generator are not.

    Args:
        labels: uint8 [N].
        count: how many to set aside, 0 to N.
        seed: 0 to 2**32 - 1.

    Returns:
        The indices that are left and those set aside, each int64 and ascending.
    """
    keys = np.random.PCG64(seed).random_raw(len(labels))
    aside = np.zeros(len(labels), bool)
    for label, share in enumerate(_shares(np.bincount(labels), count)):
        members = np.flatnonzero(labels == label)
        aside[members[np.argsort(keys[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def stratified_part(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Set a part of each class aside, chosen by `seed` as in `holdout`, but at least one image of each.

    Args:
        labels: whole numbers [N], each class with two images or more.
        fraction: how much of each class, 0 to 1, both excluded.
        seed: 0 to 2**32 - 1.

    Returns:
        The indices that are left and those set aside, each int64 and ascending.
    """
    keys = np.random.PCG64(seed).random_raw(len(labels))
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        share = min(max(round(len(members) * fraction), 1), len(members) - 1)
        aside[members[np.argsort(keys[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _shares(sizes: np.ndarray, count: int) -> list[int]:
    """`count` split in proportion to `sizes` by largest remainder, in whole numbers only."""
    total = int(sizes.sum())
    shares = [count * int(size) // total for size in sizes]
    remainders = [count * int(size) % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda label: -remainders[label])
    for label in by_remainder[: count - sum(shares)]:
        shares[label] += 1
    return shares


#: The part of the training images that --validation holdout sets aside: 5,000 of CIFAR-10's 50,000.
HOLDOUT_FRACTION = 10


def split_for(dataset: Dataset, config: Settings) -> tuple[np.ndarray, Split]:
    """The indices of the training images of a run, int64 [N], and the split that it watches.

    The held-out images are chosen first: a run with --limit and one without hold out
    the same ones. Under --validation train the split is a tenth of the images that are trained on, the
    first of each class.
    """
    labels = dataset.train.labels
    if config.validation == "holdout":
        indices, held_out = holdout(labels, len(labels) // HOLDOUT_FRACTION, config.seed)
        whole = dataset.train
        watched = Split(whole.images[held_out], labels[held_out], whole.fingerprint, whole.sha256)
    else:
        indices, watched = np.arange(len(labels)), dataset.test
    if config.limit is not None:
        indices = indices[stratified_limit(labels[indices], config.limit)]
    if config.validation == "train":
        some = indices[stratified_limit(labels[indices], max(1, len(indices) // HOLDOUT_FRACTION))]
        whole = dataset.train
        watched = Split(whole.images[some], labels[some], whole.fingerprint, whole.sha256)
    return indices, watched


def evaluated_split(dataset: Dataset, config: Settings, name: str) -> Split:
    """The images of `test`, or those that the run held out as `validation`."""
    return dataset.test if name == "test" else split_for(dataset, config)[1]


def check_split(config: Settings, split_name: str) -> None:
    """Raise UsageError where a run has no such split: only `holdout` sets validation images aside."""
    if split_name == "validation" and config.validation != "holdout":
        raise UsageError(
            f"--split validation: this run (--validation {config.validation}) held no training images back. "
            "Evaluate it with --split test, or train with --validation holdout."
        )


def check_fit(dataset: Dataset, config: Settings) -> None:
    """Raise UsageError, with the largest value possible, where the settings ask for more than there is."""
    available = len(dataset.train)
    if config.validation == "holdout":
        available -= available // HOLDOUT_FRACTION
    if config.limit is not None and config.limit > available:
        raise UsageError(
            f"--limit {config.limit} is more than the {available} training images; "
            f"the largest possible is {available}."
        )
    images = available if config.limit is None else config.limit
    if config.batch_size > images:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {images} training images; "
            f"the largest possible is {images}."
        )
