"""LiteRT: written with TensorFlow, opened with its own runtime alone."""

import contextlib
import copy
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from cifar_trainer.artefacts.formats import Artefact, Predictions, read_preprocessing

if TYPE_CHECKING:
    import tensorflow as tf

    from cifar_trainer.model import Network

#: Members of the zip archive that is appended to the model.
CLASSES_MEMBER = "labels.txt"
PREPROCESSING_MEMBER = "preprocessing.json"

#: Smaller constants stay in float32 in a float16 file. They take little space, and a first layer, such as
#: the whitening of `cpu90`, can multiply the rounding errors of its few weights.
FLOAT16_SIZE = 1024


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard stdout and stderr, which LiteRT and its converter write to from C++."""
    saved = {}
    with open(os.devnull, "wb") as nowhere:
        for number in (1, 2):
            with contextlib.suppress(OSError):  # The stream is closed.
                saved[number] = os.dup(number)
                os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, descriptor in saved.items():
                os.dup2(descriptor, number)
                os.close(descriptor)


class LiteRTModel(Artefact):
    """A `.tflite` file with the signature `serving_default`.

    Args:
        content: the file's bytes.
        classes: class names, by class_id.
        preprocessing: the recorded preprocessing as JSON; None if there is none.
    """

    format = "litert"

    def __init__(self, content: bytes, classes: tuple[str, ...], preprocessing: bytes | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.classes = classes
        with silence():
            self._interpreter = Interpreter(model_content=content)
            self._serve = self._interpreter.get_signature_runner("serving_default")
            # Call once within `silence`: the first call creates the kernels and writes to the terminal.
            shape = self._serve.get_input_details()["images"]["shape"][1:].tolist()
            self.preprocessing = read_preprocessing(preprocessing, shape)
            self._serve(images=np.zeros((1, *self.image_shape), np.uint8))

    def predict(self, images: np.ndarray) -> Predictions:
        outputs = self._serve(images=images)
        # The next call overwrites the memory of the runner's arrays.
        ids = outputs["class_id"].copy()
        return Predictions(
            logits=outputs["logits"].copy(),
            probabilities=outputs["probabilities"].copy(),
            class_id=ids,
            class_name=tuple(self.classes[i] for i in ids),
        )


def open_artefact(path: Path) -> Artefact:
    """Open a `.tflite` file from `cifar-trainer export`."""
    with zipfile.ZipFile(path) as archive:
        classes = tuple(archive.read(CLASSES_MEMBER).decode("utf-8").splitlines())
        recorded = PREPROCESSING_MEMBER in archive.namelist() and archive.read(PREPROCESSING_MEMBER)
    return LiteRTModel(path.read_bytes(), classes, recorded or None)


Weights = Literal["float32", "float16", "int8"]


def write(network: "Network", path: Path, examples: np.ndarray, weights: Weights = "float32") -> None:
    """Write a `.tflite` file with the signature `serving_default`.

    Args:
        network: the network.
        path: the file.
        examples: training images that calibrate int8, uint8 [N, H, W, C].
        weights: type of the stored weights.
    """
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")  # The converter calibrates with a deprecated interpreter.
        content = _quantize(network, examples) if weights == "int8" else _converter(network).convert()
        if weights == "float16":
            content = _halve(content)
    path.write_bytes(content)
    # LiteRT's convention for labels: a zip archive after the model, which the runtime ignores.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, "\n".join(network.classes) + "\n")
        archive.writestr(PREPROCESSING_MEMBER, msgspec.json.encode(network.preprocessing))


def _converter(network: "Network") -> "tf.lite.TFLiteConverter":
    import tensorflow as tf

    images_spec = tf.TensorSpec([None, *network.image_shape], tf.uint8, name="images")
    module = tf.Module()
    module.weights = [weight.value for weight in network.model.weights]
    module.serve = tf.function(network.outputs, input_signature=[images_spec], autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)


def _halve(content: bytes) -> bytes:
    """Store the large constants of a float32 model in float16.

    TensorFlow's converter would round the small ones too.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    dequantize = schema.OperatorCodeT()
    dequantize.builtinCode = dequantize.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    dequantize.version = 3  # The first that reads float16.
    model.operatorCodes.append(dequantize)
    for graph in model.subgraphs:
        for index, tensor in enumerate(tuple(graph.tensors)):
            buffer = model.buffers[tensor.buffer]
            is_float32 = tensor.type == schema.TensorType.FLOAT32
            if not is_float32 or buffer.data is None or buffer.data.nbytes < 4 * FLOAT16_SIZE:
                continue
            buffer.data = buffer.data.view(np.float32).astype(np.float16).view(np.uint8)
            stored = copy.copy(tensor)
            stored.name, stored.type = tensor.name + b"/float16", schema.TensorType.FLOAT16
            tensor.buffer = 0  # The schema reserves it for tensors without data.
            operator = schema.OperatorT()
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.inputs, operator.outputs = [len(graph.tensors)], [index]
            graph.tensors.append(stored)
            graph.operators.insert(0, operator)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _quantize(network: "Network", calibration: np.ndarray) -> bytes:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    # To keep an operation in float32, the quantizer needs the name of its result.
    runner = Interpreter(model_content=_converter(network).convert()).get_signature_runner("serving_default")
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _one_by_one(calibration)
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=[runner.get_output_details()["logits"]["name"]],
        # Computed from the logits: temperature, probabilities, class.
        denylisted_ops=["MUL", "DIV", "SOFTMAX", "ARG_MAX"],
    )
    quantizer = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)
    content: bytes = quantizer.get_nondebug_quantized_model()
    return content


def _one_by_one(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(images)):
        yield {"images": images[i : i + 1]}
