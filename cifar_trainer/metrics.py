"""Metrics of a classifier, computed from its logits without TensorFlow.

Throughout, `logits` are float [N, classes] and `labels` are integers [N].
"""

import dataclasses
import itertools

import numpy as np
import sklearn.metrics
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest


def image_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image in nats: float64 [N]."""
    wide = logits.astype(np.float64)
    losses: np.ndarray = logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels]
    return losses


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats, computed in float64."""
    return float(image_losses(logits, labels).mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the label's; ties go to the lower class."""
    return float((logits.argmax(axis=1) == labels).mean())


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts by true class (row) and predicted class (column): int64 [classes, classes]."""
    matrix: np.ndarray = sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix


def per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> list[dict[str, float | int]]:
    """Precision, recall, F1 and `support` (number of images) of each class; 0 if undefined."""
    columns = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=0.0
    )
    keys = ("precision", "recall", "f1", "support")
    return [dict(zip(keys, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall of the classes that have images (Brodersen et al. 2010).

    It equals the accuracy if all classes have the same number of images.
    """
    return float(sklearn.metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001, 3.1.1).

    Unlike ± 1.96 standard errors, it stays within 0 and 1 and is not empty for 0 of n. Without images it is
    (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), int(count)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclasses.dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision-recall curve of one class.

    Attributes:
        precision, recall: float [K], from the lowest threshold to the highest; the last
            point is precision 1 at recall 0.
        average_precision: sum of each threshold's precision times its gain in recall, without
            interpolation; NaN if the split has no image of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float


def precision_recall_curves(logits: np.ndarray, labels: np.ndarray) -> tuple[PrecisionRecall, ...]:
    """Precision-recall curve of each class, by the class's probability."""
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
    """A misclassified image.

    Attributes:
        index: position in the evaluated images.
        true, predicted: labels of the two classes.
        confidence: probability of the predicted class, at temperature 1.
    """

    index: int
    true: int
    predicted: int
    confidence: float


def most_confident_errors(logits: np.ndarray, labels: np.ndarray, count: int) -> tuple[Mistake, ...]:
    """At most `count` errors, most confident first; ties in the order of the images."""
    predicted, confidence = logits.argmax(axis=1), max_probability(logits)
    wrong = np.flatnonzero(predicted != labels)
    first = wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]
    return tuple(Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in first)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A pair of classes that the model confuses.

    Attributes:
        images: number of images of `true` that were predicted as `predicted`.
        share: their share of all images of `true`.
    """

    true: int
    predicted: int
    images: int
    share: float


def top_confusions(matrix: np.ndarray, count: int) -> tuple[Confusion, ...]:
    """The `count` largest off-diagonal cells, largest first; empty cells are omitted."""
    off = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    fullest = np.argsort(-off, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(fullest, off.shape)
    return tuple(
        Confusion(int(r), int(c), int(off[r, c]), float(off[r, c] / matrix[r].sum()))
        for r, c in zip(rows, columns, strict=True)
        if off[r, c] > 0
    )


def margins(logits: np.ndarray) -> np.ndarray:
    """Difference between the largest and second-largest softmax probability of each image: float64 [N]."""
    second, largest = np.partition(softmax(logits.astype(np.float64), axis=1), -2, axis=1)[:, -2:].T
    gaps: np.ndarray = largest - second
    return gaps


# Calibration: how well confidence matches accuracy, and the temperature that improves the match.

BINS = 15
#: Bounds for the search for a temperature; that of real networks is between 0.5 and 5.
_LOG_TEMPERATURES = (np.log(0.05), np.log(100.0))


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose confidence is in one interval.

    Attributes:
        low, high: the interval, low < confidence <= high.
        images: number of images.
        confidence, accuracy: means over these images; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How well confidence matches accuracy.

    Attributes:
        ece: expected calibration error (Guo et al. 2017, equation 3): mean absolute difference between
            confidence and accuracy over the bins, weighted by their numbers of images.
        bins: bins of equal width, by confidence.
    """

    ece: float
    bins: tuple[Bin, ...]


def reliability(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Reliability:
    """Compare confidence, the largest softmax(logits / temperature), with accuracy."""
    confidence = max_probability(logits.astype(np.float64) / temperature)
    correct = logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins, distance = [], 0.0
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = bin_of == i
        count = int(inside.sum())
        if count == 0:
            bins.append(Bin(float(low), float(high), 0, None, None))
            continue
        mean, share = float(confidence[inside].mean()), float(correct[inside].mean())
        distance += count * abs(share - mean)
        bins.append(Bin(float(low), float(high), count, mean, share))
    return Reliability(distance / len(labels), tuple(bins))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability on a split, before and after temperature scaling.

    Attributes:
        before: at temperature 1.
        temperature: fitted on the held-out training images; None if the run held none out.
        after: at that temperature.
        fitted_on: number of images used to fit the temperature.
        same_images: whether `after` was measured on those images.
    """

    before: Reliability
    temperature: float | None = None
    after: Reliability | None = None
    fitted_on: int = 0
    same_images: bool = False


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    *,
    same_images: bool = False,
) -> Calibration:
    """Measure reliability before and after temperature scaling.

    Args:
        logits, labels: the images to measure on.
        held_out: logits and labels of the held-out training images, for fitting the temperature. None skips
            fitting: the test set must not be used for it.
        same_images: whether the two sets of images are the same.
    """
    before = reliability(logits, labels)
    if held_out is None:
        return Calibration(before)
    temperature = fit_temperature(*held_out)
    after = reliability(logits, labels, temperature)
    return Calibration(before, temperature, after, len(held_out[1]), same_images)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimizes the cross-entropy of softmax(logits / T).

    A single number for all classes, so predictions do not change (Guo et al. 2017, section 4.2). Fit it on
    images that are used neither for training nor for evaluation.
    """

    def loss(log_temperature: float) -> float:
        return cross_entropy(logits.astype(np.float64) / np.exp(log_temperature), labels)

    minimum = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


# Unfamiliar images: scores for the similarity of an image to the training data.


def energy(logits: np.ndarray) -> np.ndarray:
    """Energy of each image, -log(sum(exp(logits))): float64 [N] (Liu et al. 2020, equation 4, T = 1).

    Lower for images that resemble the training data. Takes logits without temperature scaling.
    """
    energies: np.ndarray = -logsumexp(logits.astype(np.float64), axis=1)
    return energies


def max_probability(logits: np.ndarray) -> np.ndarray:
    """Largest softmax probability of each image: float64 [N] (Hendrycks & Gimpel 2017, section 2).

    Higher for images that resemble the training data.
    """
    largest: np.ndarray = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return largest


#: Share of familiar images that pass the thresholds.
FAMILIAR_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds for unfamiliar images, for logits without temperature scaling.

    Attributes:
        energy: an image with a higher energy is unfamiliar. `is_unfamiliar` uses this score.
        probability: by this score, an image with a lower largest softmax probability is unfamiliar.
    """

    energy: float
    probability: float

    def is_unfamiliar(self, logits: np.ndarray) -> np.ndarray:
        """Whether each image is unfamiliar by its energy: bool [N]."""
        unfamiliar: np.ndarray = energy(logits) > self.energy
        return unfamiliar


def fit_thresholds(logits: np.ndarray) -> Thresholds:
    """The thresholds that `FAMILIAR_SHARE` of these images pass. Labels are not needed."""
    return Thresholds(
        energy=float(np.quantile(energy(logits), FAMILIAR_SHARE, method="higher")),
        probability=float(np.quantile(max_probability(logits), 1 - FAMILIAR_SHARE, method="lower")),
    )
