"""Known answers and statistics of validation images, for a server's self-test and monitoring.

`export` stores them in the manifest as `baseline`, so that a server does not need the data set.
"""

import base64
import dataclasses

import numpy as np

from cifar_trainer.artefacts.formats import softmax
from cifar_trainer.images import encode_png

#: Number of images whose measures are stored.
SAMPLE = 500
#: Number of images whose logits are stored.
ANSWERS = 8


@dataclasses.dataclass(frozen=True)
class KnownAnswer:
    """An image, as a PNG file in base64, and the Keras model's logits."""

    png: str
    logits: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A model's answers to its validation images.

    Attributes:
        class_counts: number of images that it assigns to each class.
        measures: by name, the values of `measure_images` and the confidence, for a sample.
        answers: a few images with their logits.
    """

    class_counts: tuple[int, ...]
    measures: dict[str, tuple[float, ...]]
    answers: tuple[KnownAnswer, ...]


def make_baseline(images: np.ndarray, logits: np.ndarray, temperature: float) -> Baseline:
    """Summarize images and a model's answers to them.

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
    """Brightness, contrast and mean of each colour, on a scale from 0 to 1: float64 [N] by name.

    Brightness is the mean and contrast the standard deviation over all pixels and channels.

    Args:
        images: uint8 [N, H, W, C]; no colours if C is 1.
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]) / 255
    measures = {"brightness": pixels.mean(axis=(1, 2)), "contrast": pixels.std(axis=(1, 2))}
    if images.shape[-1] == 3:
        measures.update(zip(("red", "green", "blue"), pixels.mean(axis=1).T, strict=True))
    return measures
