"""Occlusion: how a prediction changes if part of the image is covered (Zeiler & Fergus 2014, section 4.2)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cifar_trainer.artefacts.formats import Predictions

#: Side of the square as a share of the image's, its positions along each axis, and its grey value.
SHARE, POSITIONS, GREY = 0.25, 13, 128


def occlude(predict: Callable[[np.ndarray], "Predictions"], image: np.ndarray, class_id: int) -> np.ndarray:
    """Move a grey square over an image, and measure a class's probability at each position.

    Args:
        predict: predicts the classes of uint8 [N, H, W, C].
        image: uint8 [H, W, C].
        class_id: the class.

    Returns:
        The share of the probability that is lost if a pixel is covered, float [H, W] from 0 to 1: the mean
        over the squares that cover it.
    """
    rows, columns = map(_intervals, image.shape[:2])
    squares = (rows[:, None, :, None] & columns[:, None]).reshape(-1, *image.shape[:2])
    covered = np.where(squares[..., None], np.uint8(GREY), image)
    left = predict(covered).probabilities[:, class_id] / predict(image[None]).probabilities[0, class_id]
    lost: np.ndarray = np.tensordot(1 - left, squares, 1) / squares.sum(axis=0)
    return lost.clip(0, 1)


def _intervals(length: int) -> np.ndarray:
    """Whether each pixel of an axis is in the square, at each position: bool [POSITIONS, length]."""
    side = max(1, round(length * SHARE))
    starts = np.linspace(0, length - side, POSITIONS).round()[:, None]
    pixels = np.arange(length)
    return (starts <= pixels) & (pixels < starts + side)
