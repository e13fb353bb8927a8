"""SavedModels, run by TensorFlow without Keras."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer.errors import RunError
from cifar_trainer.prediction.artefact import Artefact, Predictions

#: Where the class names lie in a SavedModel; TensorFlow leaves assets.extra to its users.
CLASSES_FILE = Path("assets.extra") / "classes.txt"


class SavedModel:
    """A SavedModel with the signature `serving_default` of this package's exports."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        self.classes = tuple((path / CLASSES_FILE).read_text(encoding="utf-8").splitlines())
        # The loaded object owns the variables: it must live as long as the signature.
        self._loaded = tf.saved_model.load(str(path))
        self._serve = self._loaded.signatures["serving_default"]
        self._serve_bytes = self._loaded.signatures["serving_bytes"]

    def predict(self, images: np.ndarray) -> Predictions:
        return _predictions(self._serve(images=tf.constant(images, tf.uint8)))

    def predict_bytes(self, pictures: list[bytes]) -> Predictions:
        """Classify encoded PNG or JPEG pictures, decoded and resized in the graph."""
        return _predictions(self._serve_bytes(image_bytes=tf.constant(pictures, tf.string)))


def _predictions(outputs: dict[str, tf.Tensor]) -> Predictions:
    return Predictions(
        logits=outputs["logits"].numpy(),
        probabilities=outputs["probabilities"].numpy(),
        class_id=outputs["class_id"].numpy(),
        class_name=tuple(name.decode("utf-8") for name in outputs["class_name"].numpy()),
    )


def open_artefact(path: Path) -> Artefact:
    """Open a SavedModel that `cifar-trainer export` has written.

    Raises:
        RunError: it is damaged, or lacks what such an export holds.
    """
    try:
        return SavedModel(path)
    except (OSError, ValueError, KeyError, UnicodeDecodeError, tf.errors.OpError) as error:
        raise RunError(
            f"{path} is not a whole SavedModel of cifar-trainer: {type(error).__name__}: {error}. "
            "Make it anew with: cifar-trainer export --force"
        ) from error
