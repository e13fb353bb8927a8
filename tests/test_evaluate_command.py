"""`evaluate` repeats training's figures in another process, and refuses what it cannot do."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    _, report = evaluated
    assert list(report) == [
        "run_dir", "split", "images", "loss", "accuracy", "macro", "per_class", "confusion_matrix",
    ]  # fmt: skip
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


def test_the_folder_holds_the_page_the_numbers_and_the_figures(evaluated) -> None:
    run, report = evaluated
    folder = run / "evaluation" / "test"
    figures = {
        "confusion_matrix", "per_class", "reliability", "precision_recall", "mistakes", "grad_cam",
        "learning_curves", "unfamiliar",
    }  # fmt: skip
    tables = {"report.json", "report.html", "logits.npy", "predictions.csv"}
    names = {f"{name}.png" for name in figures} | tables
    assert {path.name for path in folder.iterdir()} == names
    for name in figures:
        with Image.open(folder / f"{name}.png") as figure:
            assert min(figure.size) > 300
            assert len(figure.convert("RGB").resize((64, 64)).getcolors(4096)) > 20
    whole = json.loads((folder / "report.json").read_text())
    assert {key: whole[key] for key in report if key != "per_class"} == {
        key: value for key, value in report.items() if key != "per_class"
    }
    logits = np.load(folder / "logits.npy")
    assert (logits.shape, logits.dtype) == ((report["images"], 10), np.float32)


def test_the_page_needs_nothing_else_and_says_what_it_is_about(evaluated) -> None:
    """No address outside of it; data set, recipe, command, versions, and what chose the model."""
    run, report = evaluated
    page = (run / "evaluation" / "test" / "report.html").read_text()
    shown = re.findall(r'(?:src|srcset)="([^"]{0,30})', page)
    assert len([address for address in shown if address.startswith("data:image/png;base64,")]) == 2 * 8
    assert all(address.startswith("data:") for address in shown)
    linked = [address for address in re.findall(r'href="([^"]*)"', page) if address != "data:,"]
    assert all((run / "evaluation" / "test" / address).exists() for address in linked)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    result = json.loads((run / "result.json").read_text())
    for expected in (
        f"{report['accuracy'] * 100:.2f} %", "not CIFAR-10", "document, 122,570 parameters", "seed 0",
        "cifar-trainer train --dataset synthetic", "tensorflow 2.", "keras 3.", result["weights_sha256"],
        "The test set was evaluated after each epoch", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert expected in page, expected


def test_the_page_has_a_section_for_each_question(evaluated) -> None:
    page = (evaluated[0] / "evaluation" / "test" / "report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Accuracy", "Errors", "Calibration", "Unfamiliar images", "Robustness", "Provenance",
    ]  # fmt: skip


def test_robustness_is_kept_by_a_later_evaluation_of_the_same_weights(
    run_cli: RunCli, evaluated, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    done = run_cli(["evaluate", run, "--data-dir", data_dir, "--robustness", "--robustness-images", "40"])
    assert done.returncode == 0, done.stderr
    assert "jpeg compression" in done.stdout
    assert (run / "evaluation" / "test" / "robustness.png").is_file()
    measured = json.loads((run / "evaluation" / "test" / "report.json").read_text())["robustness"]
    assert (measured["images"], len(measured["corruptions"]), len(measured["attacks"])) == (40, 15, 2)
    again = run_cli(["evaluate", run, "--data-dir", data_dir])
    assert again.returncode == 0, again.stderr
    assert json.loads((run / "evaluation" / "test" / "report.json").read_text())["robustness"] == measured
    assert "Hendrycks" in (run / "evaluation" / "test" / "report.html").read_text()


def test_a_run_of_a_gpu_is_evaluated_without_one_and_a_damaged_report_replaced(
    run_cli: RunCli, evaluated, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "device": "gpu"}))
    (run / "evaluation" / "test" / "report.json").write_text("{")
    done = run_cli(["evaluate", run, "--data-dir", data_dir, "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == evaluated[1]["accuracy"]
    assert json.loads((run / "evaluation" / "test" / "report.json").read_text())["images"] == 2000


def test_a_model_and_a_result_of_different_weights_are_refused(
    run_cli: RunCli, trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As a kill between the two writes leaves them."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    done = run_cli(["evaluate", run, "--data-dir", data_dir])
    assert done.returncode == 1
    assert "is not the one that its result.json describes" in done.stderr
    assert f"train --resume {run}" in done.stderr


def test_the_report_on_synthetic_images_says_that_they_are_not_cifar10(evaluated) -> None:
    report = json.loads((evaluated[0] / "evaluation" / "test" / "report.json").read_text())
    assert "not CIFAR-10" in report["data"]


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
