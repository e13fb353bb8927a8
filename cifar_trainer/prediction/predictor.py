"""Pictures by name in, the likeliest classes out; one that cannot be read does not stop the others."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cifar_trainer.prediction import sources
from cifar_trainer.prediction.artefact import Artefact
from cifar_trainer.prediction.pictures import Picture, PictureError, decode_picture

#: Pictures a call of the artefact.
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Guess:
    """A class, and how likely the artefact finds it."""

    class_name: str
    class_id: int
    probability: float

    def to_json(self) -> dict[str, Any]:
        """The guess as a JSON object."""
        return {"class": self.class_name, "class_id": self.class_id, "probability": self.probability}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one picture.

    Attributes:
        name: as given, or found in a folder.
        guesses: the likeliest classes, the likeliest first.
        format, mode, width, height: see `Picture`.
    """

    name: str
    guesses: tuple[Guess, ...]
    format: str
    mode: str
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "image": self.name,
            "format": self.format,
            "mode": self.mode,
            "width": self.width,
            "height": self.height,
            "top": [guess.to_json() for guess in self.guesses],
        }


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The failure as a JSON object."""
        return {"image": self.name, "error": self.reason}


def predict(
    artefact: Artefact,
    names: Iterable[str],
    top: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Answer], list[Failure]]:
    """Classify each picture that `names` stand for.

    Args:
        artefact: opened by `open_artefact`, or a run's model.
        names: files, folders, FIFOs, or `-`.
        top: how many classes to give, at most all.
        on_progress: told how many pictures were read so far.
    """
    read: list[tuple[str, Picture]] = []
    failures: list[Failure] = []
    for name in _expand(names, failures):
        try:
            read.append((name, decode_picture(sources.read(name))))
        except PictureError as error:
            failures.append(Failure(name, str(error)))
        on_progress(len(read) + len(failures))
    answers = []
    for start in range(0, len(read), _BATCH_SIZE):
        batch = read[start : start + _BATCH_SIZE]
        predictions = artefact.predict(np.stack([picture.pixels for _, picture in batch]))
        for (name, picture), probabilities in zip(batch, predictions.probabilities, strict=True):
            answers.append(_answer(name, picture, probabilities, artefact.classes, top))
    return answers, failures


def _expand(names: Iterable[str], failures: list[Failure]) -> Iterator[str]:
    for name in names:
        try:
            yield from sources.expand(name)
        except PictureError as error:
            failures.append(Failure(name, str(error)))


def _answer(
    name: str, picture: Picture, probabilities: np.ndarray, classes: tuple[str, ...], top: int
) -> Answer:
    # A stable sort: of equal probabilities the lower class comes first, in every runtime.
    order = np.argsort(-probabilities, kind="stable")[:top]
    guesses = tuple(Guess(classes[i], int(i), float(probabilities[i])) for i in order)
    return Answer(name, guesses, picture.format, picture.mode, picture.width, picture.height)
