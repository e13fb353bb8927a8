"""The .keras file: written, and opened."""

import json
import zipfile
from pathlib import Path

import keras
import msgspec
import numpy as np

from cifar_trainer.artefacts.formats import Artefact, Predictions, read_preprocessing, softmax
from cifar_trainer.artefacts.network import Network
from cifar_trainer.errors import RunError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import load_model, to_float32, weights_sha256
from cifar_trainer.run import Run

#: Members of an exported `.keras` archive, which Keras ignores.
CLASSES_MEMBER = "cifar_trainer_classes.json"
PREPROCESSING_MEMBER = "cifar_trainer_preprocessing.json"


class KerasModel(Artefact):
    """A Keras model that takes uint8 images and gives logits, or a mapping of this package's outputs.

    Args:
        model: uint8 [N, H, W, C] to float32 logits [N, classes], or to a mapping with `logits`,
            `probabilities` and `class_id`.
        classes: the names, by class_id.
        preprocessing: how any image becomes its input.
        temperature: divides the logits, where the model gives nothing else.
    """

    format = "keras"

    def __init__(
        self,
        model: keras.Model,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        temperature: float = 1.0,
    ) -> None:
        self.classes = classes
        self.preprocessing = preprocessing
        self._model = model
        self._temperature = temperature

    def predict(self, images: np.ndarray) -> Predictions:
        outputs = self._model.predict_on_batch(images)
        if isinstance(outputs, dict):
            logits, probabilities, ids = (outputs[k] for k in ("logits", "probabilities", "class_id"))
        else:
            logits, probabilities = outputs, softmax(outputs / self._temperature)
            ids = np.argmax(outputs, axis=-1)
        return Predictions(logits, probabilities, ids, tuple(self.classes[i] for i in ids))


def open_artefact(path: Path) -> Artefact:
    """Open a `.keras` file.

    One without class names of its own has those of the run in whose folder it lies, or else numbers.

    Raises:
        RunError: it is damaged, holds code, does not take images of one or three channels, or gives
            neither logits nor this package's outputs.
    """
    model = load_model(path)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:] or shape[3] not in (1, 3):
        raise RunError(
            f"{path} takes an input of shape {shape}; expected images of one or three channels, "
            "such as (None, 32, 32, 3)."
        )
    # Unlike output_shape, this keeps the outputs' names.
    outputs = model.compute_output_shape(shape)
    logits = outputs.get("logits") if isinstance(outputs, dict) else outputs
    count = logits[1] if isinstance(logits, tuple) and len(logits) == 2 else None
    if count is None or outputs not in (
        (None, count),
        {"logits": (None, count), "probabilities": (None, count), "class_id": (None,)},
    ):
        raise RunError(
            f"{path} gives outputs of shape {outputs}; expected logits of shape (None, classes), "
            "or what cifar-trainer export writes."
        )
    classes = _read_classes(path, count)
    with zipfile.ZipFile(path) as archive:
        recorded = PREPROCESSING_MEMBER in archive.namelist() and archive.read(PREPROCESSING_MEMBER)
    try:
        preprocessing = read_preprocessing(recorded or None, shape[1:])
    except ValueError as error:
        raise RunError(f"{path} cannot be used: {error}.") from error
    if len(classes) != count:
        raise RunError(f"{path} gives {count} logits, and names {len(classes)} classes.")
    return KerasModel(model, classes, preprocessing)


def _read_classes(path: Path, count: int) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        if CLASSES_MEMBER in archive.namelist():
            return tuple(json.loads(archive.read(CLASSES_MEMBER)))
    run = Run(path.parent)
    if path.name == run.model.name and run.config.is_file():
        return run.read_data().classes
    return tuple(map(str, range(count)))


def write(network: Network, path: Path, examples: np.ndarray) -> None:
    """Write a model that gives a mapping of `logits`, `probabilities` and `class_id`."""
    images = keras.Input(network.image_shape, dtype="uint8", name="images")
    logits = network.model(images)
    scaled = keras.layers.Rescaling(1 / network.temperature, dtype="float32", name="temperature")(logits)
    outputs = {
        "logits": logits,
        "probabilities": keras.layers.Softmax(dtype="float32", name="probabilities")(scaled),
        # Keras's own is int32; every format gives the same type.
        "class_id": keras.ops.cast(keras.ops.argmax(logits, axis=-1), "int64"),
    }
    keras.Model(images, outputs, name="cifar_trainer_export").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, json.dumps(network.classes))
        archive.writestr(PREPROCESSING_MEMBER, msgspec.json.encode(network.preprocessing))


def open_run_model(run: Run) -> Artefact:
    """A run's `model.keras`, in float32 as an export would be. Imports TensorFlow.

    Raises:
        RunError: the run has no model, or one that cannot be read.
    """
    run.check_model()
    model = load_model(run.model)
    data = run.read_data()
    return KerasModel(
        to_float32(model),
        data.classes,
        data.preprocessing or Preprocessing(model.input_shape[1:]),
        run.read_temperature(weights_sha256(model)),
    )
