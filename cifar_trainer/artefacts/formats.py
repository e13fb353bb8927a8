"""The formats of an export: one table, and what an opened artefact offers."""

import dataclasses
import importlib
import importlib.util
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from cifar_trainer.errors import CifarTrainerError, RunError

if TYPE_CHECKING:
    from cifar_trainer.artefacts.network import Network


@dataclasses.dataclass(frozen=True)
class Bound:
    """How far an artefact may be from the Keras model.

    Attributes:
        difference: of any logit; None where only the classes count.
        agreement: the least share of pictures with the same top class. Two classes whose
            logits differ by less than twice `difference` are a tie, and either will do.
        accuracy_loss: in points of accuracy; an artefact that loses no more passes even
            below `agreement`. None where that is no excuse.
    """

    difference: float | None
    agreement: float
    accuracy_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as on the command line.
        file_name: of the artefact, in the export's folder.
        bound: what the gate asks for.
        extra: of this package's extras, the one that brings `packages`.
        packages: modules that must be importable.
        takes_bytes: whether the artefact decodes pictures too.
    """

    name: str
    file_name: str
    bound: Bound
    extra: str | None = None
    packages: tuple[str, ...] = ()
    takes_bytes: bool = False

    @property
    def is_folder(self) -> bool:
        return "." not in self.file_name


_EXACT = Bound(difference=1e-4, agreement=1.0)

FORMATS = {
    each.name: each
    for each in (
        Format("saved_model", "saved_model", _EXACT, takes_bytes=True),
        Format("keras", "model.keras", _EXACT),
        Format("litert", "model.tflite", _EXACT, "litert", ("ai_edge_litert",)),
        Format("litert-float16", "model-float16.tflite", Bound(None, 0.999), "litert", ("ai_edge_litert",)),
        Format("litert-int8", "model-int8.tflite", Bound(None, 0.99, 0.01), "litert", ("ai_edge_litert",)),
        Format("onnx", "model.onnx", _EXACT, "onnx", ("onnx", "onnxruntime", "tf2onnx")),
    )
}


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
        classes: the names, by class_id.
        image_shape: height, width and channels of the images that it takes.
    """

    format: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def predict(self, images: np.ndarray) -> Predictions:
        """Classify uint8 [N, *image_shape] in one batch."""


@runtime_checkable
class TakesBytes(Protocol):
    """An artefact that decodes pictures itself."""

    def predict_bytes(self, pictures: list[bytes]) -> Predictions:
        """Classify encoded PNG or JPEG pictures of any size in one batch."""


#: The module that opens each kind; each has `open_artefact(path) -> Artefact`.
_RUNTIMES = {
    "saved_model": "cifar_trainer.artefacts.saved_model",
    "keras": "cifar_trainer.artefacts.keras",
    "litert": "cifar_trainer.artefacts.litert",
    "onnx": "cifar_trainer.artefacts.onnx",
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


def check_targets(formats: Sequence[Format], output: Path, replace: bool) -> None:
    """Raise RunError where an artefact stands already and may not be replaced."""
    taken = [str(output / form.file_name) for form in formats if os.path.lexists(output / form.file_name)]
    if taken and not replace:
        raise RunError(
            f"{', '.join(taken)} exists already. Replace it with --force, or choose another --output."
        )


def check_packages(formats: Sequence[Format]) -> None:
    """Raise CifarTrainerError where a format needs packages that are not installed."""
    for form in formats:
        missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise CifarTrainerError(
                f"--format {form.name} needs {', '.join(missing)}, which cannot be imported. "
                f"Install what it needs with: pip install 'cifar-trainer[{form.extra}]'"
            )


_LITERT_WEIGHTS: dict[str, Literal["float32", "float16", "int8"]] = {
    "litert": "float32",
    "litert-float16": "float16",
    "litert-int8": "int8",
}


def write_artefact(form: Format, network: "Network", path: Path, examples: np.ndarray) -> None:
    """Write `network` to `path` in the format `form`.

    Args:
        form: one of `formats.FORMATS`.
        network: what to write.
        path: a file's name, or an empty folder.
        examples: uint8 [N, 32, 32, 3], training images: for warm-up and for int8's ranges.
    """
    match form.name:
        case "saved_model":
            from cifar_trainer.artefacts import saved_model

            saved_model.write(network, path, examples)
        case "keras":
            from cifar_trainer.artefacts import keras

            keras.write(network, path)
        case "litert" | "litert-float16" | "litert-int8":
            from cifar_trainer.artefacts import litert

            litert.write(network, path, _LITERT_WEIGHTS[form.name], examples)
        case "onnx":
            from cifar_trainer.artefacts import onnx

            onnx.write(network, path)
        case _:
            raise ValueError(f"no writer for the format {form.name}")
