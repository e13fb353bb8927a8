"""The table of export formats, and the interface of an opened artefact."""

import abc
import dataclasses
import errno
import importlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
import numpy as np

from cifar_trainer.errors import CifarTrainerError, RunError, UsageError
from cifar_trainer.extras import check_extra
from cifar_trainer.images import Preprocessing
from cifar_trainer.settings import check_choice

if TYPE_CHECKING:
    from cifar_trainer.model import Network


@dataclasses.dataclass(frozen=True)
class Bound:
    """Allowed differences between an artefact and the Keras model.

    Attributes:
        difference: maximum difference of any logit, unless the network amplifies rounding errors
            (`gate.Reference.rounding`); None if only the classes matter.
        agreement: minimum share of images with the same top class. If two classes' logits differ by
            at most twice the allowed difference, either is accepted.
        accuracy_loss: below `agreement`, an artefact still passes if its accuracy differs from the
            Keras model's by at most this, and the Keras model's is clearly above chance; None if it never
            passes.
    """

    difference: float | None
    agreement: float
    accuracy_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A format: a row of the table `FORMATS`.

    Attributes:
        name: name on the command line.
        file_name: name of the artefact in the export's folder.
        module: module of `cifar_trainer.artefacts`, with `write(network, path, examples, **options)`
            and `open_artefact(path) -> Artefact`, which may raise any exception for a damaged file.
        title: display name.
        recognizes: whether a path has this format, or another one of the same module.
        bound: what the gate requires.
        aliases: names in other tools.
        options: options for the module's `write`.
        extra: the extra of this package that installs `packages`.
        packages: modules needed to write it.
        runtime: modules needed to open it.
        takes_bytes: whether the artefact also decodes image files.
        uses_tensorflow: whether its runtime is TensorFlow, which has to be started first.
        serving_rank: rank among the formats that `serve` and `predict` choose from; 1 is the fastest for one
            image on a CPU (measured with `cifar-trainer benchmark`). None excludes the format.
    """

    name: str
    file_name: str
    module: str
    title: str
    recognizes: Callable[[Path], bool]
    bound: Bound
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: str | None = None
    packages: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    takes_bytes: bool = False
    uses_tensorflow: bool = False
    serving_rank: int | None = None

    @property
    def is_folder(self) -> bool:
        return "." not in self.file_name

    @property
    def suffix(self) -> str:
        """Suffix of the file name; empty for a folder."""
        return Path(self.file_name).suffix


def _is_folder_with(name: str) -> Callable[[Path], bool]:
    return lambda path: (path / name).is_file()


def _is_zip_with(name: str) -> Callable[[Path], bool]:
    def recognizes(path: Path) -> bool:
        try:
            with zipfile.ZipFile(path) as archive:
                return name in archive.namelist()
        except (OSError, zipfile.BadZipFile):
            return False

    return recognizes


def _has_bytes(content: bytes, at: int) -> Callable[[Path], bool]:
    def recognizes(path: Path) -> bool:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(at + len(content))[at:] == content

    return recognizes


def _has_suffix(suffix: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix == suffix and path.is_file()


_EXACT = Bound(difference=1e-4, agreement=1.0)
_IS_LITERT = _has_bytes(b"TFL3", at=4)
_LITERT_PACKAGES = ("ai_edge_litert",)

FORMATS = {
    each.name: each
    for each in (
        Format(
            "saved_model", "saved_model", "saved_model", "SavedModel", _is_folder_with("saved_model.pb"),
            _EXACT, aliases=("savedmodel", "saved-model", "tf", "pb"), takes_bytes=True, uses_tensorflow=True,
            serving_rank=3,
        ),
        Format(
            "keras", "model.keras", "keras", "Keras", _is_zip_with("config.json"), _EXACT,
            aliases=("h5", "hdf5", "keras_v3"), uses_tensorflow=True, serving_rank=4,
        ),
        Format(
            "litert", "model.tflite", "litert", "LiteRT", _IS_LITERT, _EXACT,
            aliases=("tflite", "lite"), extra="litert", packages=_LITERT_PACKAGES, runtime=_LITERT_PACKAGES,
            serving_rank=2,
        ),
        Format(
            "litert-float16", "model-float16.tflite", "litert", "LiteRT", _IS_LITERT, Bound(None, 0.999),
            aliases=("tflite-float16", "tflite-fp16", "float16", "fp16"),
            options={"weights": "float16"}, extra="litert", packages=_LITERT_PACKAGES,
            runtime=_LITERT_PACKAGES,
        ),
        Format(
            "litert-int8", "model-int8.tflite", "litert", "LiteRT", _IS_LITERT, Bound(None, 0.99, 0.01),
            aliases=("tflite-int8", "int8"),
            options={"weights": "int8"}, extra="litert", packages=_LITERT_PACKAGES,
            runtime=_LITERT_PACKAGES,
        ),
        Format(
            "onnx", "model.onnx", "onnx", "ONNX", _has_suffix(".onnx"), _EXACT,
            extra="onnx", packages=("onnx", "onnxruntime", "tf2onnx"), runtime=("onnxruntime",),
            serving_rank=1,
        ),
    )
}  # fmt: skip


def get_format(name: str) -> Format:
    """Look a format up by name.

    Raises:
        UsageError: the format is unknown; the message suggests one.
    """
    aliases = {alias: form.name for form in FORMATS.values() for alias in form.aliases}
    check_choice("format", name, tuple(FORMATS), aliases)
    return FORMATS[name]


def served_formats() -> list[Format]:
    """The formats that `serve` and `predict` choose from, fastest first."""
    ranked = [(form.serving_rank, form) for form in FORMATS.values() if form.serving_rank is not None]
    return [form for _, form in sorted(ranked, key=lambda pair: pair[0])]


def distributions() -> tuple[str, ...]:
    """PyPI names of the optional packages of all formats."""
    packages = (package for form in FORMATS.values() for package in form.packages)
    return tuple(dict.fromkeys(package.replace("_", "-") for package in packages))


def expected_artefacts() -> str:
    """The artefacts that can be opened, such as `a SavedModel folder, or a .keras or .onnx file`."""
    folders = dict.fromkeys(f"a {form.title} folder" for form in FORMATS.values() if form.is_folder)
    *suffixes, last = dict.fromkeys(form.suffix for form in FORMATS.values() if not form.is_folder)
    return f"{', '.join(folders)}, or a {', '.join(suffixes)} or {last} file"


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """An artefact's answers to N images.

    Attributes:
        logits: float32 [N, classes], before the temperature.
        probabilities: float32 [N, classes], softmax(logits / temperature).
        class_id: int64 [N], from 0.
        class_name: N names.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    class_id: np.ndarray
    class_name: tuple[str, ...]


class Artefact(abc.ABC):
    """An opened artefact.

    Attributes:
        format: the format, such as `saved_model`. LiteRT variants are all `litert`.
        classes: class names, by class_id.
        preprocessing: turns any image into the input.
    """

    format: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input."""
        return self.preprocessing.image_shape

    @abc.abstractmethod
    def predict(self, images: np.ndarray) -> Predictions:
        """Classify uint8 [N, *image_shape] in one batch."""


@runtime_checkable
class TakesBytes(Protocol):
    """An artefact that decodes image files itself."""

    def predict_bytes(self, encoded: Sequence[bytes]) -> Predictions:
        """Classify PNG or JPEG files of any size in one batch."""


def read_preprocessing(recorded: bytes | None, image_shape: Sequence[int]) -> Preprocessing:
    """Read an artefact's preprocessing from JSON; by default, images are stretched to its shape.

    Raises:
        ValueError: the JSON is invalid, or is for images of a different shape.
    """
    height, width, channels = image_shape
    plain = Preprocessing((height, width, channels))
    if recorded is None:
        return plain
    try:
        preprocessing = msgspec.json.decode(recorded, type=Preprocessing)
    except (msgspec.DecodeError, UsageError) as error:
        raise ValueError(f"its preprocessing cannot be read: {error}") from error
    if preprocessing.image_shape != plain.image_shape:
        raise ValueError(
            f"its preprocessing is for images of {preprocessing.image_shape}, not {plain.image_shape}"
        )
    return preprocessing


def recognize(path: Path) -> Format:
    """The format of an artefact, by content; the first of those that share a module.

    Raises:
        RunError: it is missing, cannot be read, or has an unknown format.
    """
    try:
        for form in FORMATS.values():
            if form.recognizes(path):
                return form
        if path.is_dir():
            held = ", ".join(sorted(map(_describe_entry, path.iterdir()))[:8]) or "nothing"
            raise RunError(
                f"{path} is a folder without saved_model.pb (it contains {held}). "
                f"Expected {expected_artefacts()}. To use a run, pass --run."
            )
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}. Create one with: cifar-trainer export"
        ) from error
    raise RunError(
        f"{path} is not an artefact of a known format (it starts with {head!r}). "
        f"Expected {expected_artefacts()}."
    )


def _describe_entry(path: Path) -> str:
    dangles = path.is_symlink() and not path.exists()
    return f"{path.name}, a broken link" if dangles else path.name


def open_artefact(path: Path) -> Artefact:
    """Open an artefact with its own runtime. Imports TensorFlow only if the format uses it.

    Raises:
        RunError: it is missing, damaged, of an unknown format, or contains code.
        CifarTrainerError: it needs a package that is not installed.
    """
    form = recognize(path)
    if form.extra is not None:
        check_extra(str(path), form.extra, form.runtime)
    try:
        artefact: Artefact = _module_of(form).open_artefact(path)
    except CifarTrainerError:
        raise
    except Exception as error:  # Runtimes raise any exception for damaged files.
        raise RunError(
            f"{path} is not a complete {form.title} export ({type(error).__name__}: {error}). "
            f"Export it again with: cifar-trainer export --format {form.name} --force"
        ) from error
    return artefact


def _module_of(form: Format) -> ModuleType:
    return importlib.import_module(f"cifar_trainer.artefacts.{form.module}")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float32 [N, classes]."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return result


def check_packages(formats: Sequence[Format]) -> None:
    """Raise CifarTrainerError if a format needs packages that are not installed."""
    for form in formats:
        if form.extra is not None:
            check_extra(f"--format {form.name}", form.extra, form.packages)


def write_artefact(form: Format, network: "Network", path: Path, examples: np.ndarray) -> None:
    """Write `network` to `path`, a new file or an empty folder.

    Args:
        form: the format.
        network: the network.
        path: the target.
        examples: training images for warm-up and int8 calibration, uint8 [N, H, W, C].

    Raises:
        OSError: writing failed, for example on a full disk.
        CifarTrainerError: the format does not support this network.
    """
    module = _module_of(form)
    try:
        module.write(network, path, examples, **form.options)
    except (OSError, CifarTrainerError):
        raise
    except Exception as error:  # Converters raise any exception, even for a full disk.
        number = _system_error(str(error))
        if number is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        reason = str(error).strip().split("\n")[0][:500]
        raise CifarTrainerError(
            f"The network cannot be written as {form.name}: {type(error).__name__}: {reason} "
            "Nothing was exported. Choose another --format, or show the full error with -v."
        ) from error


#: System errors of failed writes.
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


def _system_error(text: str) -> int | None:
    """The errno in a TensorFlow message; None if it has none."""
    return next((number for number in _WRITE_ERRORS if os.strerror(number) in text), None)
