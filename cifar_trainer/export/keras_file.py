"""The `.keras` file: Keras's own layers only, so that it loads with safe_mode and without this package."""

import json
import zipfile
from pathlib import Path

import keras

from cifar_trainer.export.network import Network
from cifar_trainer.prediction.keras_model import CLASSES_MEMBER


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
