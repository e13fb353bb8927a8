"""Sets of classes that contain the right one with a chosen probability: split conformal prediction.

A set contains the classes whose softmax probability, without temperature, reaches a threshold (Angelopoulos &
Bates 2021, section 1; the score is 1 - probability). If it is empty, the answer is "unknown".
"""

import dataclasses
from typing import Any

import numpy as np

from cifar_trainer.errors import UsageError

#: Coverages to choose from, in per cent.
PERCENTS = range(50, 100)
#: Minimum number of held-out images per class for thresholds by class. The rank ceil((n + 1) 0.99) exists
#: from n = 99; there, the coverage of a class at 90 % has a standard deviation of 3 % (ibid., section 3.2).
MIN_CLASS_IMAGES = 100
#: Share by which the odds at a threshold are lowered. A threshold is the probability of a held-out image, and
#: an export may differ: its logits by up to 1e-4, so its odds by a factor of up to 1.0002.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSets:
    """Builds sets that contain the right class with the probability `coverage`.

    Attributes:
        thresholds: lowest probability of a class in a set, float64 [classes], or [1] for all classes.
    """

    coverage: float
    thresholds: np.ndarray

    def contain(self, logits: np.ndarray) -> np.ndarray:
        """Whether each class is in the set of each image: bool [N, classes]."""
        contained: np.ndarray = _probabilities(logits) >= self.thresholds
        return contained


@dataclasses.dataclass(frozen=True)
class Coverage:
    """A model's thresholds.

    Attributes:
        images: number of held-out images that they were fitted on.
        by_class: whether each class has its own threshold, so that the promise holds for each class.
        thresholds: those of `ClassSets` by per cent; coverages that need more images are missing.
        measured: results on test images: the `coverage`; the share of sets that contain the right class,
            `measured`, with its 95 % `interval` (Wilson); the `mean_size` of a set; the share of empty sets,
            `unknown`.
    """

    images: int
    by_class: bool
    thresholds: dict[str, tuple[float, ...]]
    measured: tuple[dict[str, Any], ...] = ()

    def at(self, percent: int) -> ClassSets:
        """The sets of a coverage, one of `thresholds`."""
        return ClassSets(percent / 100, np.array(self.thresholds[str(percent)]))


def parse_coverage(value: float | str) -> int:
    """Parse a coverage such as `90%` or 0.9 to per cent; UsageError if it is not one of `PERCENTS`."""
    text = str(value).strip()
    try:
        percent = round(float(text[:-1]) if text.endswith("%") else 100 * float(text), 6)
    except ValueError:
        percent = 0.0
    if percent not in PERCENTS:
        raise UsageError(f"--coverage {value}: expected 50% to 99% in whole per cent, such as 90% or 0.9.")
    return int(percent)


def fit_coverage(logits: np.ndarray, labels: np.ndarray) -> Coverage:
    """Fit the thresholds on held-out images: float [N, classes], and integers [N].

    A threshold is the ceil((N + 1) coverage)-th largest probability of the right class: of all images or,
    with `MIN_CLASS_IMAGES` of each class, of the images of one class (ibid., section 4.2).
    """
    right = _probabilities(logits)[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=logits.shape[1])
    by_class = bool(counts.min() >= MIN_CLASS_IMAGES)
    groups = [right[labels == label] for label in range(len(counts))] if by_class else [right]
    thresholds = {
        str(percent): tuple(_threshold(group, percent) for group in groups)
        for percent in PERCENTS
        if min(map(len, groups)) * (100 - percent) >= percent
    }
    return Coverage(len(labels), by_class, thresholds)


def _threshold(probabilities: np.ndarray, percent: int) -> float:
    lowest = float(np.sort(probabilities)[(len(probabilities) + 1) * -percent // 100])
    return lowest * (1 - _TOLERANCE) / (1 - lowest * _TOLERANCE)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax  # Slow to import.

    probabilities: np.ndarray = softmax(logits.astype(np.float64), axis=1)
    return probabilities
