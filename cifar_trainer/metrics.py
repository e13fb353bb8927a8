"""Figures of a classifier from its logits, in NumPy and scikit-learn; no TensorFlow."""

import numpy as np
from scipy.special import logsumexp


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
