"""Exporting a run: write beside the place, prove, and only then put in place, all formats or none."""

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.errors import RunError
from cifar_trainer.export.formats import Format
from cifar_trainer.export.gate import Proof, Reference, prove
from cifar_trainer.export.network import Network
from cifar_trainer.export.preconditions import check_data
from cifar_trainer.prediction.keras_model import load_model, to_float32
from cifar_trainer.run import Run

#: Pictures of the test split on which each artefact is proved.
GATE_IMAGES = 1000


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


def export_run(
    run: Run,
    formats: Sequence[Format],
    output: Path,
    dataset: Dataset,
    *,
    replace: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export a run's model in each of `formats` into the folder `output`.

    The caller has called `preconditions.check_model` and `check_targets`.

    Raises:
        RunError: the model cannot be read.
        DataError: `dataset` is not the one of the run.
        CheckError: an artefact does not agree with the Keras model. Nothing is put in place.
    """
    check_data(run, dataset)
    network = load_network(run, dataset)
    reference = make_reference(network, dataset)
    proofs = {}
    # The artefacts get their names when the block ends without an exception.
    with contextlib.ExitStack() as stack:
        for form in formats:
            partial = stack.enter_context(_staged(form, output, replace))
            on_progress(f"writing {form.name}")
            importlib.import_module(f"cifar_trainer.export.{form.name}").write(network, partial)
            on_progress(f"proving {form.name} on {len(reference.labels):,} pictures")
            proofs[form.name] = prove(partial, form, reference)
    return [_describe(form, output / form.file_name, proofs[form.name]) for form in formats]


def load_network(run: Run, dataset: Dataset) -> Network:
    """The run's model in float32, with its class names and its temperature.

    Raises:
        RunError: the model, or the report with the temperature, cannot be read.
    """
    return Network(to_float32(load_model(run.model)), dataset.classes, read_temperature(run))


def read_temperature(run: Run) -> float:
    """The temperature that `evaluate --split validation` has calibrated, or 1.

    Raises:
        RunError: the report holds one that is no positive number.
    """
    report = run.evaluation("validation") / "report.json"
    if not report.is_file():
        return 1.0
    calibration = run.read_json(report).get("calibration")
    temperature = calibration.get("temperature") if isinstance(calibration, dict) else None
    if temperature is None:
        return 1.0
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise RunError(
            f"{report} holds the temperature {json.dumps(temperature)}; expected a number above 0."
        )
    return float(temperature)


def make_reference(network: Network, dataset: Dataset) -> Reference:
    """What the Keras model says about pictures spread evenly over the test split."""
    count = len(dataset.test)
    chosen = np.linspace(0, count - 1, min(count, GATE_IMAGES)).round().astype(int)
    images = np.ascontiguousarray(dataset.test.images[chosen])
    return Reference(
        images=images,
        labels=np.asarray(dataset.test.labels[chosen]),
        logits=predict_logits(network.model, images),
        classes=network.classes,
        temperature=network.temperature,
    )


def predict_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Logits float32 [N, 10] of uint8 [N, 32, 32, 3]."""
    return np.asarray(model.predict(images, batch_size=500, verbose=0))


@contextlib.contextmanager
def _staged(form: Format, output: Path, replace: bool) -> Iterator[Path]:
    target = output / form.file_name
    if form.is_folder:
        with files.atomic_folder(target, replace=replace) as partial:
            yield partial
    else:
        with files.atomic_path(target) as partial:
            yield partial


def _describe(form: Format, path: Path, proof: Proof) -> Export:
    digest = files.sha256_tree(path) if form.is_folder else files.sha256_file(path)
    return Export(form.name, str(path), files.size_of(path), digest, proof)
