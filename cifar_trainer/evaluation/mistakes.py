"""The mistakes that a model was surest of, and the pairs of classes that it mixes up."""

import dataclasses

import numpy as np
from scipy.special import softmax


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class.

    Attributes:
        index: its place in the split.
        true, predicted: the classes' labels.
        confidence: the predicted class's probability, at temperature 1.
    """

    index: int
    true: int
    predicted: int
    confidence: float


def confident_mistakes(logits: np.ndarray, labels: np.ndarray, count: int) -> tuple[Mistake, ...]:
    """The `count` mistakes of the highest confidence, the surest first; ties by their place.

    Args:
        logits: float [N, classes].
        labels: integer [N].
        count: how many at most.
    """
    predicted = logits.argmax(axis=1)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]
    return tuple(Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in surest)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Two classes that are mixed up.

    Attributes:
        true, predicted: the classes' labels.
        images: how many of `true` were taken for `predicted`.
        share: of all images of `true`.
    """

    true: int
    predicted: int
    images: int
    share: float


def top_confusions(matrix: np.ndarray, count: int) -> tuple[Confusion, ...]:
    """The cells off the diagonal with the most images, the fullest first; empty ones left out."""
    off = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    fullest = np.argsort(-off, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(fullest, off.shape)
    return tuple(
        Confusion(int(r), int(c), int(off[r, c]), float(off[r, c] / matrix[r].sum()))
        for r, c in zip(rows, columns, strict=True)
        if off[r, c] > 0
    )
