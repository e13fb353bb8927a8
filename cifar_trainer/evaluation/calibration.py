"""Whether a model's confidence matches its accuracy, and the temperature that makes it match."""

import dataclasses

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from cifar_trainer import metrics

BINS = 15
#: The temperatures that are searched; real networks lie between 0.5 and 5.
_LOG_TEMPERATURES = (np.log(0.05), np.log(100.0))


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one part of the range from 0 to 1.

    Attributes:
        low, high: the part, low < confidence <= high.
        images: their number.
        confidence: the mean; None where there are no images.
        accuracy: the share classified correctly; None where there are no images.
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
        ece: the expected calibration error (Guo et al. 2017, equation 3): the mean
            distance of confidence and accuracy over the bins, weighted by their images.
        bins: by confidence, of equal width.
    """

    ece: float
    bins: tuple[Bin, ...]


def reliability(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Reliability:
    """Compare the confidence, the largest softmax(logits / temperature), with the accuracy.

    Args:
        logits: float [N, classes].
        labels: integer [N].
        temperature: divides the logits.
    """
    confidence = softmax(logits.astype(np.float64) / temperature, axis=1).max(axis=1)
    right = logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins = []
    for i in range(BINS):
        inside = place == i
        count = int(inside.sum())
        bins.append(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                images=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    gaps = [b.images * abs(b.accuracy - b.confidence) for b in bins if b.images]  # type: ignore[operator]
    return Reliability(float(sum(gaps)) / len(labels), tuple(bins))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The reliability of a split, before and after temperature scaling.

    Attributes:
        before: at temperature 1.
        temperature: fitted on the images that the run held out; None where it held out none.
        after: at that temperature.
        fitted_on: how many images it was fitted on.
        same_images: whether they are the images that `after` was measured on.
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
    """Compare confidence with accuracy, before and after temperature scaling.

    Args:
        logits: float [N, classes].
        labels: integer [N].
        held_out: logits and labels of the training images that were held out, on which the
            temperature is fitted; None fits none, since the test set is no place to fit on.
        same_images: whether those are the images of `logits`.
    """
    before = reliability(logits, labels)
    if held_out is None:
        return Calibration(before)
    temperature = fit_temperature(*held_out)
    after = reliability(logits, labels, temperature)
    return Calibration(before, temperature, after, len(held_out[1]), same_images)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T for which softmax(logits / T) has the least cross-entropy.

    One number for all classes, so the predicted classes stay as they are (Guo et al.
    2017, section 4.2). To be fitted on images that the training did not see, and that
    the result is not judged by.

    Args:
        logits: float [N, classes].
        labels: integer [N].
    """

    def loss(log_temperature: float) -> float:
        return metrics.cross_entropy(logits.astype(np.float64) / np.exp(log_temperature), labels)

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
