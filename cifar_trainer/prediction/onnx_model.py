"""ONNX files, run by onnxruntime; TensorFlow is not needed."""

import json
from pathlib import Path

import numpy as np

from cifar_trainer.errors import CifarTrainerError, RunError
from cifar_trainer.prediction.artefact import Artefact, Predictions

#: The key of the class names, a JSON list, among the model's metadata.
CLASSES_KEY = "classes"
_OUTPUTS = ["logits", "probabilities", "class_id"]


class OnnxModel:
    """An `.onnx` file that takes `images` and gives `logits`, `probabilities` and `class_id`."""

    format = "onnx"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The bytes and not the path: onnxruntime takes no path that is not UTF-8.
        self._session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self.classes = tuple(json.loads(self._session.get_modelmeta().custom_metadata_map[CLASSES_KEY]))

    def predict(self, images: np.ndarray) -> Predictions:
        logits, probabilities, ids = self._session.run(_OUTPUTS, {"images": images})
        return Predictions(logits, probabilities, ids, tuple(self.classes[i] for i in ids))


def open_artefact(path: Path) -> Artefact:
    """Open an `.onnx` file that `cifar-trainer export` has written.

    Raises:
        RunError: it is damaged, or lacks what such an export holds.
        CifarTrainerError: onnxruntime is not installed.
    """
    try:
        return OnnxModel(path)
    except ModuleNotFoundError as error:
        raise CifarTrainerError(
            f"{path} needs onnxruntime, which is not installed. "
            "Install it with: pip install 'cifar-trainer[onnx]'"
        ) from error
    except Exception as error:  # onnxruntime's exceptions have no common base of their own.
        raise RunError(
            f"{path} is not a whole ONNX file of cifar-trainer: {error}. "
            "Make it anew with: cifar-trainer export --format onnx --force"
        ) from error
