"""Chooses the model for `predict` and `serve`: a given artefact, or the fastest one of a run."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer.artefacts.formats import Artefact, Format, open_artefact, recognize, served_formats
from cifar_trainer.artefacts.manifest import MANIFEST_FILE, Manifest, read_manifest
from cifar_trainer.conformal import ClassSets
from cifar_trainer.errors import UsageError
from cifar_trainer.run import Run, open_run

if TYPE_CHECKING:
    from cifar_trainer.metrics import Thresholds


@dataclasses.dataclass(frozen=True)
class Source:
    """An artefact, with its run and manifest.

    Attributes:
        path: the artefact, or a run's `model.keras`.
        run: the run that it belongs to; None if unknown.
        manifest: the manifest of its export; None if there is none.
    """

    path: Path
    run: Run | None
    manifest: Manifest | None

    @property
    def format(self) -> Format:
        """The format, recognized by content."""
        return recognize(self.path)

    @property
    def dataset(self) -> str:
        """Name of the training data set; `cifar10` if unknown."""
        if self.manifest is not None:
            return self.manifest.data.name
        return "cifar10" if self.run is None else self.run.read_data().name

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights as trained; None if unknown."""
        if self.manifest is not None:
            return self.manifest.run.weights_sha256
        return None if self.run is None else self.run.read_result().weights_sha256

    def open(self) -> Artefact:
        """Open the artefact. If its format needs TensorFlow, start that first (`devices.start`)."""
        return open_artefact(self.path)

    def read_thresholds(self) -> "Thresholds | None":
        """Thresholds for unfamiliar images; None if unknown.

        Raises:
            RunError: the report of `evaluate` cannot be read.
        """
        if self.run is not None:
            return self.run.read_thresholds(self.run.read_result().weights_sha256)
        return None if self.manifest is None else self.manifest.thresholds()

    def read_sets(self, percent: int) -> ClassSets:
        """The class sets of a coverage; UsageError if there are no thresholds for it.

        Raises:
            RunError: the report of `evaluate` cannot be read.
        """
        if self.run is None:
            coverage = None if self.manifest is None else self.manifest.coverage
            problem = (
                f"there is no {MANIFEST_FILE} with thresholds beside {self.path}. Evaluate a run that was "
            )
            problem += "trained with --validation holdout, and export it."
        elif self.run.read_config().validation != "holdout":
            coverage = None
            problem = f"{self.run.path} held out no training images. Train with --validation holdout."
        else:
            coverage = self.run.read_coverage(self.run.read_result().weights_sha256)
            problem = f"run this first: cifar-trainer evaluate {self.run.path} --split validation"
        if coverage is None:
            raise UsageError(f"--coverage {percent}%: {problem}")
        return coverage.at(percent)


def find_source(run: str | Path | None = None, model: str | Path | None = None) -> Source:
    """Choose `model`, or else the run's fastest exported artefact, or else the run's own model.

    Skips an export if the run has been trained or calibrated since.

    Raises:
        RunError: there is no such run or artefact.
    """
    if model is not None:
        path = Path(model)
        recognize(path)
        owner = Run(path.parent)
        if path.name == owner.model.name and owner.config.is_file():
            return Source(path, owner, None)
        return Source(path, None, read_manifest(path.parent))
    opened = open_run(run, with_model=True)
    manifest = read_manifest(opened.export)
    if manifest is not None and _is_current(manifest, opened):
        for form in served_formats():
            path = opened.export / form.file_name
            if manifest.find(path.name) is not None and path.exists() and all(map(find_spec, form.runtime)):
                return Source(path, opened, manifest)
    return Source(opened.model, opened, None)


def _is_current(manifest: Manifest, run: Run) -> bool:
    weights = run.read_result().weights_sha256
    return manifest.run.weights_sha256 == weights and manifest.temperature == run.read_temperature(weights)
