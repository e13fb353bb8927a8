"""Figures of a classifier from its logits, in NumPy, SciPy and scikit-learn; no TensorFlow."""

import dataclasses

import numpy as np
from scipy.special import logsumexp, ndtri
from sklearn.metrics import confusion_matrix as _confusion_matrix
from sklearn.metrics import precision_recall_fscore_support


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross-entropy in nats, computed in float64.

    Args:
        logits: float [N, classes].
        labels: integer [N].
    """
    wide = logits.astype(np.float64)
    return float((logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels]).mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose largest logit is the label's; ties go to the lower class."""
    return float((logits.argmax(axis=1) == labels).mean())


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class (row) were taken for each class (column): int64 [classes, classes]."""
    matrix: np.ndarray = _confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Of one class, or the unweighted mean over the classes (`macro`).

    Attributes:
        precision: of the images taken for the class, the share that is; 0 where none was.
        recall: of the class's images, the share that was found; 0 where there is none.
        f1: their harmonic mean, 0 where both are 0.
        support: the class's images.
    """

    precision: float
    recall: float
    f1: float
    support: int


def per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[ClassFigures, ...]:
    """Precision, recall and F1 of each class, by label."""
    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=0.0
    )
    return tuple(
        ClassFigures(float(precision), float(recall), float(f1), int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    )


def macro(figures: tuple[ClassFigures, ...]) -> ClassFigures:
    """The unweighted mean over the classes; F1 is the mean of the classes' F1."""
    return ClassFigures(
        precision=float(np.mean([f.precision for f in figures])),
        recall=float(np.mean([f.recall for f in figures])),
        f1=float(np.mean([f.f1 for f in figures])),
        support=sum(f.support for f in figures),
    )


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share from `successes` of `count` (Wilson 1927; Brown, Cai & DasGupta 2001, 3.1.1).

    Unlike the textbook's ± 1.96 standard errors it stays within 0 and 1, and is not
    empty at 0 of n. Of nothing it is (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    share = successes / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
