"""Which model `predict` and `serve` use: the artefact that was named, or the fastest one of a run."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer.artefacts.formats import Artefact, Format, open_artefact, recognize, served_formats
from cifar_trainer.artefacts.manifest import Manifest, read_manifest
from cifar_trainer.run import Run, open_run

if TYPE_CHECKING:
    from cifar_trainer.metrics import Thresholds


@dataclasses.dataclass(frozen=True)
class Source:
    """An artefact, and what is known about it.

    Attributes:
        path: the artefact, or a run's `model.keras`.
        run: the run that it belongs to; None if only its path is known.
        manifest: of the export that it is part of; None if there is none.
    """

    path: Path
    run: Run | None
    manifest: Manifest | None

    @property
    def format(self) -> Format:
        """Its format, by its content."""
        return recognize(self.path)

    @property
    def dataset(self) -> str:
        """The name of the data set that it was trained on; `cifar10` if nothing says so."""
        if self.manifest is not None:
            return self.manifest.data.name
        return "cifar10" if self.run is None else self.run.read_data().name

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of its weights as trained; None if neither a manifest nor a run says so."""
        if self.manifest is not None:
            return self.manifest.run.weights_sha256
        return None if self.run is None else self.run.read_result().weights_sha256

    def open(self) -> Artefact:
        """Open it. TensorFlow must have been started if its format needs it."""
        return open_artefact(self.path)

    def read_thresholds(self) -> "Thresholds | None":
        """Beyond which an image is unfamiliar to it; None if that is not known.

        Raises:
            RunError: a report of `evaluate` cannot be read.
        """
        if self.run is not None:
            return self.run.read_thresholds(self.run.read_result().weights_sha256)
        return None if self.manifest is None else self.manifest.thresholds()


def find_source(run: str | Path | None = None, model: str | Path | None = None) -> Source:
    """Choose the model: `model`, or the fastest artefact that a run has exported, or the run's own model.

    Skip an export if the run has been trained or calibrated since.

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
