"""Which model `predict` and `serve` use."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_card import MANIFEST, PROOF

from cifar_trainer import files
from cifar_trainer.artefacts import source
from cifar_trainer.artefacts.formats import FORMATS, served_formats
from cifar_trainer.artefacts.manifest import Export, Manifest
from cifar_trainer.artefacts.source import find_source
from cifar_trainer.conformal import Coverage
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.metrics import Thresholds
from cifar_trainer.run import Run

COVERAGE = Coverage(10, False, {"90": (0.4,)})
NAMES = ("saved_model", "keras", "litert", "onnx")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Run:
    """A copy of a run, without what others may have exported from it."""
    ignored = shutil.ignore_patterns("export", "checkpoints", "tensorboard")
    return Run(Path(shutil.copytree(trained_run, tmp_path / "run", ignore=ignored)))


def export(run: Run, **changes: Any) -> Manifest:
    """A manifest that lists an artefact of each format, and files in their places."""
    entries = tuple(Export(n, FORMATS[n].file_name, 1, "", 0.0, 1.0, PROOF, {}) for n in NAMES)
    training = dataclasses.replace(MANIFEST.run, weights_sha256=run.read_result().weights_sha256)
    manifest = dataclasses.replace(MANIFEST, run=training, artefacts=entries, **changes)
    files.write_json(run.export / "manifest.json", dataclasses.asdict(manifest))
    for entry in entries:
        (run.export / entry.path).touch()
    return manifest


def test_the_fastest_artefact_of_a_run_is_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_spec", lambda package: object())
    manifest = export(run)
    assert find_source(run.path).path == run.export / served_formats()[0].file_name
    assert find_source(run.path).manifest == manifest


def test_an_artefact_whose_runtime_is_not_installed_is_passed_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "find_spec", lambda package: None)
    export(run)
    assert find_source(run.path).path == run.export / "saved_model"


def test_an_export_of_other_weights_or_of_another_temperature_is_passed_over(run: Run) -> None:
    for changes in ({"temperature": 1.5}, {"run": MANIFEST.run}):
        export(run)
        manifest = json.loads((run.export / "manifest.json").read_text())
        manifest.update({name: dataclasses.asdict(v) if name == "run" else v for name, v in changes.items()})
        (run.export / "manifest.json").write_text(json.dumps(manifest))
        assert find_source(run.path).path == run.model


def test_a_run_that_was_not_exported_uses_its_own_model(run: Run) -> None:
    assert find_source(run.path).path == run.model


def test_a_runs_model_by_its_path_is_that_runs(run: Run) -> None:
    assert find_source(model=run.model) == find_source(run.path)


def test_a_damaged_manifest_is_named(run: Run) -> None:
    export(run)
    (run.export / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match=r"manifest\.json is damaged.*export --force"):
        find_source(run.path)


def test_a_manifest_from_before_the_preprocessing_was_recorded_is_read(run: Run) -> None:
    export(run)
    manifest = json.loads((run.export / "manifest.json").read_text())
    del manifest["preprocessing"]
    (run.export / "manifest.json").write_text(json.dumps(manifest))
    found = find_source(run.path).manifest
    assert found is not None
    assert found.preprocessing is None


def test_a_runs_thresholds_are_those_that_evaluate_has_fitted_for_its_weights(run: Run) -> None:
    export(run, unfamiliar={"energy": 1.0, "probability": 0.5})
    assert find_source(run.path).read_thresholds() is None
    report = {
        "weights_sha256": run.read_result().weights_sha256,
        "unfamiliar": {"thresholds": {"energy": -3.0, "probability": 0.4}, "usable": True},
    }
    files.write_json(run.evaluation("test") / "report.json", report)
    assert find_source(run.path).read_thresholds() == Thresholds(-3.0, 0.4)


def test_a_runs_sets_are_those_that_evaluate_has_fitted_for_its_weights(run: Run) -> None:
    with pytest.raises(
        UsageError,
        match=r"90% needs at least 9 held-out images; .* has thresholds from 0\..*--validation holdout",
    ):
        find_source(run.path, coverage="90%").read_sets()
    report = {"weights_sha256": run.read_result().weights_sha256, "coverage": dataclasses.asdict(COVERAGE)}
    files.write_json(run.evaluation("validation") / "report.json", report)
    assert find_source(run.path, coverage="90%").read_sets().thresholds.tolist() == [0.4]
    with pytest.raises(UsageError, match=r"91% needs at least 11 held-out images; .* has thresholds from 10"):
        find_source(run.path, coverage=0.91).read_sets()


def test_an_artefacts_sets_are_its_manifests(run: Run, tmp_path: Path) -> None:
    export(run, coverage=COVERAGE)
    path = run.export / "model.onnx"
    assert find_source(model=path, coverage="90%").read_sets().thresholds.tolist() == [0.4]
    alone = Path(shutil.copy(path, tmp_path / "alone.onnx"))
    with pytest.raises(UsageError, match=r"alone\.onnx has thresholds from 0"):
        find_source(model=alone, coverage="90%").read_sets()


def test_an_artefacts_thresholds_are_its_manifests(run: Run, tmp_path: Path) -> None:
    export(run, unfamiliar={"energy": 1.0, "probability": 0.5})
    path = run.export / "model.onnx"
    assert find_source(model=path).read_thresholds() == Thresholds(1.0, 0.5)
    alone = Path(shutil.copy(path, tmp_path / "alone.onnx"))
    assert find_source(model=alone).read_thresholds() is None
