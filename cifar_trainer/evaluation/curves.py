"""Precision against recall, one class against the others."""

import dataclasses

import numpy as np
from scipy.special import softmax
from sklearn.metrics import average_precision_score, precision_recall_curve


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
        precision, recall, _ = precision_recall_curve(of_class, score)
        curves.append(PrecisionRecall(precision, recall, float(average_precision_score(of_class, score))))
    return tuple(curves)
