"""Classify images with a run's model or an exported artefact."""

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
from PIL import Image

from cifar_trainer import devices, files
from cifar_trainer.artefacts.source import Source, find_source
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
from cifar_trainer.results import Result
from cifar_trainer.run import is_run_folder
from cifar_trainer.settings import check_count

if TYPE_CHECKING:
    from cifar_trainer.artefacts.formats import Artefact
    from cifar_trainer.metrics import Thresholds

#: An image: a file name, pixels, or a PIL image.
ImageSource = str | Path | np.ndarray | Image.Image

STANDARD_INPUT = "-"
#: Default number of classes per image.
DEFAULT_TOP = 3
#: Images per call of the artefact.
_BATCH_SIZE = 64
#: Kinds of files in a folder that are not images.
_LEFTOVER = "leftover of an operating system or program"
_UNREADABLE = "unreadable file"
_OTHER = "file that is not an image"
_RUN = "run's folder"


@dataclasses.dataclass(frozen=True)
class Guess(Result):
    """A class and its probability."""

    class_name: str
    class_id: int
    probability: float

    def to_json(self) -> dict[str, Any]:
        return {"class": self.class_name, "class_id": self.class_id, "probability": self.probability}


@dataclasses.dataclass(frozen=True)
class Answer(Result):
    """The most likely classes of one image.

    Attributes:
        name: the file's path; `image 0` and so on for pixels.
        guesses: the most likely classes, best first.
        format, mode, width, height: see `DecodedImage`; `format` is empty for pixels.
        unfamiliar: whether it is unlike the images that the model was validated on; None without a usable
            threshold from `evaluate`.
        margin: difference between the largest and second-largest probability.
        class_set: the set of the chosen coverage, best first; empty for "unknown"; None without a coverage.
    """

    name: str
    guesses: tuple[Guess, ...]
    format: str
    mode: str
    width: int
    height: int
    unfamiliar: bool | None
    margin: float
    class_set: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "image": self.name,
            "format": self.format,
            "mode": self.mode,
            "width": self.width,
            "height": self.height,
            "top": [guess.to_json() for guess in self.guesses],
            "unfamiliar": self.unfamiliar,
            "margin": self.margin,
            **({} if self.class_set is None else {"set": list(self.class_set)}),
        }


@dataclasses.dataclass(frozen=True)
class Failure(Result):
    """An image that cannot be read, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"image": self.name, "error": self.reason}


@dataclasses.dataclass(frozen=True)
class PredictionReport(Result):
    """A model's predictions for images.

    Attributes:
        model: the path of the artefact, or of the run's model.
        format: the artefact's format, such as `keras`.
        run_dir: the run's folder; None for an artefact without a run.
        predictions: one for each readable image, in the order of the arguments; sorted within folders.
        errors: the images that cannot be read.
        passed_over: number of files in the folders that are not images, by kind.
        coverage: the promised probability that a set contains the right class; None if none was chosen.
        page: the page that explains the predictions; None if they are not explained.
    """

    model: str
    format: str
    run_dir: str | None
    predictions: tuple[Answer, ...]
    errors: tuple[Failure, ...]
    passed_over: dict[str, int]
    coverage: float | None = None
    page: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What `predict --json` and `explain --json` print."""
        return {
            "model": self.model,
            "format": self.format,
            "predictions": [answer.to_json() for answer in self.predictions],
            "errors": [failure.to_json() for failure in self.errors],
            "passed_over": self.passed_over,
            **({} if self.coverage is None else {"coverage": self.coverage}),
            **({} if self.page is None else {"page": self.page}),
        }

    def to_csv(self) -> str:
        """What `predict --csv` prints: one row per image, with columns of an evaluation's predictions.csv."""
        return files.format_csv(
            ("file", "predicted", "probability", "margin", "unfamiliar", *(["set"] if self.coverage else [])),
            (
                {
                    "file": answer.name,
                    "predicted": answer.guesses[0].class_name,
                    "probability": answer.guesses[0].probability,
                    "margin": answer.margin,
                    "unfamiliar": answer.unfamiliar,
                    "set": "|".join(answer.class_set or ()),
                }
                for answer in self.predictions
            ),
        )


def predict(
    images: ImageSource | Iterable[ImageSource],
    *,
    run: str | Path | None = None,
    model: str | Path | None = None,
    top: int | None = None,
    coverage: float | str | None = None,
    verbose: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> PredictionReport:
    """Classify images with a run's model or an exported artefact.

    For a run, this uses its fastest exported artefact, as `serve` does, or its own model. Images that cannot
    be read are listed in the report's `errors`; the others are classified.

    Args:
        images: one or several of: files, folders (their images are recognized by content), FIFOs, `-` for
            standard input, PIL images, and arrays uint8 [H, W], [H, W, C] or [N, H, W, C] with 1, 3 or 4
            channels (greyscale, RGB, RGBA).
        run: the run's folder; by default, the newest run with a model, unless `model` is set.
        model: an exported artefact.
        top: number of classes per image; by default 3, or all if there are fewer.
        coverage: also give a set of classes that contains the right one with this probability, such as 0.9 or
            "90%". The run must have held out images, and have been evaluated.
        verbose: show TensorFlow's own messages.
        on_progress: called with the number of images read so far.

    Raises:
        UsageError: an argument is invalid, or one of the images is a run's folder.
        RunError: the run or artefact does not exist, is damaged, or contains code.
        CifarTrainerError: the artefact needs a package that is not installed.
    """
    if run is not None and model is not None:
        raise UsageError(f"--run {run} and --model {model} were both given. Pass only one.")
    if top is not None:
        check_count("top", top)
    sources = list_images(images)
    source = find_source(run, model, coverage)
    if top is not None and source.run is not None:
        _check_top(top, len(source.run.read_data().classes))
    classifier = Classifier(source, top, verbose)
    return classifier.report(tuple(answer for _, answer in classifier.classify(sources, on_progress)))


def list_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """The argument `images` of `predict` as a list.

    Raises:
        UsageError: it is empty, or one of the images is a run's folder.
    """
    sources = [images] if isinstance(images, str | Path | np.ndarray | Image.Image) else list(images)
    if not sources:
        raise UsageError("No image was given. Expected files, folders, or - for standard input.")
    for image in sources:
        if isinstance(image, str | Path) and image != STANDARD_INPUT and is_run_folder(Path(image)):
            raise UsageError(
                f"{image} is a run's folder, not an image or a folder of images. "
                f"To use its model, pass --run {image} and the images."
            )
    return sources


def _check_top(top: int, classes: int) -> None:
    if top > classes:
        raise UsageError(f"--top {top} is out of range. The model has {classes} classes.")


class Classifier:
    """Reads and classifies images. Opens its artefact after the first image, because that may take seconds.

    Args:
        source: the artefact.
        top: number of classes per image; by default 3, or all if there are fewer.
        verbose: show TensorFlow's own messages.
    """

    def __init__(self, source: Source, top: int | None, verbose: bool) -> None:
        self._failures: list[Failure] = []
        self._passed_over: Counter[str] = Counter()
        self._source, self._top, self._verbose = source, top, verbose
        self._sets = source.read_sets()
        self._artefact: Artefact | None = None
        self._thresholds: Thresholds | None = None

    def open(self) -> "Artefact":
        """The artefact, opened by the first call."""
        if self._artefact is None:
            if self._source.format.uses_tensorflow:
                # On the CPU: classifying a few images is faster than starting a GPU.
                devices.start(device="cpu", verbose=self._verbose)
            self._artefact = self._source.open()
            self._thresholds = self._source.read_thresholds()
            if self._top is not None:
                _check_top(self._top, len(self._artefact.classes))
        return self._artefact

    def classify(
        self, images: Iterable[ImageSource], on_progress: Callable[[int], None]
    ) -> Iterator[tuple[DecodedImage, Answer]]:
        """Read and classify images as `predict` does; skip those that cannot be read."""
        named = list(_expand(images, self._failures, self._passed_over))
        for start in range(0, len(named), _BATCH_SIZE):
            batch = []
            for done, (name, image) in enumerate(named[start : start + _BATCH_SIZE], start + 1):
                try:
                    batch.append((name, self._decode(image)))
                except ImageError as error:
                    self._failures.append(Failure(name, str(error)))
                on_progress(done)
            if batch:
                yield from zip((image for _, image in batch), self._answers(batch), strict=True)

    def report(self, predictions: tuple[Answer, ...]) -> PredictionReport:
        """The report on these images and on those that could not be read."""
        run = self._source.run
        return PredictionReport(
            model=str(self._source.path),
            format=self._source.format.module,
            run_dir=None if run is None else str(run.path),
            predictions=predictions,
            errors=tuple(self._failures),
            passed_over=dict(self._passed_over.most_common()),
            coverage=None if self._sets is None else self._sets.coverage,
        )

    def _decode(self, image: ImageSource) -> DecodedImage:
        if isinstance(image, str | Path):
            content = read_file(os.fspath(image))
            return self.open().preprocessing.decode(content)
        pillow = image if isinstance(image, Image.Image) else _to_pillow(image)
        preprocessing = self.open().preprocessing
        try:
            pixels = preprocessing.convert(pillow)
        except (OSError, ValueError, SyntaxError) as error:  # An opened file that Pillow has not read yet.
            raise ImageError(f"it cannot be decoded: {error}.") from error
        return DecodedImage(pixels, pillow.format or "", pillow.mode, pillow.width, pillow.height)

    def _answers(self, batch: Sequence[tuple[str, DecodedImage]]) -> Iterator[Answer]:
        artefact = self.open()
        top = DEFAULT_TOP if self._top is None else self._top
        predictions = artefact.predict(np.stack([image.pixels for _, image in batch]))
        unfamiliar = [None] * len(batch)
        if self._thresholds is not None:
            unfamiliar = self._thresholds.is_unfamiliar(predictions.logits).tolist()
        contained = [None] * len(batch) if self._sets is None else self._sets.contain(predictions.logits)
        for (name, image), probabilities, flag, inside in zip(
            batch, predictions.probabilities, unfamiliar, contained, strict=True
        ):
            # Stable, so that ties go to the lower class in every runtime.
            order = np.argsort(-probabilities, kind="stable")
            guesses = tuple(Guess(artefact.classes[i], int(i), float(probabilities[i])) for i in order[:top])
            margin = float(probabilities[order[0]] - probabilities[order[1]])
            chosen = None if inside is None else tuple(artefact.classes[i] for i in order if inside[i])
            yield Answer(
                name, guesses, image.format, image.mode, image.width, image.height, flag, margin, chosen
            )


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ImageError(f"its pixels are {pixels.dtype}; expected uint8 from 0 to 255.")
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _expand(
    images: Iterable[ImageSource], failures: list[Failure], passed_over: Counter[str]
) -> Iterator[tuple[str, ImageSource]]:
    """Each image with its name; folders and arrays of several images are expanded."""
    count = 0
    for image in images:
        if isinstance(image, str | Path):
            name = os.fspath(image)
            try:
                # Unlike pathlib's, this test does not raise an exception if a name is too long.
                inside = images_below(name, passed_over) if os.path.isdir(name) else [name]
                yield from ((path, path) for path in inside)
            except ImageError as error:
                failures.append(Failure(name, str(error)))
            continue
        for single in _single_images(image):
            yield f"image {count}", single
            count += 1


def _single_images(image: np.ndarray | Image.Image) -> Iterable[np.ndarray | Image.Image]:
    if isinstance(image, Image.Image) or image.ndim == 2:
        return [image]
    if image.ndim not in (3, 4) or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UsageError(
            f"An array of shape {image.shape} was given. Expected [H, W], [H, W, C] or [N, H, W, C] with "
            "1, 3 or 4 channels."
        )
    return [image] if image.ndim == 3 else image


def images_below(folder: str, passed_over: Counter[str]) -> list[str]:
    """The images below a folder, sorted: files with the content or the suffix of an image.

    Args:
        folder: its path. Runs' folders in it are skipped.
        passed_over: counts the other files by kind.

    Raises:
        ImageError: the folder contains no images, or cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be listed: {error.strerror}.") from error

    images, others = [], Counter[str]()
    for root, folders, names in os.walk(folder, onerror=refuse):
        runs = [name for name in folders if is_run_folder(Path(root, name))]
        folders[:] = [name for name in folders if name not in runs]
        others.update({_RUN: len(runs)} if runs else {})
        for name in names:
            path = os.path.join(root, name)
            kind = _kind_of(path, os.path.relpath(path, folder))
            if kind is None:
                images.append(path)
            else:
                others[kind] += 1
    passed_over.update(others)
    if not images:
        contents = f" It contains: {format_counts(others)}." if others else ""
        raise ImageError(f"it is a folder without images.{contents}")
    return sorted(images)


def format_counts(counts: dict[str, int]) -> str:
    """Format counts, such as `HEIC image (2), file that is not an image (1)`."""
    return ", ".join(f"{what} ({count:,})" for what, count in counts.items())


def _kind_of(path: str, relative: str) -> str | None:
    """The kind of a file in a folder; None for an image or a file with an image's suffix."""
    if is_leftover(relative.replace(os.sep, "/")):
        return _LEFTOVER
    # Reading a FIFO would wait for its writer.
    if os.path.exists(path) and not os.path.isfile(path):
        return _OTHER
    if Path(path).suffix.lower() in SUFFIXES:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return _UNREADABLE
    if is_image(head):
        return None
    other = name_unread_format(head)
    return f"{other} image" if other else _OTHER


def read_file(name: str) -> bytes:
    """Read a file, a FIFO, or standard input.

    Raises:
        ImageError: it is missing, unreadable, a device or socket, or larger than MAX_BYTES.
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
    """Advice if there is no file with this name."""
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        return f" That is a URL. Download it first: curl -sL '{name}' | cifar-trainer predict -"
    if re.search(r"[*?]|\[.+\]", name):
        return " The shell has not expanded this pattern: it is quoted, or no file matches it."
    return ""
