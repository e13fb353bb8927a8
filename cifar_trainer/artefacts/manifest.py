"""manifest.json: the artefacts of an export, their verification and their input.

`export` writes it next to the artefacts; `predict` and `serve` read it.
"""

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import __version__, files
from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.artefacts.formats import FORMATS, Format, distributions
from cifar_trainer.artefacts.gate import Proof
from cifar_trainer.conformal import Coverage
from cifar_trainer.errors import RunError
from cifar_trainer.images import Preprocessing

if TYPE_CHECKING:
    from cifar_trainer.metrics import Thresholds

MANIFEST_FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Export:
    """A verified artefact.

    Attributes:
        format: name of the format.
        path: the file or folder; in a manifest, relative to the manifest's folder.
        bytes: size of the file, or of all files in the folder.
        sha256: hash of the file; for a folder, `files.sha256_tree`.
        max_abs_difference: largest difference of a logit from the Keras model's.
        agreement: share of images with the Keras model's top class.
        proof: all results of the comparison.
        files: SHA-256 of each file, by its path relative to the manifest's folder.
    """

    format: str
    path: str
    bytes: int
    sha256: str
    max_abs_difference: float
    agreement: float
    proof: Proof
    files: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The keys that `export --json` prints."""
        names = ("format", "path", "bytes", "sha256", "max_abs_difference", "agreement")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy, and the images that it was measured on.

    Attributes:
        split: `test`; `holdout`: held-out training images; or `train`: images that it was trained on.
        images: number of images.
        value: share classified correctly.
        low, high: 95 % interval (Wilson 1927).
        selected_on: whether these images also selected the epoch, or when to stop.
    """

    split: str
    images: int
    value: float
    low: float
    high: float
    selected_on: bool = False


@dataclasses.dataclass(frozen=True)
class Training:
    """How the model was trained; the settings have the names of `train`'s arguments."""

    name: str
    epochs: int
    recipe: str
    batch_size: int
    learning_rate: float
    seed: int
    precision: str
    validation: str
    limit: int | None
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set that the model was trained on.

    Attributes:
        name: as in `--dataset`.
        title: display name.
        verified: whether it is verified as the published data set.
        train_fingerprint, test_fingerprint: fingerprints of the splits' images and labels.
        verified_by: `content` (the fingerprints) or `archive` (the checksum of the published archive).
    """

    name: str
    title: str
    verified: bool
    train_fingerprint: str
    test_fingerprint: str
    verified_by: str | None = None


@dataclasses.dataclass(frozen=True)
class Input:
    """The input of every artefact, as other programs need it."""

    name: str
    dtype: str
    shape: tuple[int | None, int, int, int]
    layout: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        run, data: how the model was made.
        classes: class names, by class_id.
        parameters: number of parameters of the network.
        input: input of every artefact.
        temperature: divides the logits before the softmax.
        accuracy: accuracy of the Keras model.
        artefacts: the exports, in the order of `FORMATS`.
        versions: versions of the packages that wrote them.
        preprocessing: turns any image into the input; None in older manifests.
        unfamiliar: the thresholds `energy` and `probability`; None if there are no usable ones.
        baseline: the model's answers to ordinary images.
        coverage: thresholds of class sets; None if `evaluate` has fitted none.
    """

    run: Training
    data: Data
    classes: tuple[str, ...]
    parameters: int
    input: Input
    temperature: float
    accuracy: Accuracy
    artefacts: tuple[Export, ...]
    versions: dict[str, str]
    preprocessing: Preprocessing | None = None
    unfamiliar: dict[str, float] | None = None
    baseline: Baseline | None = None
    coverage: Coverage | None = None
    format_version: int = 1

    def find(self, file_name: str) -> Export | None:
        """The artefact with this name in the manifest's folder."""
        return next((export for export in self.artefacts if export.path == file_name), None)

    def thresholds(self) -> "Thresholds | None":
        """Thresholds for unfamiliar images."""
        if self.unfamiliar is None:
            return None
        # Imports scikit-learn, which is slow.
        from cifar_trainer.metrics import Thresholds

        return Thresholds(**self.unfamiliar)

    def with_earlier(self, folder: Path) -> "Manifest":
        """This manifest with the artefacts of an earlier export of the same model in `folder`."""
        try:
            earlier = read_manifest(folder)
        except RunError:
            return self
        if earlier is None or (earlier.run.weights_sha256, earlier.temperature) != (
            self.run.weights_sha256,
            self.temperature,
        ):
            return self
        ours = {export.format for export in self.artefacts}
        reused = [
            export
            for export in earlier.artefacts
            if export.format in FORMATS
            and export.format not in ours
            and export.sha256 == _digest(folder / export.path)
        ]
        order = list(FORMATS)
        artefacts = sorted([*self.artefacts, *reused], key=lambda export: order.index(export.format))
        return dataclasses.replace(self, artefacts=tuple(artefacts))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none.

    Raises:
        RunError: it is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    return files.read_json(path, Manifest, remedy="Write it again with: cifar-trainer export --force")


def describe_export(form: Format, path: Path, proof: Proof) -> Export:
    """Describe an artefact at `path`, under its final name."""
    inside = files.files_below(path) if form.is_folder else [path]
    names = [(Path(form.file_name) / file.relative_to(path)).as_posix() for file in inside]
    return Export(
        format=form.name,
        path=form.file_name,
        bytes=files.size_of(path),
        sha256=_digest(path) or "",
        max_abs_difference=proof.max_abs_difference,
        agreement=proof.agreement,
        proof=proof,
        files=dict(zip(names, map(files.sha256_file, inside), strict=True)),
    )


def _digest(path: Path) -> str | None:
    if path.is_dir():
        return files.sha256_tree(path)
    return files.sha256_file(path) if path.is_file() else None


def describe_input(preprocessing: Preprocessing) -> Input:
    """The input of every artefact of a model with this preprocessing."""
    height, width, channels = preprocessing.image_shape
    layout = f"NHWC, {'RGB' if channels == 3 else 'grey'}"
    return Input("images", "uint8", (None, height, width, channels), layout)


def printable_name(path: Path) -> str:
    """A folder's name as valid UTF-8."""
    return os.fsencode(path.resolve().name).decode("utf-8", "backslashreplace")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that write and read artefacts."""
    versions = {"cifar-trainer": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "keras", "numpy", *distributions()):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
