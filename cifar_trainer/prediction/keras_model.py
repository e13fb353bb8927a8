"""Keras models: loading one safely, and running it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cifar_trainer.data.dataset import CIFAR10_CLASSES
from cifar_trainer.errors import RunError
from cifar_trainer.prediction.artefact import Artefact, Predictions, softmax

#: The member of an exported `.keras` archive with the class names; Keras passes over it.
CLASSES_MEMBER = "cifar_trainer_classes.json"
#: What a run's model gives, and an exported one.
_LOGITS_SHAPE = (None, 10)
_EXPORT_SHAPES = {"logits": _LOGITS_SHAPE, "probabilities": _LOGITS_SHAPE, "class_id": (None,)}


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file without running any code that it may hold.

    Raises:
        RunError: it is absent, damaged, or holds code (a Lambda layer).
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and h5py raise all sorts for a damaged or hostile file.
        text = str(error)
        if "safe_mode" in text or "lambda" in text.lower():
            raise RunError(
                f"{path} holds Python code (a Lambda layer) that would run when it is loaded; it is refused. "
                "Use a model from cifar-trainer, or one built of Keras's own layers."
            ) from error
        raise RunError(f"{path} is not a whole Keras model: {type(error).__name__}: {text}") from error


def is_float32(model: keras.Model) -> bool:
    """Whether all of a model's layers compute in float32."""
    config = model.get_config()
    return bool(config == _with_float32_policies(config))


def to_float32(model: keras.Model) -> keras.Model:
    """The same network and weights with every layer computing in float32.

    A model that was trained in mixed precision keeps its weights in float32; only its
    arithmetic was narrower. Other runtimes have no bfloat16, so what is exported is this.
    """
    if is_float32(model):
        return model
    twin = type(model).from_config(_with_float32_policies(model.get_config()))
    twin.set_weights(model.get_weights())
    return twin


def _with_float32_policies(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return {**value, "config": {**value["config"], "name": "float32"}}
        return {key: _with_float32_policies(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_float32_policies(item) for item in value)
    return value


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
