"""ONNX: written with TensorFlow, opened with ONNX Runtime alone."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cifar_trainer.artefacts.formats import Artefact, Predictions, read_preprocessing

if TYPE_CHECKING:
    from cifar_trainer.model import Network

#: Keys of the model's metadata; the values are JSON.
CLASSES_KEY, PREPROCESSING_KEY = "classes", "preprocessing"
_OUTPUTS = ["logits", "probabilities", "class_id"]


class OnnxModel(Artefact):
    """An `.onnx` file that takes `images` and returns `logits`, `probabilities` and `class_id`."""

    format = "onnx"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Its threads would spin for a millisecond after each call, taking cores from others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # From bytes: onnxruntime does not accept paths that are not UTF-8.
        self._session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.classes = tuple(json.loads(metadata[CLASSES_KEY]))
        recorded = metadata.get(PREPROCESSING_KEY)
        shape = self._session.get_inputs()[0].shape[1:]
        self.preprocessing = read_preprocessing(recorded.encode() if recorded else None, shape)

    def predict(self, images: np.ndarray) -> Predictions:
        logits, probabilities, ids = self._session.run(_OUTPUTS, {"images": images})
        return Predictions(logits, probabilities, ids, tuple(self.classes[i] for i in ids))


def open_artefact(path: Path) -> Artefact:
    """Open an `.onnx` file from `cifar-trainer export`."""
    return OnnxModel(path)


def _convert_erfc(graph: Any, node: Any, *_: object) -> None:
    """Replace Erfc, which GELU uses and neither tf2onnx nor ONNX knows, by 1 - Erf."""
    shapes, types = node.output_shapes, node.output_dtypes
    one = graph.make_const(f"{node.name}_one", np.array(1, np.float32))
    erf = graph.make_node("Erf", node.input, shapes=shapes, dtypes=types)
    graph.remove_node(node.name)
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, name=node.name, outputs=node.output, shapes=shapes, dtypes=types)


def _convert_squared_difference(graph: Any, node: Any, *_: object) -> None:
    """Square by Pow: tf2onnx's optimizer forgets the new shape of x * x when it moves a transpose past it."""
    shapes, types = node.output_shapes, node.output_dtypes
    difference = graph.make_node("Sub", node.input, shapes=shapes, dtypes=types)
    two = graph.make_const(f"{node.name}_two", np.array(2, np.float32))
    graph.remove_node(node.name)
    inputs = [difference.output[0], two.output[0]]
    graph.make_node("Pow", inputs, name=node.name, outputs=node.output, shapes=shapes, dtypes=types)


#: ONNX 1.13 of December 2022, which current runtimes support, including those in browsers.
OPSET = 18


def write(network: "Network", path: Path, examples: np.ndarray) -> None:
    """Write an `.onnx` file from `images` to `logits`, `probabilities` and `class_id`."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    images_spec = tf.TensorSpec([None, *network.image_shape], tf.uint8, name="images")
    serve = tf.function(network.outputs, input_signature=[images_spec], autograph=False)
    handlers: dict[str, Any] = {
        "Erfc": (_convert_erfc, []),
        "SquaredDifference": (_convert_squared_difference, []),
    }
    # Inline Keras's grouped convolutions: tf2onnx cannot convert functions that are compiled with XLA.
    tf.config.run_functions_eagerly(True)
    try:
        model, _ = tf2onnx.convert.from_function(
            serve, input_signature=[images_spec], opset=OPSET, custom_op_handlers=handlers
        )
    finally:
        tf.config.run_functions_eagerly(False)
    # tf2onnx makes inputs of tensors that are not weights, such as the mean of Normalization.
    captures = serve.get_concrete_function(images_spec).graph.captures
    constants = {inner.name: outer for outer, inner in captures if outer.dtype != tf.resource}
    for value in list(model.graph.input):
        if value.name in constants:
            content = onnx.numpy_helper.from_array(constants[value.name].numpy(), value.name)
            model.graph.initializer.append(content)
            model.graph.input.remove(value)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    preprocessing = msgspec.json.encode(network.preprocessing).decode()
    onnx.helper.set_model_props(
        model, {CLASSES_KEY: json.dumps(network.classes), PREPROCESSING_KEY: preprocessing}
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
