"""The .keras format, and a run's own model."""

import json
import zipfile
from pathlib import Path

import keras
import msgspec
import numpy as np

from cifar_trainer.artefacts.formats import Artefact, Predictions, read_preprocessing, softmax
from cifar_trainer.errors import RunError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import Network, load_model, to_float32, weights_sha256
from cifar_trainer.run import Run

#: Members of an exported `.keras` archive; Keras ignores them.
CLASSES_MEMBER, PREPROCESSING_MEMBER = "cifar_trainer_classes.json", "cifar_trainer_preprocessing.json"


class KerasModel(Artefact):
    """A Keras model that takes uint8 images.

    Args:
        model: uint8 [N, H, W, C] to float32 logits [N, classes], or to a mapping with `logits`,
            `probabilities` and `class_id`.
        classes: class names, by class_id.
        preprocessing: turns any image into the input.
        temperature: divides the logits, if the model returns logits alone.
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
        self.model = model
        self._temperature = temperature

    def predict(self, images: np.ndarray) -> Predictions:
        outputs = self.model.predict_on_batch(images)
        if isinstance(outputs, dict):
            logits, probabilities, ids = (outputs[k] for k in ("logits", "probabilities", "class_id"))
        else:
            logits, probabilities = outputs, softmax(outputs / self._temperature)
            ids = np.argmax(outputs, axis=-1)
        return Predictions(logits, probabilities, ids, tuple(self.classes[i] for i in ids))


def open_artefact(path: Path) -> Artefact:
    """Open a `.keras` file: an export, a run's own model, or any other model, whose classes are then
    numbered.

    Raises:
        RunError: it is damaged or contains code, its input is not images of one or three channels, or its
            outputs are neither logits nor those of an export.
    """
    run = Run(path.parent)
    if path.name == run.model.name and run.config.is_file():
        return _open_run_model(run)
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
            f"{path} returns outputs of shape {outputs}; expected logits of shape (None, classes), "
            "or the outputs of an export."
        )
    with zipfile.ZipFile(path) as archive:
        names = {CLASSES_MEMBER, PREPROCESSING_MEMBER} & set(archive.namelist())
        members = {name: archive.read(name) for name in names}
    classes = tuple(json.loads(members.get(CLASSES_MEMBER, "null")) or map(str, range(count)))
    preprocessing = read_preprocessing(members.get(PREPROCESSING_MEMBER), shape[1:])
    if len(classes) != count:
        raise RunError(f"{path} returns {count} logits, but has {len(classes)} class names.")
    return KerasModel(model, classes, preprocessing)


def _open_run_model(run: Run) -> Artefact:
    """A run's model in float32, with the temperature of its exports."""
    run.check_model()
    model = load_model(run.model)
    data = run.read_data()
    preprocessing = data.preprocessing or Preprocessing(model.input_shape[1:])
    if preprocessing.image_shape != model.input_shape[1:]:
        raise RunError(
            f"{run.model} takes images of {model.input_shape[1:]}, but {run.config} says "
            f"{preprocessing.image_shape}. Restore the original."
        )
    temperature = run.read_temperature(weights_sha256(model))
    return KerasModel(to_float32(model), data.classes, preprocessing, temperature)


def write(network: Network, path: Path, examples: np.ndarray) -> None:
    """Write a model that returns `logits`, `probabilities` and `class_id` as a mapping."""
    images = keras.Input(network.image_shape, dtype="uint8", name="images")
    logits = network.model(images)
    scaled = keras.layers.Rescaling(1 / network.temperature, dtype="float32", name="temperature")(logits)
    outputs = {
        "logits": logits,
        "probabilities": keras.layers.Softmax(dtype="float32", name="probabilities")(scaled),
        # Keras's argmax gives int32; every format returns int64.
        "class_id": keras.ops.cast(keras.ops.argmax(logits, axis=-1), "int64"),
    }
    keras.Model(images, outputs, name="cifar_trainer_export").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASSES_MEMBER, json.dumps(network.classes))
        archive.writestr(PREPROCESSING_MEMBER, msgspec.json.encode(network.preprocessing))
