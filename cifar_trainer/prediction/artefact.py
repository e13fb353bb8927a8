"""What all artefacts have in common, and how one is opened with the runtime that it needs."""

import dataclasses
import importlib
import zipfile
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from cifar_trainer.errors import RunError


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What an artefact says about N pictures.

    Attributes:
        logits: float32 [N, 10], before the temperature.
        probabilities: float32 [N, 10], softmax(logits / temperature).
        class_id: int64 [N], 0 to 9.
        class_name: N names.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    class_id: np.ndarray
    class_name: tuple[str, ...]


class Artefact(Protocol):
    """An opened artefact.

    Attributes:
        format: such as `saved_model`; what its runtime can tell.
        classes: the ten names, by class_id.
    """

    format: str
    classes: tuple[str, ...]

    def predict(self, images: np.ndarray) -> Predictions:
        """Classify uint8 [N, 32, 32, 3] in one batch."""


@runtime_checkable
class TakesBytes(Protocol):
    """An artefact that decodes pictures itself."""

    def predict_bytes(self, pictures: list[bytes]) -> Predictions:
        """Classify encoded PNG or JPEG pictures of any size in one batch."""


#: The module that opens each kind; each has `open_artefact(path) -> Artefact`.
_RUNTIMES = {
    "saved_model": "cifar_trainer.prediction.saved_model",
    "keras": "cifar_trainer.prediction.keras_model",
    "litert": "cifar_trainer.prediction.litert",
    "onnx": "cifar_trainer.prediction.onnx_model",
}


def kind_of(path: Path) -> str:
    """The kind of an artefact, by its content: a key of the runtimes.

    Raises:
        RunError: it is absent, cannot be read, or is none of them.
    """
    try:
        if path.is_dir():
            if (path / "saved_model.pb").is_file():
                return "saved_model"
            held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise RunError(
                f"{path} is a folder without saved_model.pb (it holds {held}). "
                "Name a SavedModel's folder, or a .keras, .tflite or .onnx file; a run goes to --run."
            )
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}. Make it with: cifar-trainer export"
        ) from error
    if head[4:8] == b"TFL3":
        return "litert"
    if head[:4] == b"PK\x03\x04" and _holds_keras_model(path):
        return "keras"
    if path.suffix == ".onnx":
        return "onnx"
    raise RunError(
        f"{path} is none of the artefacts that can be read (it begins with {head!r}). "
        "Expected a SavedModel's folder, or a .keras, .tflite or .onnx file."
    )


def _holds_keras_model(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def open_artefact(path: Path) -> Artefact:
    """Open an artefact with its own runtime; TensorFlow is imported only where that is the runtime.

    Raises:
        RunError: it is absent, damaged, of an unknown kind, needs a package that is not
            installed, or holds code.
    """
    module = importlib.import_module(_RUNTIMES[kind_of(path)])
    artefact: Artefact = module.open_artefact(path)
    return artefact


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float32: [N, 10] to [N, 10]."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result
