"""Chooses the model for `predict` and `serve`: a given artefact, or the fastest one of a run."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer.artefacts.formats import Artefact, Format, open_artefact, recognize, served_formats
from cifar_trainer.artefacts.manifest import Manifest, read_manifest
from cifar_trainer.conformal import ClassSets, parse_coverage
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
        coverage: the value of `--coverage`; None without it.
    """

    path: Path
    run: Run | None
    manifest: Manifest | None
    coverage: float | str | None = None

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

    def read_sets(self) -> ClassSets | None:
        """The class sets of the coverage; None without one.

        Raises:
            UsageError: the coverage is invalid, or needs more held-out images.
            RunError: the report of `evaluate` cannot be read.
        """
        if self.coverage is None:
            return None
        percent = parse_coverage(self.coverage)
        known = None if self.manifest is None else self.manifest.coverage
        if self.run is not None:
            known = self.run.read_coverage(self.run.read_result().weights_sha256)
        if known is None or str(percent) not in known.thresholds:
            raise UsageError(
                f"--coverage {percent}% needs at least {-(-percent // (100 - percent))} held-out images; "
                f"{self.path} has thresholds from {0 if known is None else known.images}. Train a run with "
                "--validation holdout on enough images, and evaluate it before you export it."
            )
        return known.at(percent)


def find_source(
    run: str | Path | None = None, model: str | Path | None = None, coverage: float | str | None = None
) -> Source:
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
            return Source(path, owner, None, coverage)
        return Source(path, None, read_manifest(path.parent), coverage)
    opened = open_run(run, with_model=True)
    manifest = read_manifest(opened.export)
    if manifest is not None and _is_current(manifest, opened):
        for form in served_formats():
            path = opened.export / form.file_name
            if manifest.find(path.name) is not None and path.exists() and all(map(find_spec, form.runtime)):
                return Source(path, opened, manifest, coverage)
    return Source(opened.model, opened, None, coverage)


def _is_current(manifest: Manifest, run: Run) -> bool:
    weights = run.read_result().weights_sha256
    return manifest.run.weights_sha256 == weights and manifest.temperature == run.read_temperature(weights)
