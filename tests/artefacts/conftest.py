"""A run that is measured once, so that each test of `export` does not have to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifar_trainer.artefacts import export
from cifar_trainer.artefacts.export import MeasuredModel, measure_model
from cifar_trainer.artefacts.formats import Format
from cifar_trainer.artefacts.gate import KINDS, Proof, Reference
from cifar_trainer.data.store import load_dataset
from cifar_trainer.run import Run


@pytest.fixture(scope="session")
def measured(learned_run: Path, data_dir: Path) -> MeasuredModel:
    """`learned_run`, with 1,000 images for the gate and two files of each kind."""
    run = Run(learned_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "IMAGES", 1000)
        patch.setattr(export, "FILES", 2 * len(KINDS))
        patch.setattr(Run, "record_look", lambda *arguments: None)
        return measure_model(run, run.read_config(), load_dataset(data_dir, "synthetic"))


@pytest.fixture
def gated_export(
    measured: MeasuredModel, learned_run: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., export.ExportReport]:
    """`export` of `learned_run`, as it was measured once."""
    monkeypatch.setattr(export, "measure_model", lambda *arguments: measured)

    def run_export(output: Path, *formats: str, **options: Any) -> export.ExportReport:
        return export.export(
            learned_run, format=formats or ("keras",), output=output, data_dir=data_dir, **options
        )

    return run_export


@pytest.fixture
def quick_export(
    gated_export: Callable[..., export.ExportReport], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., export.ExportReport]:
    """The same with a gate that lets everything through."""

    def let_through(path: Path, form: Format, reference: Reference, encoded: Reference) -> Proof:
        return Proof(len(reference.labels), 0.0, 1.0, 0.5, 0.5)

    monkeypatch.setattr(export, "prove", let_through)
    return gated_export
