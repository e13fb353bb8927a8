"""LiteRT (TensorFlow Lite) files: float32, float16 weights, and int8 with calibrated activations.

The int8 variant quantizes weights by channel and activations by tensor (Jacob et al.
2018; TensorFlow's "post-training integer quantization"); it too takes uint8 pictures
and gives float32 logits.
"""

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from cifar_trainer.export.network import Network
from cifar_trainer.prediction.litert import CLASSES_MEMBER, silence

Weights = Literal["float32", "float16", "int8"]


def write(network: Network, path: Path, weights: Weights, calibration: np.ndarray) -> None:
    """Write a `.tflite` file with the signature `serving_default`.

    Args:
        network: what to write.
        path: the file.
        weights: the type in which the weights are stored.
        calibration: uint8 [N, 32, 32, 3], training images; int8 sets its ranges by them.
    """
    images_spec = tf.TensorSpec([None, 32, 32, 3], tf.uint8, name="images")
    module = tf.Module()
    module.weights = [weight.value for weight in network.model.weights]
    module.serve = tf.function(network.outputs, input_signature=[images_spec], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module
    )
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if weights == "int8":
        converter.representative_dataset = lambda: _one_by_one(calibration)
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")  # The converter calibrates with an interpreter that it deprecates.
        content = converter.convert()
    path.write_bytes(content)
    # LiteRT's own place for labels: a zip archive behind the model, which the runtime passes over.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, "\n".join(network.classes) + "\n")


def _one_by_one(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(images)):
        yield {"images": images[i : i + 1]}
