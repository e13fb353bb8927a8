"""Occlusion: how a prediction changes if part of the image is covered (Zeiler & Fergus 2014, section 4.2)."""

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cifar_trainer.artefacts.formats import Predictions

#: Side of the square as a share of the image's, its positions along each axis, and its grey value.
SHARE, POSITIONS, GREY = 0.25, 13, 128


def occlude(
    predict: Callable[[np.ndarray], "Predictions"], image: np.ndarray, class_id: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Move a grey square over an image, and measure a class's probability at each position.

    Args:
        predict: predicts the classes of uint8 [N, H, W, C].
        image: uint8 [H, W, C].
        class_id: the class.

    Returns:
        - The share of the probability that is lost if a pixel is covered, float [H, W] from 0 to 1: the mean
          over the squares that cover it.
        - The image with the square that lowers the probability most, uint8 [H, W, C].
        - That square's `box` (left, top, right, bottom), the `probability` then, and the most likely `class`.
    """
    sides = [max(1, round(length * SHARE)) for length in image.shape[:2]]
    starts = [
        np.linspace(0, length - side, POSITIONS).round().astype(int).tolist()
        for length, side in zip(image.shape, sides, strict=False)
    ]
    boxes = [(left, top, left + sides[1], top + sides[0]) for top, left in product(*starts)]
    squares = np.zeros((len(boxes), *image.shape[:2]), bool)
    for square, (left, top, right, bottom) in zip(squares, boxes, strict=True):
        square[top:bottom, left:right] = True
    covered = np.where(squares[..., None], np.uint8(GREY), image)
    predictions, whole = predict(covered), predict(image[None])
    probabilities = predictions.probabilities[:, class_id]
    lost = 1 - probabilities / whole.probabilities[0, class_id]
    mean = (np.tensordot(lost, squares, 1) / squares.sum(axis=0)).clip(0, 1)
    worst = int(lost.argmax())
    then = {"probability": float(probabilities[worst]), "class": predictions.class_name[worst]}
    return mean, covered[worst], {"box": boxes[worst], **then}
