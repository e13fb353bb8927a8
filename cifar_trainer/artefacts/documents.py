"""What lies beside the artefacts: manifest.json and the model card."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import __version__, files
from cifar_trainer.artefacts.baseline import make_baseline
from cifar_trainer.artefacts.formats import FORMATS, MANIFEST_FILE, Format, distributions
from cifar_trainer.artefacts.verification import BATCH_SIZES, Proof
from cifar_trainer.data import DATASETS
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.run import Run

if TYPE_CHECKING:
    from cifar_trainer.artefacts.measurement import MeasuredModel

MODEL_CARD_FILE = "model_card.md"


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

    @property
    def max_abs_difference(self) -> float:
        """The largest difference of a logit from Keras's."""
        return self.proof.max_abs_difference

    @property
    def agreement(self) -> float:
        """The share of images with Keras's top class."""
        return self.proof.agreement

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        return {
            "format": self.format,
            "path": self.path,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "max_abs_difference": self.max_abs_difference,
            "agreement": self.agreement,
        }


def describe_export(form: Format, path: Path, proof: Proof) -> Export:
    """The description of an artefact that stands at `path`."""
    digest = files.sha256_tree(path) if form.is_folder else files.sha256_file(path)
    return Export(form.name, str(path), files.size_of(path), digest, proof)


def write_documents(
    run: Run, output: Path, dataset: Dataset, measured: "MeasuredModel", exports: Sequence[Export]
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
    run: Run, dataset: Dataset, measured: "MeasuredModel", exports: Sequence[Export]
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
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": [None, *network.image_shape],
            "layout": f"NHWC, {'RGB' if network.image_shape[2] == 3 else 'grey'}",
        },
        "preprocessing": dataclasses.asdict(network.preprocessing),
        "temperature": network.temperature,
        "unfamiliar": None if measured.thresholds is None else dataclasses.asdict(measured.thresholds),
        "accuracy": dataclasses.asdict(measured.accuracy),
        "baseline": make_baseline(
            measured.reference.images, measured.reference.logits, network.temperature
        ).to_json(),
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
    for name in ("tensorflow", "keras", "numpy", *distributions()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def format_model_card(manifest: Mapping[str, Any]) -> str:
    """The card of a manifest, as Markdown."""
    run, data, accuracy = manifest["run"], manifest["data"], manifest["accuracy"]
    compared, temperature = manifest["artefacts"][0]["proof"]["images"], manifest["temperature"]
    classes = ", ".join(f"{i} {name}" for i, name in enumerate(manifest["classes"]))
    count, (_, height, width, channels) = len(manifest["classes"]), manifest["input"]["shape"]
    colours = "colour" if channels == 3 else "grey"
    return f"""# {run["name"]}

A classifier of {height}×{width} {colours} images into {count} classes, trained on {data["title"]}
by cifar-trainer {manifest["versions"]["cifar-trainer"]}.

## Figures

{_accuracy_sentence(accuracy)}

{_artefact_table(manifest["artefacts"])}

Each artefact was loaded in a clean process by its own runtime and compared with the Keras
model, image by image, at batch sizes {" and ".join(map(str, BATCH_SIZES))}, on {compared:,} images.

## Input and output

- Input `images`: uint8 `[N, {height}, {width}, {channels}]`, \
{"RGB" if channels == 3 else "grey"}, 0 to 255, as decoded. Scaling is inside; do not scale.
- Outputs: `logits` and `probabilities`, float32 `[N, {count}]`; `class_id`, int64 `[N]`; the SavedModel also
  gives `class_name` and takes encoded PNG or JPEG by the signature `serving_bytes`.
- Classes, by `class_id`: {classes}.
- `probabilities` is softmax(`logits` / {temperature:.4g}){_temperature_note(temperature)}.

## How it was made

| | |
| --- | --- |
| recipe | {run["recipe"]}, {manifest["parameters"]:,} parameters |
| training | {run["epochs"]} epochs, batch {run["batch_size"]}, learning rate {run["learning_rate"]:g}, \
seed {run["seed"]}, {run["precision"]}{_limit_note(run["limit"])} |
| weights, SHA-256 | `{run["weights_sha256"]}` |
| training split, fingerprint | `{data["train_fingerprint"]}` |
| test split, fingerprint | `{data["test_fingerprint"]}` |
| versions | {", ".join(f"{name} {version}" for name, version in manifest["versions"].items())} |

## Limits

{_limits(manifest)}
"""


def _accuracy_sentence(accuracy: Mapping[str, Any]) -> str:
    where = (
        "of the test split, which training watched after each epoch and never used to choose anything"
        if accuracy["split"] == "test"
        else "that were set aside from the training split; the test split was not used"
    )
    return (
        f"Accuracy {accuracy['value']:.2%} (95 % interval {accuracy['low']:.2%} to {accuracy['high']:.2%}) "
        f"on {accuracy['images']:,} images {where}."
    )


def _artefact_table(artefacts: list[Mapping[str, Any]]) -> str:
    rows = [
        "| artefact | bytes | largest difference of a logit | same top class | accuracy there | SHA-256 |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for entry in artefacts:
        rows.append(
            f"| `{entry['path']}` | {entry['bytes']:,} | {entry['max_abs_difference']:.2g} "
            f"| {entry['agreement']:.2%} | {entry['proof']['accuracy']:.2%} | `{entry['sha256']}` |"
        )
    return "\n".join(rows)


def _temperature_note(temperature: float) -> str:
    return "; nothing was calibrated" if temperature == 1 else ", calibrated on images that were set aside"


def _limit_note(limit: int | None) -> str:
    return "" if limit is None else f", the first {limit:,} training images only"


def _limits(manifest: Mapping[str, Any]) -> str:
    data, accuracy = manifest["data"], manifest["accuracy"]
    _, height, width, _ = manifest["input"]["shape"]
    limits = [
        f"- It is wrong about {1 - accuracy['value']:.0%} of images like those that it was measured on, "
        "and may be more often about others.",
        f"- It always answers with one of its {len(manifest['classes'])} classes, whatever the image shows, "
        "and a high probability is no sign that the image shows any of them.",
        f"- Images are reduced to {height}×{width}; what is small in them is lost.",
        "- Not for decisions about people, nor where a wrong answer does harm.",
    ]
    spec = DATASETS.get(data["name"])
    if spec is not None and spec.limits and (data["verified"] or spec.draw is not None):
        limits.insert(0, f"- {spec.limits}")
    elif not data["verified"]:
        limits.insert(
            0, "- The training data are not those of a published data set; what they show is not known."
        )
    return "\n".join(limits)
