"""Choose the images that a run trains on and validates on."""

import dataclasses

import numpy as np

from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Settings


def stratified_limit(labels: np.ndarray, count: int) -> np.ndarray:
    """The first images of each class, `count` in all in proportion to the classes: ascending indices."""
    shares = _shares(np.bincount(labels), count)
    first = [np.flatnonzero(labels == label)[:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(first))


def holdout(
    labels: np.ndarray, count: int, seed: int, originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set aside `count` images, stratified, chosen by `seed`. Images that belong together stay on one side.

    The choice is the same on every machine and with every NumPy version: NumPy guarantees the raw words of
    PCG64 (NEP 19), but not the methods of Generator.

    Args:
        labels: whole numbers [N].
        count: 0 to N. With copies or groups, fewer may be set aside.
        seed: 0 to 2**32 - 1.
        originals: the index of the first image that each belongs to, int64 [N] (`find_originals`); None if
            each stands alone.

    Returns:
        The remaining indices and those set aside, each int64 and ascending.
    """
    return _set_aside(labels, _shares(np.bincount(labels), count), seed, originals)


def stratified_part(
    labels: np.ndarray, fraction: float, seed: int, originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set aside a share of each class as `holdout` does, but at least one image of each.

    Each class needs at least two different images.
    """
    sizes = np.bincount(labels)
    shares = [min(max(round(int(size) * fraction), 1), int(size) - 1) if size else 0 for size in sizes]
    return _set_aside(labels, shares, seed, originals)


def _set_aside(
    labels: np.ndarray, shares: list[int], seed: int, originals: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    keys = np.random.PCG64(seed).random_raw(len(labels))
    every = np.arange(len(labels))
    originals = every if originals is None else originals
    copies = np.bincount(originals, minlength=len(labels))
    aside = np.zeros(len(labels), bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero((labels == label) & (originals == every))
        members = members[np.argsort(keys[members], kind="stable")]
        aside[_fill(members, copies[members], share)] = True
    aside = aside[originals]
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _fill(members: np.ndarray, copies: np.ndarray, share: int) -> np.ndarray:
    """The first images that, with their copies, make up `share` images."""
    if (copies == 1).all():
        return members[:share]
    chosen = []
    for position, count in enumerate(copies):
        if count <= share:
            chosen.append(position)
            share -= int(count)
    if not chosen and share and len(members) > 1:
        chosen = [int(np.argmin(copies))]
    # At least one image remains.
    return members[chosen[: len(members) - 1]]


def _shares(sizes: np.ndarray, count: int) -> list[int]:
    """Distribute `count` in proportion to `sizes` by largest remainder, in whole numbers."""
    total = int(sizes.sum())
    shares = [count * int(size) // total for size in sizes]
    remainders = [count * int(size) % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda label: -remainders[label])
    for label in by_remainder[: count - sum(shares)]:
        shares[label] += 1
    return shares


#: --validation holdout sets aside one training image in this many: 5,000 of CIFAR-10's 50,000.
HOLDOUT_FRACTION = 10


def split_for(dataset: Dataset, config: Settings) -> tuple[np.ndarray, Split]:
    """The indices of the training images of a run, int64 [N], and its validation split.

    The held-out images are chosen first, so runs with and without --limit hold out the same ones. With
    --validation train, the split is a tenth of the training images, the first of each class.
    """
    train = dataset.train
    indices, validation = np.arange(len(train)), dataset.test
    if config.validation == "holdout":
        count = len(train) // HOLDOUT_FRACTION
        indices, held_out = holdout(train.labels, count, config.seed, dataset.originals)
        validation = train.take(held_out)
    if config.limit is not None:
        indices = indices[stratified_limit(train.labels[indices], config.limit)]
    if config.validation == "train":
        count = max(1, len(indices) // HOLDOUT_FRACTION)
        validation = train.take(indices[stratified_limit(train.labels[indices], count)])
    return indices, validation


def evaluated_split(dataset: Dataset, config: Settings, name: str) -> Split:
    """The split `test`, or the images that the run held out, `validation`."""
    return dataset.test if name == "test" else split_for(dataset, config)[1]


def check_split(config: Settings, split_name: str) -> None:
    """Raise UsageError if a run lacks the split: only --validation holdout sets validation images aside."""
    if split_name == "validation" and config.validation != "holdout":
        raise UsageError(
            f"--split validation: this run (--validation {config.validation}) held out no training images. "
            "Evaluate it with --split test, or train with --validation holdout."
        )


def fit_batch_size(dataset: Dataset, config: Settings) -> Settings:
    """Reduce the batch size to the number of training images."""
    images = min(config.limit or len(dataset.train), _available(dataset, config))
    return dataclasses.replace(config, batch_size=min(config.batch_size, images))


def _available(dataset: Dataset, config: Settings) -> int:
    """The number of training images that are not held out."""
    images = len(dataset.train)
    if config.validation == "holdout":
        aside = holdout(dataset.train.labels, images // HOLDOUT_FRACTION, config.seed, dataset.originals)[1]
        images -= len(aside)
    return images


def check_fit(dataset: Dataset, config: Settings) -> None:
    """Raise UsageError if no image can be held out, or if --limit or --batch-size exceeds the images."""
    available = _available(dataset, config)
    if config.validation == "holdout" and available == len(dataset.train):
        raise UsageError(
            f"--validation holdout cannot set aside a tenth of these {available:,} training images: there "
            "are too few, or too few groups of images that stay together. Add images, or leave it out."
        )
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
