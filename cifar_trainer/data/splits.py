"""Parts of a split, chosen so that each class keeps its share."""

import numpy as np


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


def _shares(sizes: np.ndarray, count: int) -> list[int]:
    """`count` split in proportion to `sizes` by largest remainder, in whole numbers only."""
    total = int(sizes.sum())
    shares = [count * int(size) // total for size in sizes]
    remainders = [count * int(size) % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda label: -remainders[label])
    for label in by_remainder[: count - sum(shares)]:
        shares[label] += 1
    return shares
