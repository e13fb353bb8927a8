"""What lies in an export folder: manifest.json for programs, model_card.md for people."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import __version__, files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.export.formats import FORMATS, Format
from cifar_trainer.export.gate import Proof
from cifar_trainer.export.model_card import format_model_card
from cifar_trainer.export.reference import Measured
from cifar_trainer.run import Run

MANIFEST_FILE = "manifest.json"
MODEL_CARD_FILE = "model_card.md"
_PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert", "onnx", "onnxruntime", "tf2onnx")


@dataclasses.dataclass(frozen=True)
class Export:
    """One artefact, proved and in place.

    Attributes:
        format: name of the format.
        path: the file or folder.
        bytes: of the file, or of all files in the folder.
        sha256: of the file; of a folder, `files.sha256_tree`.
        proof: how it compares with the Keras model.
    """

    format: str
    path: str
    bytes: int
    sha256: str
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        return {
            "format": self.format,
            "path": self.path,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "max_abs_difference": self.proof.max_abs_difference,
            "agreement": self.proof.agreement,
        }


def describe(form: Format, path: Path, proof: Proof) -> Export:
    """The description of an artefact that stands at `path`."""
    digest = files.sha256_tree(path) if form.is_folder else files.sha256_file(path)
    return Export(form.name, str(path), files.size_of(path), digest, proof)


def write_documents(
    run: Run, output: Path, dataset: Dataset, measured: Measured, exports: Sequence[Export]
) -> None:
    """Write manifest.json and model_card.md into `output`.

    Artefacts of the same weights and temperature that an earlier export left there stay listed.
    """
    manifest = make_manifest(run, dataset, measured, exports)
    ours = {entry["format"] for entry in manifest["artefacts"]}
    for entry in _earlier_artefacts(output, manifest):
        if entry["format"] not in ours:
            manifest["artefacts"].append(entry)
    manifest["artefacts"].sort(key=lambda entry: list(FORMATS).index(entry["format"]))
    files.write_json(output / MANIFEST_FILE, manifest)
    files.write_text(output / MODEL_CARD_FILE, format_model_card(manifest))


def make_manifest(
    run: Run, dataset: Dataset, measured: Measured, exports: Sequence[Export]
) -> dict[str, Any]:
    """The manifest of `exports`, as a JSON object."""
    config = run.read_config()
    network = measured.network
    return {
        "format_version": 1,
        "run": {
            # A folder's name may be no UTF-8; the card is.
            "name": os.fsencode(run.path.resolve().name).decode("utf-8", "backslashreplace"),
            "epochs": measured.epochs,
            **{key: getattr(config, key) for key in ("recipe", "batch_size", "learning_rate")},
            **{key: getattr(config, key) for key in ("seed", "precision", "validation", "limit")},
            "weights_sha256": measured.weights_sha256,
        },
        "data": {
            "name": dataset.name,
            "title": dataset.title,
            "verified": dataset.verified,
            "train_fingerprint": dataset.train.fingerprint,
            "test_fingerprint": dataset.test.fingerprint,
        },
        "classes": list(network.classes),
        "parameters": network.model.count_params(),
        "input": {"name": "images", "dtype": "uint8", "shape": [None, 32, 32, 3], "layout": "NHWC, RGB"},
        "temperature": network.temperature,
        "accuracy": dataclasses.asdict(measured.accuracy),
        "artefacts": [_entry(export) for export in exports],
        "versions": {"cifar-trainer": __version__, "python": platform.python_version(), **_versions()},
    }


def _entry(export: Export) -> dict[str, Any]:
    path = Path(export.path)
    within = files.files_below(path) if path.is_dir() else [path]
    return {
        **export.to_json(),
        "path": path.name,
        "proof": dataclasses.asdict(export.proof),
        "files": {p.relative_to(path.parent).as_posix(): files.sha256_file(p) for p in within},
    }


def _earlier_artefacts(output: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an earlier manifest lists, of the same network and still there; nothing where it is damaged."""
    try:
        earlier = json.loads((output / MANIFEST_FILE).read_text(encoding="utf-8"))
        if earlier["run"]["weights_sha256"] != manifest["run"]["weights_sha256"]:
            return []
        if earlier["temperature"] != manifest["temperature"]:
            return []
        return [
            entry
            for entry in earlier["artefacts"]
            if entry["format"] in FORMATS and _digest(output / entry["path"]) == entry["sha256"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _digest(path: Path) -> str | None:
    if path.is_dir():
        return files.sha256_tree(path)
    return files.sha256_file(path) if path.is_file() else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
