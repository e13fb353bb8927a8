"""manifest.json: what an export holds, how it was verified and how it answers.

`export` writes it beside the artefacts; `predict` and `serve` read it.
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
        bytes: of the file, or of all files in the folder.
        sha256: of the file; of a folder, `files.sha256_tree`.
        max_abs_difference: the largest difference of a logit from the Keras model's.
        agreement: share of images with the Keras model's top class.
        proof: the whole comparison.
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
    """An accuracy, and what it was measured on.

    Attributes:
        split: `test`; `holdout`: held-out training images; or `train`: images that it was trained on.
        images: their number.
        value: share classified correctly.
        low, high: 95 % interval (Wilson 1927).
        selected_on: whether these images also decided when to stop, or which epoch's weights to keep.
    """

    split: str
    images: int
    value: float
    low: float
    high: float
    selected_on: bool = False


@dataclasses.dataclass(frozen=True)
class Training:
    """How the model was trained; the names of the settings are those of `train`."""

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
        title: what to call it.
        verified: whether it is proved to be the published data set of this name.
        train_fingerprint, test_fingerprint: of its images and labels.
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
    """What manifest.json holds.

    Attributes:
        run, data: how the model was made.
        classes: the names, by class_id.
        parameters: number of the network's parameters.
        input: of every artefact.
        temperature: divides the logits before the softmax.
        accuracy: of the Keras model.
        artefacts: the exports, in the order of `FORMATS`.
        versions: of the packages that wrote them.
        preprocessing: how any image becomes the input; None in manifests from before it was recorded.
        unfamiliar: the thresholds `energy` and `probability`; None if `evaluate` has found none of use.
        baseline: the model's answers to ordinary images.
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
    format_version: int = 1

    def find(self, file_name: str) -> Export | None:
        """The artefact of this name in the manifest's folder."""
        return next((export for export in self.artefacts if export.path == file_name), None)

    def thresholds(self) -> "Thresholds | None":
        """Beyond which an image is unfamiliar."""
        if self.unfamiliar is None:
            return None
        # Imports scikit-learn, which is slow.
        from cifar_trainer.metrics import Thresholds

        return Thresholds(**self.unfamiliar)

    def with_earlier(self, folder: Path) -> "Manifest":
        """This manifest with the artefacts that an earlier export of the same model has left in `folder`."""
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
        kept = [
            export
            for export in earlier.artefacts
            if export.format in FORMATS
            and export.format not in ours
            and export.sha256 == _digest(folder / export.path)
        ]
        order = list(FORMATS)
        artefacts = sorted([*self.artefacts, *kept], key=lambda export: order.index(export.format))
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
    """Describe an artefact at `path`, under the name that it will have."""
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
    """The input of the artefacts of a network."""
    height, width, channels = preprocessing.image_shape
    layout = f"NHWC, {'RGB' if channels == 3 else 'grey'}"
    return Input("images", "uint8", (None, height, width, channels), layout)


def printable_name(path: Path) -> str:
    """A folder's own name as UTF-8, which it may not be."""
    return os.fsencode(path.resolve().name).decode("utf-8", "backslashreplace")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that write and read artefacts."""
    found = {"cifar-trainer": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "keras", "numpy", *distributions()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
