"""Figures of a classifier from its logits, in NumPy, SciPy and scikit-learn; no TensorFlow."""

import dataclasses

import numpy as np
import sklearn.metrics
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest


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
    matrix: np.ndarray = sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of one class.

    Attributes:
        precision: of the images predicted as the class, the share that is; 0 where there is none.
        recall: of the class's images, the share predicted as it; 0 where there is none.
        f1: their harmonic mean, 0 where both are 0.
        support: the class's images.
    """

    precision: float
    recall: float
    f1: float
    support: int


def per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[ClassFigures, ...]:
    """Precision, recall and F1 of each class, by label."""
    columns = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=0.0
    )
    return tuple(
        ClassFigures(float(precision), float(recall), float(f1), int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    )


def macro(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """The unweighted means over the classes of `precision`, `recall` and `f1`."""
    means = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average="macro", zero_division=0.0
    )
    return dict(zip(("precision", "recall", "f1"), map(float, means[:3]), strict=True))


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean recall of the classes that have images (Brodersen et al. 2010).

    Where all classes have the same number of images it is the accuracy.
    """
    return float(sklearn.metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share from `successes` of `count` (Wilson 1927; Brown, Cai & DasGupta 2001, 3.1.1).

    Unlike the textbook's ± 1.96 standard errors it stays within 0 and 1, and is not
    empty at 0 of n. For no images it is (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), int(count)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclasses.dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One class's curve.

    Attributes:
        precision, recall: float [K], from the lowest threshold to the highest; the last
            point is precision 1 at recall 0.
        average_precision: the sum of each threshold's precision times what it adds to the
            recall; no interpolation. NaN where the split has no image of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


def precision_recall_curves(logits: np.ndarray, labels: np.ndarray) -> tuple[PrecisionRecall, ...]:
    """The curve of each class, by its probability.

    Args:
        logits: float [N, classes].
        labels: integer [N].
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    curves = []
    for label in range(logits.shape[1]):
        of_class, score = labels == label, probabilities[:, label]
        if not of_class.any():
            curves.append(PrecisionRecall(np.ones(1), np.zeros(1), float("nan")))
            continue
        precision, recall, _ = sklearn.metrics.precision_recall_curve(of_class, score)
        average = sklearn.metrics.average_precision_score(of_class, score)
        curves.append(PrecisionRecall(precision, recall, float(average)))
    return tuple(curves)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One image that was predicted as another class.

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
    """The `count` most confident mistakes, the most confident first; ties by their place.

    Args:
        logits: float [N, classes].
        labels: integer [N].
        count: how many at most.
    """
    predicted = logits.argmax(axis=1)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    first = wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]
    return tuple(Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in first)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A class and another that it is predicted as.

    Attributes:
        true, predicted: the classes' labels.
        images: how many of `true` were predicted as `predicted`.
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


def energy(logits: np.ndarray) -> np.ndarray:
    """The energy of each image, -log(sum(exp(logits))) in float64 [N] (Liu et al. 2020, equation 4, T = 1).

    It is lower for images like those that the model was trained on. The logits are taken as
    the model gives them: no temperature.
    """
    energies: np.ndarray = -logsumexp(logits.astype(np.float64), axis=1)
    return energies


def max_probability(logits: np.ndarray) -> np.ndarray:
    """The largest softmax probability of each image, float64 [N] (Hendrycks & Gimpel 2017, section 2).

    It is higher for images like those that the model was trained on. No temperature is applied.
    """
    largest: np.ndarray = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return largest


#: The share of the familiar images that the thresholds let pass.
FAMILIAR_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Beyond them an image is called unfamiliar; both are of the logits as the model gives them.

    Attributes:
        energy: an image is unfamiliar whose energy is higher. This is the score that decides.
        probability: the same by the largest softmax probability, where that is lower.
    """

    energy: float
    probability: float

    def is_unfamiliar(self, logits: np.ndarray) -> np.ndarray:
        """Whether each image is unfamiliar by its energy: bool [N], of logits [N, classes]."""
        unfamiliar: np.ndarray = energy(logits) > self.energy
        return unfamiliar


def fit_thresholds(logits: np.ndarray) -> Thresholds:
    """The thresholds that let `FAMILIAR_SHARE` of these images pass.

    To be fitted on images that the training did not see. Labels play no part.

    Args:
        logits: float [N, classes].
    """
    return Thresholds(
        energy=float(np.quantile(energy(logits), FAMILIAR_SHARE, method="higher")),
        probability=float(np.quantile(max_probability(logits), 1 - FAMILIAR_SHARE, method="lower")),
    )
