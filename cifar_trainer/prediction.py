"""Image files in, the likeliest classes out."""

import dataclasses
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.artefacts.formats import MANIFEST_FILE, Artefact, open_artefact, recognize
from cifar_trainer.errors import UsageError
from cifar_trainer.images import (
    MAX_BYTES,
    SUFFIXES,
    DecodedImage,
    ImageError,
    is_image,
    is_leftover,
    name_unread_format,
)
from cifar_trainer.recipes import is_splittable
from cifar_trainer.results import Result
from cifar_trainer.run import Run, is_run_folder, open_run
from cifar_trainer.settings import check_count

if TYPE_CHECKING:
    from cifar_trainer.metrics import Thresholds

STANDARD_INPUT = "-"
#: Images a call of the artefact.
_BATCH_SIZE = 64
_LEFTOVER = "leftover of an operating system or program"
_UNREADABLE = "unreadable file"
_NO_IMAGE = "file that is no image"
_RUN = "folder of a run"


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
    """The likeliest classes of one image.

    Attributes:
        name: as given, or found in a folder.
        guesses: the likeliest classes, the likeliest first.
        format, mode, width, height: see `DecodedImage`.
        unfamiliar: whether it is unlike the images that the model was validated on; None where `evaluate`
            has fitted no thresholds.
    """

    name: str
    guesses: tuple[Guess, ...]
    format: str
    mode: str
    width: int
    height: int
    unfamiliar: bool | None

    def to_json(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "image": self.name,
            "format": self.format,
            "mode": self.mode,
            "width": self.width,
            "height": self.height,
            "top": [guess.to_json() for guess in self.guesses],
            "unfamiliar": self.unfamiliar,
        }


@dataclasses.dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The failure as a JSON object."""
        return {"image": self.name, "error": self.reason}


@dataclasses.dataclass(frozen=True)
class PredictionReport(Result):
    """What a model says about images.

    Attributes:
        model: the path of the artefact, or of the run's model.
        format: a name of `FORMATS` that its runtime reads, such as `keras`.
        run_dir: the run's folder; None where an artefact was named.
        predictions: of the images that could be read, in the order of their names.
        errors: those that could not.
        passed_over: how many files in the folders given were no images, by what they are.
    """

    model: str
    format: str
    run_dir: str | None
    predictions: tuple[Answer, ...]
    errors: tuple[Failure, ...]
    passed_over: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """What `predict --json` prints."""
        return {
            "model": self.model,
            "format": self.format,
            "predictions": [answer.to_json() for answer in self.predictions],
            "errors": [failure.to_json() for failure in self.errors],
            "passed_over": self.passed_over,
        }


def predict(
    images: str | Path | Iterable[str | Path],
    *,
    run: str | Path | None = None,
    model: str | Path | None = None,
    top: int = 3,
    verbose: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> PredictionReport:
    """Classify image files with a run's model or an exported artefact.

    An image that cannot be read is among the report's `errors`, and the others are classified.

    Args:
        images: files, folders (the images below them, told by content), FIFOs, or `-` for standard input.
        run: the run's folder; None is the newest run, unless `model` is given.
        model: an exported artefact.
        top: how many classes to give for each image, at most all.
        verbose: show TensorFlow's own messages.
        on_progress: called with the number of images read so far.

    Raises:
        UsageError: an argument is not possible, or a run's folder is among the images.
        RunError: there is no such run or artefact, or it is damaged or holds code.
        CifarTrainerError: the artefact needs a package that is not installed.
    """
    names = [os.fspath(name) for name in ([images] if isinstance(images, str | Path) else images)]
    _check(names, run, model, top)
    artefact, path, opened = _open(run, model, top, verbose)
    if top > len(artefact.classes):
        raise _too_many(top, len(artefact.classes))
    passed_over: Counter[str] = Counter()
    read: list[tuple[str, DecodedImage]] = []
    failures: list[Failure] = []
    for name in _expand(names, failures, passed_over):
        try:
            read.append((name, artefact.preprocessing.decode(read_source(name))))
        except ImageError as error:
            failures.append(Failure(name, str(error)))
        on_progress(len(read) + len(failures))
    return PredictionReport(
        model=str(path),
        format=artefact.format,
        run_dir=None if opened is None else str(opened.path),
        predictions=tuple(_classify(artefact, read, top, _read_thresholds(path, opened))),
        errors=tuple(failures),
        passed_over=dict(passed_over.most_common()),
    )


def _check(names: Sequence[str], run: str | Path | None, model: str | Path | None, top: int) -> None:
    if run is not None and model is not None:
        raise UsageError(f"--run {run} and --model {model} were both given. Name one of them.")
    if not names:
        raise UsageError("No image was given. Expected files, folders, or - for standard input.")
    check_count("top", top)
    for name in names:
        if name != STANDARD_INPUT and is_run_folder(Path(name)):
            raise UsageError(
                f"{name} is a run's folder, and not one of images; nothing was classified. "
                f"To use its model: cifar-trainer predict --run {name} IMAGE..."
            )


def _too_many(top: int, classes: int) -> UsageError:
    return UsageError(f"--top {top} is out of range. The model knows {classes} classes.")


def _open(
    run: str | Path | None, model: str | Path | None, top: int, verbose: bool
) -> tuple[Artefact, Path, Run | None]:
    """The artefact, where it lies, and the run that it belongs to unless it was named itself."""
    # A few images are classified before a GPU has started.
    if model is not None:
        path = Path(model)
        if recognize(path).uses_tensorflow:
            devices.start(device="cpu", verbose=verbose)
        return open_artefact(path), path, None
    opened = open_run(run, with_model=True)
    classes = opened.read_data().classes
    if top > len(classes):
        raise _too_many(top, len(classes))
    settings = opened.read_config()
    devices.start(settings, split=is_splittable(settings), device="cpu", verbose=verbose)
    from cifar_trainer.artefacts.keras import open_run_model

    return open_run_model(opened), opened.model, opened


def _expand(names: Iterable[str], failures: list[Failure], passed_over: Counter[str]) -> Iterator[str]:
    for name in names:
        try:
            # os.path's test, unlike pathlib's, answers for a name that is too long.
            if name != STANDARD_INPUT and os.path.isdir(name):
                yield from images_below(name, passed_over)
            else:
                yield name
        except ImageError as error:
            failures.append(Failure(name, str(error)))


def images_below(folder: str, passed_over: Counter[str]) -> list[str]:
    """The images below a folder, sorted. Each is told by its content, or claims to be one by its name.

    Args:
        folder: its path. Folders of runs below it are passed over whole.
        passed_over: gains one for each file that is no image, under what it is.

    Raises:
        ImageError: the folder holds no image, or cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be listed: {error.strerror}.") from error

    found, here = [], Counter[str]()
    for root, folders, names in os.walk(folder, onerror=refuse):
        runs = [each for each in folders if is_run_folder(Path(root, each))]
        folders[:] = [each for each in folders if each not in runs]
        here.update({_RUN: len(runs)} if runs else {})
        for name in names:
            path = os.path.join(root, name)
            kind = _kind_of(path, os.path.relpath(path, folder))
            if kind is None:
                found.append(path)
            else:
                here[kind] += 1
    passed_over.update(here)
    if not found:
        held = f" It holds: {format_counts(here)}." if here else ""
        raise ImageError(f"it is a folder without images.{held}")
    return sorted(found)


def format_counts(counts: dict[str, int]) -> str:
    """Counts of things in words, such as `2 HEIC images, 1 file that is no image`."""
    return ", ".join(f"{count:,} {_plural(what) if count > 1 else what}" for what, count in counts.items())


def _plural(what: str) -> str:
    plural = re.sub(r"\b(leftover|file|folder|image)\b", r"\1s", what, count=1)
    return plural.replace("that is no image", "that are no images")


def _kind_of(path: str, relative: str) -> str | None:
    """What a file below a folder is; None for an image, and for what has an image's name."""
    if is_leftover(relative.replace(os.sep, "/")):
        return _LEFTOVER
    if Path(path).suffix.lower() in SUFFIXES:
        return None
    if not os.path.isfile(path):
        return _NO_IMAGE
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return _UNREADABLE
    if is_image(head):
        return None
    other = name_unread_format(head)
    return f"{other} image" if other else _NO_IMAGE


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
        raise ImageError(f"it cannot be read: {error.strerror}.{_hint(name)}") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"it has more than {MAX_BYTES:,} bytes.")
    return content


def _hint(name: str) -> str:
    """What to do about a name of which there is no file."""
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        return f" It is a URL; download it first: curl -sL '{name}' | cifar-trainer predict -"
    if re.search(r"[*?]|\[.+\]", name):
        return " It is a pattern that the shell has not expanded, as no file matches it or it is quoted."
    return ""


@dataclasses.dataclass(frozen=True)
class _Manifest:
    """What of an export's manifest tells unfamiliar images."""

    unfamiliar: dict[str, float] | None = None


def _read_thresholds(path: Path, run: Run | None) -> "Thresholds | None":
    """Beyond which an image is unfamiliar to a run's model, or to the artefact in `path`; None if unknown."""
    if run is not None:
        return run.read_thresholds(run.read_result().weights_sha256)
    manifest = path.parent / MANIFEST_FILE
    fitted = files.read_json(manifest, _Manifest).unfamiliar if manifest.is_file() else None
    if fitted is None:
        return None
    # scikit-learn, which it imports, is not waited for where there is nothing to tell.
    from cifar_trainer.metrics import Thresholds

    return Thresholds(**fitted)


def _classify(
    artefact: Artefact,
    read: Sequence[tuple[str, DecodedImage]],
    top: int,
    thresholds: "Thresholds | None",
) -> Iterator[Answer]:
    for start in range(0, len(read), _BATCH_SIZE):
        batch = read[start : start + _BATCH_SIZE]
        predictions = artefact.predict(np.stack([image.pixels for _, image in batch]))
        unfamiliar = (
            [None] * len(batch) if thresholds is None else thresholds.is_unfamiliar(predictions.logits)
        )
        for (name, image), probabilities, flag in zip(
            batch, predictions.probabilities, unfamiliar, strict=True
        ):
            yield Answer(
                name,
                _guesses(probabilities, artefact.classes, top),
                image.format,
                image.mode,
                image.width,
                image.height,
                None if flag is None else bool(flag),
            )


def _guesses(probabilities: np.ndarray, classes: tuple[str, ...], top: int) -> tuple[Guess, ...]:
    # A stable sort: of equal probabilities the lower class comes first, in every runtime.
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Guess(classes[i], int(i), float(probabilities[i])) for i in order)
