"""What a served model is compared with: known answers for its warm-up, and measures of ordinary images.

`export` writes it into the manifest, under `baseline`, so that a server needs no data set.
"""

import base64
import dataclasses
from typing import Any

import numpy as np

from cifar_trainer.artefacts.formats import softmax
from cifar_trainer.images import encode_png

#: Images of which a baseline keeps the measures.
SAMPLE = 500
#: Images of which it keeps the logits.
ANSWERS = 8


@dataclasses.dataclass(frozen=True)
class KnownAnswer:
    """An image, as a PNG file in base64, and the logits that the Keras model gives it."""

    png: str
    logits: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """How a model answers the images that it was validated on.

    Attributes:
        class_counts: how many of the images it puts into each class.
        measures: what `measure_images` and the confidence say of a sample of them, by name.
        answers: a few images with their logits.
    """

    class_counts: tuple[int, ...]
    measures: dict[str, tuple[float, ...]]
    answers: tuple[KnownAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """The baseline as a JSON object."""
        return dataclasses.asdict(self)


def make_baseline(images: np.ndarray, logits: np.ndarray, temperature: float) -> Baseline:
    """Describe images and a model's answers to them.

    Args:
        images: uint8 [N, H, W, C], in random order.
        logits: float32 [N, classes].
        temperature: divides the logits before the softmax.
    """
    sample = slice(0, SAMPLE)
    measures = {
        **measure_images(images[sample]),
        "confidence": softmax(logits[sample] / temperature).max(axis=1),
    }
    answers = (
        KnownAnswer(base64.b64encode(encode_png(image)).decode("ascii"), tuple(map(float, row)))
        for image, row in zip(images[:ANSWERS], logits[:ANSWERS], strict=True)
    )
    return Baseline(
        class_counts=tuple(np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).tolist()),
        measures={name: tuple(round(float(v), 5) for v in values) for name, values in measures.items()},
        answers=tuple(answers),
    )


def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Brightness, contrast and the mean of each colour, of pixels from 0 to 1: float64 [N] by name.

    Brightness is the mean and contrast the standard deviation over all pixels and channels.

    Args:
        images: uint8 [N, H, W, C]; the colours are left out where C is 1.
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]) / 255
    measures = {"brightness": pixels.mean(axis=(1, 2)), "contrast": pixels.std(axis=(1, 2))}
    if images.shape[-1] == 3:
        measures.update(zip(("red", "green", "blue"), pixels.mean(axis=1).T, strict=True))
    return measures
