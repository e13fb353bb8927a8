"""The ONNX file, converted by tf2onnx from the graph that the SavedModel holds too."""

import json
import logging
from pathlib import Path

import onnx
import tensorflow as tf
import tf2onnx

from cifar_trainer.export.network import Network
from cifar_trainer.prediction.onnx_model import CLASSES_KEY

#: ONNX 1.13 of December 2022: old enough for the runtimes in use, browsers' among them.
OPSET = 18


def write(network: Network, path: Path) -> None:
    """Write an `.onnx` file: `images` in; `logits`, `probabilities` and `class_id` out."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    images_spec = tf.TensorSpec([None, 32, 32, 3], tf.uint8, name="images")
    serve = tf.function(network.outputs, input_signature=[images_spec], autograph=False)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=[images_spec], opset=OPSET)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, {CLASSES_KEY: json.dumps(network.classes)})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
