"""LiteRT (TensorFlow Lite) files: float32, float16 weights, and int8 with calibrated activations.

The int8 variant quantizes weights by channel and activations by tensor (Jacob et al.
2018; TensorFlow's "post-training integer quantization"); it too takes uint8 pictures
and gives float32 logits. What gives the logits, and what is made of them, stays in
float32 (TensorFlow's "selective quantization"): in eight bits a tenth of a logit is lost,
and close classes become ties. It costs 1 % more bytes.
"""

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

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
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")  # The converter calibrates with an interpreter that it deprecates.
        content = _quantize(network, calibration) if weights == "int8" else _convert(network, weights)
    path.write_bytes(content)
    # LiteRT's own place for labels: a zip archive behind the model, which the runtime passes over.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, "\n".join(network.classes) + "\n")


def _converter(network: Network) -> tf.lite.TFLiteConverter:
    images_spec = tf.TensorSpec([None, 32, 32, 3], tf.uint8, name="images")
    module = tf.Module()
    module.weights = [weight.value for weight in network.model.weights]
    module.serve = tf.function(network.outputs, input_signature=[images_spec], autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)


def _convert(network: Network, weights: Weights = "float32") -> bytes:
    converter = _converter(network)
    if weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    content: bytes = converter.convert()
    return content


def _quantize(network: Network, calibration: np.ndarray) -> bytes:
    # The operation that gives the logits is told to the quantizer by the name of its result.
    whole = Interpreter(model_content=_convert(network)).get_signature_runner("serving_default")
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _one_by_one(calibration)
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=[whole.get_output_details()["logits"]["name"]],
        # What is made of them: divided by the temperature, probabilities, the class.
        denylisted_ops=["MUL", "DIV", "SOFTMAX", "ARG_MAX"],
    )
    quantizer = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)
    content: bytes = quantizer.get_nondebug_quantized_model()
    return content


def _one_by_one(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(images)):
        yield {"images": images[i : i + 1]}
