"""Image files in, the likeliest classes out."""

import dataclasses
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.artefacts.formats import Artefact
from cifar_trainer.images import MAX_BYTES, DecodedImage, ImageError, decode_image

STANDARD_INPUT = "-"
#: What is taken for a picture in a folder, where nobody has named each file.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def expand_source(name: str) -> list[str]:
    """The pictures that `name` stands for: a folder gives those below it, sorted; the rest itself.

    Raises:
        ImageError: a folder holds no picture, or cannot be listed.
    """
    # os.path's test, unlike pathlib's, answers for a name that is too long.
    return _pictures_below(name) if name != STANDARD_INPUT and os.path.isdir(name) else [name]


def _pictures_below(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be listed: {error.strerror}.") from error

    files = (Path(root, name) for root, _, names in os.walk(folder, onerror=refuse) for name in names)
    found = sorted(str(path) for path in files if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageError(f"it is a folder without pictures ({', '.join(SUFFIXES)}).")
    return found


def read_source(name: str) -> bytes:
    """The bytes of a file, a FIFO up to its end, or standard input.

    Raises:
        ImageError: it is absent, unreadable, a device or socket, or larger than MAX_BYTES.
    """
    try:
        if name == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            mode = Path(name).stat().st_mode
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
                raise ImageError("it is a device or a socket; expected a file, a folder, a FIFO, or -.")
            with open(name, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(f"it cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"it has more than {MAX_BYTES:,} bytes.")
    return content


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
        format, mode, width, height: see `DecodedImage`.
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
    read: list[tuple[str, DecodedImage]] = []
    failures: list[Failure] = []
    for name in _expand(names, failures):
        try:
            read.append((name, decode_image(read_source(name))))
        except ImageError as error:
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
            yield from expand_source(name)
        except ImageError as error:
            failures.append(Failure(name, str(error)))


def _answer(
    name: str, picture: DecodedImage, probabilities: np.ndarray, classes: tuple[str, ...], top: int
) -> Answer:
    # A stable sort: of equal probabilities the lower class comes first, in every runtime.
    order = np.argsort(-probabilities, kind="stable")[:top]
    guesses = tuple(Guess(classes[i], int(i), float(probabilities[i])) for i in order)
    return Answer(name, guesses, picture.format, picture.mode, picture.width, picture.height)
