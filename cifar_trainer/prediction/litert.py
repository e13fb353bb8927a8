"""LiteRT files, run by ai-edge-litert; TensorFlow is not needed."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cifar_trainer.errors import CifarTrainerError, RunError
from cifar_trainer.prediction.artefact import Artefact, Predictions

#: The member with the class names in the zip archive behind the model.
CLASSES_MEMBER = "labels.txt"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Turn the process's stdout and stderr away: LiteRT and its converter write to them from C++."""
    saved = {}
    with open(os.devnull, "wb") as nowhere:
        for number in (1, 2):
            with contextlib.suppress(OSError):  # It is closed: nobody reads it anyway.
                saved[number] = os.dup(number)
                os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, descriptor in saved.items():
                os.dup2(descriptor, number)
                os.close(descriptor)


class LiteRTModel:
    """A `.tflite` file with the signature `serving_default`.

    Args:
        content: the file's bytes.
        classes: the ten names.
    """

    format = "litert"

    def __init__(self, content: bytes, classes: tuple[str, ...]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.classes = classes
        with silence():
            self._interpreter = Interpreter(model_content=content)
            self._serve = self._interpreter.get_signature_runner("serving_default")
            # The first call makes LiteRT's kernels, and tells the terminal about it.
            self._serve(images=np.zeros((1, 32, 32, 3), np.uint8))

    def predict(self, images: np.ndarray) -> Predictions:
        outputs = self._serve(images=images)
        # The runner's arrays are views of memory that the next call overwrites.
        ids = outputs["class_id"].copy()
        return Predictions(
            logits=outputs["logits"].copy(),
            probabilities=outputs["probabilities"].copy(),
            class_id=ids,
            class_name=tuple(self.classes[i] for i in ids),
        )


def open_artefact(path: Path) -> Artefact:
    """Open a `.tflite` file that `cifar-trainer export` has written.

    Raises:
        RunError: it is damaged, or lacks what such an export holds.
        CifarTrainerError: ai-edge-litert is not installed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            classes = tuple(archive.read(CLASSES_MEMBER).decode("utf-8").splitlines())
        return LiteRTModel(path.read_bytes(), classes)
    except ModuleNotFoundError as error:
        raise CifarTrainerError(
            f"{path} needs ai-edge-litert, which is not installed. "
            "Install it with: pip install 'cifar-trainer[litert]'"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} is not a whole LiteRT file of cifar-trainer: {error}. "
            "Make it anew with: cifar-trainer export --format litert --force"
        ) from error
