"""The .keras file: written, and opened."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from cifar_trainer.artefacts.formats import Artefact, Predictions, softmax
from cifar_trainer.artefacts.network import Network
from cifar_trainer.data.cifar10 import CLASSES as CIFAR10_CLASSES
from cifar_trainer.errors import RunError
from cifar_trainer.model import load_model, to_float32, weights_sha256
from cifar_trainer.run import Run, check_model, read_temperature

#: The member of an exported `.keras` archive with the class names; Keras passes over it.
CLASSES_MEMBER = "cifar_trainer_classes.json"
#: What a run's model gives, and an exported one.
_LOGITS_SHAPE = (None, 10)
_EXPORT_SHAPES = {"logits": _LOGITS_SHAPE, "probabilities": _LOGITS_SHAPE, "class_id": (None,)}


class KerasModel:
    """A Keras model that takes uint8 pictures and gives logits, or a mapping of this package's outputs.

    Args:
        model: uint8 [N, 32, 32, 3] to float32 logits [N, 10], or to a mapping with `logits`
            and `probabilities`.
        classes: the ten names.
        temperature: divides the logits, where the model gives nothing else.
    """

    format = "keras"

    def __init__(self, model: keras.Model, classes: tuple[str, ...], temperature: float = 1.0) -> None:
        self.classes = classes
        self.image_shape = model.input_shape[1:]
        self._model = model
        self._temperature = temperature

    def predict(self, images: np.ndarray) -> Predictions:
        outputs = self._model.predict_on_batch(images)
        if isinstance(outputs, dict):
            logits, probabilities, ids = (outputs[k] for k in ("logits", "probabilities", "class_id"))
        else:
            logits, probabilities = outputs, softmax(outputs / self._temperature)
            ids = np.argmax(outputs, axis=-1)
        return Predictions(logits, probabilities, ids.astype(np.int64), tuple(self.classes[i] for i in ids))


def open_artefact(path: Path) -> Artefact:
    """Open a `.keras` file; without class names of its own, it is taken to know CIFAR-10's.

    Raises:
        RunError: it is damaged, holds code, does not take 32x32 pictures of three channels, or
            gives neither ten logits nor this package's outputs.
    """
    model = load_model(path)
    if tuple(model.input_shape) != (None, 32, 32, 3):
        raise RunError(f"{path} takes an input of shape {model.input_shape}; expected (None, 32, 32, 3).")
    # Unlike output_shape, this keeps the outputs' names.
    shapes = model.compute_output_shape(model.input_shape)
    if shapes not in (_LOGITS_SHAPE, _EXPORT_SHAPES):
        raise RunError(
            f"{path} gives outputs of shape {shapes}; expected logits, {_LOGITS_SHAPE}, "
            "or what cifar-trainer export writes."
        )
    with zipfile.ZipFile(path) as archive:
        if CLASSES_MEMBER in archive.namelist():
            return KerasModel(model, tuple(json.loads(archive.read(CLASSES_MEMBER))))
    return KerasModel(model, CIFAR10_CLASSES)


def write(network: Network, path: Path) -> None:
    """Write a model that gives a mapping of `logits`, `probabilities` and `class_id`."""
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    logits = network.model(images)
    scaled = keras.layers.Rescaling(1 / network.temperature, dtype="float32", name="temperature")(logits)
    outputs = {
        "logits": logits,
        "probabilities": keras.layers.Softmax(dtype="float32", name="probabilities")(scaled),
        "class_id": keras.ops.argmax(logits, axis=-1),
    }
    keras.Model(images, outputs, name="cifar_trainer_export").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, json.dumps(network.classes))


def open_run_model(run: Run) -> Artefact:
    """A run's `model.keras`, in float32 as an export would be. Imports TensorFlow.

    Raises:
        RunError: the run has no model, or one that cannot be read.
    """
    check_model(run)
    model = load_model(run.model)
    return KerasModel(
        to_float32(model), run.read_data().classes, read_temperature(run, weights_sha256(model))
    )
