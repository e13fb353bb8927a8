"""`evaluate` repeats training's figures in another process, and refuses what it cannot do."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def evaluated(run_cli: RunCli, trained_run: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    run = tmp_path_factory.mktemp("evaluate") / "run"
    shutil.copytree(trained_run, run)
    done = run_cli(["evaluate", run, "--data-dir", data_dir, "--json"])
    assert done.returncode == 0, done.stderr
    return run, json.loads(done.stdout)


def test_the_figures_are_those_that_training_reported(evaluated) -> None:
    """To the last bit: the same images in the same batches through the same model."""
    run, report = evaluated
    result = json.loads((run / "result.json").read_text())
    assert report["accuracy"] == result["validation"]["accuracy"]
    assert report["loss"] == result["validation"]["loss"]


def test_the_json_has_the_contracts_keys_and_agrees_with_its_own_matrix(evaluated) -> None:
    run, report = evaluated
    assert {"run_dir", "split", "images", "loss", "accuracy", "macro", "per_class"} < set(report)
    matrix = np.array(report["confusion_matrix"])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == report["images"]
    assert matrix.trace() / matrix.sum() == pytest.approx(report["accuracy"])
    for index, row in enumerate(report["per_class"]):
        assert set(row) == {"class", "precision", "recall", "f1", "support"}
        assert row["recall"] == pytest.approx(matrix[index, index] / matrix[index].sum())
        taken = matrix[:, index].sum()
        assert row["precision"] == pytest.approx(matrix[index, index] / taken if taken else 0)
    assert report["macro"]["f1"] == pytest.approx(np.mean([row["f1"] for row in report["per_class"]]))
    assert json.loads((run / "evaluation/test/report.json").read_text()) == report
    assert (run / "evaluation/test/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_trained_on_synthetic_pictures_says_so(evaluated) -> None:
    assert "not CIFAR-10" in evaluated[1]["data"]


def test_an_accuracy_below_the_required_one_exits_with_4_after_the_report(
    run_cli: RunCli, evaluated, data_dir: Path
) -> None:
    done = run_cli(["evaluate", evaluated[0], "--data-dir", data_dir, "--require-accuracy", "0.999"])
    assert done.returncode == 4
    assert "0.999" in done.stderr
    assert "accuracy" in done.stdout
    assert "Traceback" not in done.stderr


def test_what_cannot_be_evaluated_is_refused_and_the_report_stays(
    run_cli: RunCli, evaluated, data_dir: Path, tmp_path: Path
) -> None:
    """No such run, no run at all, a run without a model, a split that is not there (row 55)."""
    run, _ = evaluated
    before = (run / "evaluation/test/report.json").read_bytes()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((run / "config.json").read_bytes())
    data = ["--data-dir", data_dir]
    for arguments, code, expected in [
        ([tmp_path / "nowhere"], 1, "does not exist"),
        ([tmp_path], 1, "is not a run"),
        ([bare], 1, "no model.keras"),
        ([run, "--split", "tset"], 2, "Did you mean 'test'?"),
        ([run, "--split", "validation"], 2, "--validation holdout"),
        ([run, "--require-accuracy", "70"], 2, "from 0 to 1"),
    ]:
        done = run_cli(["evaluate", *arguments, *data], cwd=tmp_path)
        assert done.returncode == code, (arguments, done.stderr)
        assert expected in done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
    assert (run / "evaluation/test/report.json").read_bytes() == before
