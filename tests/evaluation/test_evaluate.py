"""`evaluate` repeats training's numbers, writes one folder as a whole, and refuses what it cannot do."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cifar_trainer
from cifar_trainer import pages
from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import CifarTrainerError, DataError, RunError, UsageError
from cifar_trainer.evaluation import robustness
from cifar_trainer.evaluation.report import COLUMNS, predictions
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Unfamiliar
from cifar_trainer.files import format_csv, write_json
from cifar_trainer.metrics import fit_thresholds
from cifar_trainer.pages import PageFigure
from cifar_trainer.run import Run

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def evaluated(evaluated_run: Path) -> tuple[Path, dict[str, Any]]:
    """A run with its report, and what the command printed."""
    return evaluated_run, json.loads((evaluated_run.parent / "stdout.json").read_text())


@pytest.fixture
def evaluate(
    evaluated, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Evaluates the run in `tmp_path / "run"`, a copy, in this process and without drawing: report.json."""
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    monkeypatch.setattr(
        pages, "draw_figures", lambda drawings, progress: dict.fromkeys(drawings, PageFigure(b"", b""))
    )
    monkeypatch.setattr(robustness, "SEVERITIES", (5,))
    monkeypatch.setattr(robustness, "EPSILONS", (8,))

    def evaluate(**options: Any) -> dict[str, Any]:
        cifar_trainer.evaluate(run, data_dir=data_dir, **options)
        report: dict[str, Any] = json.loads((run / "evaluation" / "test" / "report.json").read_text())
        return report

    return evaluate


def test_the_numbers_are_those_that_training_reported(evaluated) -> None:
    """To the last bit: the same images in the same batches through the same model."""
    run, report = evaluated
    result = json.loads((run / "result.json").read_text())
    assert report["accuracy"] == result["validation"]["accuracy"]
    assert report["loss"] == result["validation"]["loss"]


def test_the_json_has_the_contracts_keys_and_agrees_with_its_own_matrix(evaluated) -> None:
    _, report = evaluated
    assert list(report) == [
        "run_dir", "split", "images", "loss", "accuracy", "without_near_duplicates", "macro",
        "per_class", "confusion_matrix",
    ]  # fmt: skip
    matrix = np.array(report["confusion_matrix"])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == report["images"]
    assert matrix.trace() / matrix.sum() == pytest.approx(report["accuracy"])
    for index, row in enumerate(report["per_class"]):
        assert set(row) == {"class", "precision", "recall", "f1", "support"}
        assert row["recall"] == pytest.approx(matrix[index, index] / matrix[index].sum())
        predicted = matrix[:, index].sum()
        assert row["precision"] == pytest.approx(matrix[index, index] / predicted if predicted else 0)
    assert report["macro"]["f1"] == pytest.approx(np.mean([row["f1"] for row in report["per_class"]]))


def test_the_folder_has_the_page_the_numbers_the_predictions_and_the_figures(evaluated) -> None:
    run, report = evaluated
    folder = run / "evaluation" / "test"
    figures = {
        "confusion_matrix", "per_class", "reliability", "precision_recall", "mistakes", "grad_cam",
        "learning_curves", "unfamiliar",
    }  # fmt: skip
    tables = {"report.json", "report.html", "logits.npy", "predictions.csv"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in figures} | tables
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
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert len(rows) == report["images"]
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == report["accuracy"]
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(report["loss"], rel=1e-5)


def test_the_page_needs_nothing_else_and_says_what_it_is_about(evaluated) -> None:
    """No address outside of the run; data set, recipe, command, versions, and what chose the model."""
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
        f"{report['accuracy'] * 100:.2f} %", "not CIFAR-10", "tutorial, 122,570 parameters", "seed 0",
        "cifar-trainer train --dataset synthetic", "tensorflow 2.", "keras 3.", result["weights_sha256"],
        "The test set was evaluated after each epoch", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert expected in page, expected
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Accuracy", "Errors", "Calibration", "Coverage", "Unfamiliar images", "Robustness", "Provenance",
    ]  # fmt: skip


def test_robustness_is_kept_by_a_later_evaluation_of_the_same_weights(
    evaluate: Callable[..., dict[str, Any]],
) -> None:
    measured = evaluate(robustness=True, robustness_images=10)["robustness"]
    assert (measured["images"], len(measured["corruptions"]), len(measured["attacks"])) == (10, 15, 2)
    assert evaluate()["robustness"] == measured


def test_a_run_of_a_gpu_is_evaluated_without_one_and_a_damaged_report_replaced(
    evaluate: Callable[..., dict[str, Any]], evaluated, tmp_path: Path
) -> None:
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "device": "gpu"}))
    (tmp_path / "run" / "evaluation" / "test" / "report.json").write_text("{")
    assert evaluate()["accuracy"] == evaluated[1]["accuracy"]


def test_a_model_and_a_result_of_different_weights_are_refused(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """As a kill between the two writes leaves them."""
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    with pytest.raises(RunError, match=r"does not match its result\.json.*train --resume"):
        evaluate()


def test_images_to_compare_with_are_read_before_anything_that_takes_long(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before the look at the test set: a mistake in --unfamiliar costs neither."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = Run(tmp_path / "run").read_looks()
    monkeypatch.setattr(robustness, "measure_robustness", None)
    with pytest.raises(DataError, match=r"half\.png cannot be used"):
        evaluate(robustness=True, unfamiliar=tmp_path / "other")
    assert Run(tmp_path / "run").read_looks() == before


@pytest.mark.parametrize("usable", [True, False])
def test_thresholds_that_cannot_tell_noise_are_not_used_by_predict_serve_and_export(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, usable: bool
) -> None:
    path = tmp_path / "run" / "evaluation" / "test" / "report.json"
    report = json.loads(path.read_text())
    report["unfamiliar"]["usable"] = usable
    path.write_text(json.dumps(report))
    thresholds = Run(tmp_path / "run").read_thresholds(report["weights_sha256"])
    assert (thresholds is not None) == usable


@pytest.mark.parametrize("unusable", ["validation", "test"])
def test_thresholds_that_the_report_on_either_split_found_unusable_are_not_used(
    tmp_path: Path, unusable: str
) -> None:
    run = Run(tmp_path)
    for split in ("validation", "test"):
        measured = {"thresholds": {"energy": -3.0, "probability": 0.4}, "usable": split != unusable}
        write_json(
            run.evaluation(split) / "report.json", {"weights_sha256": "a" * 64, "unfamiliar": measured}
        )
    assert run.read_thresholds("a" * 64) is None


@pytest.mark.parametrize(
    ("run", "options", "kind", "message"),
    [
        ("nowhere", {}, RunError, "does not exist"),
        (".", {}, RunError, "is not a run"),
        ("bare", {}, RunError, r"no model\.keras"),
        ("run", {"split": "tset"}, UsageError, "Did you mean 'test'?"),
        ("run", {"split": "validation"}, UsageError, "--validation holdout"),
        ("run", {"robustness_images": 0}, UsageError, "--robustness-images 0"),
        ("run", {"unfamiliar": "run/config.json"}, UsageError, "is not a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_and_the_report_stays(
    evaluated,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    options: Mapping[str, Any],
    kind: type[CifarTrainerError],
    message: str,
) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copy(evaluated[0] / "config.json", tmp_path / "bare")
    (tmp_path / "run").symlink_to(evaluated[0])
    report = evaluated[0] / "evaluation" / "test" / "report.json"
    before = report.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        cifar_trainer.evaluate(run, data_dir=data_dir, **options)
    assert report.read_bytes() == before


def test_an_impossible_required_accuracy_is_wrong_usage(run_cli: RunCli) -> None:
    done = run_cli(["evaluate", "--require-accuracy", "70"])
    assert (done.returncode, "from 0 to 1" in done.stderr) == (2, True)


@pytest.mark.parametrize("usable", [True, False])
def test_predictions_have_a_row_for_each_image_with_its_file_and_its_place_in_the_prepared_data(
    make_subject: Callable[..., Subject], small_logits: tuple[np.ndarray, np.ndarray], usable: bool
) -> None:
    logits, labels = small_logits
    subject = make_subject(logits, labels, classes=("a,b", "bee", "cow"))
    files = tuple(f"train/x/{i}.png" for i in range(100))
    whole = Split(np.zeros((100, 4, 4, 3), np.uint8), np.zeros(100, np.uint8), files=files)
    held_out = np.arange(40, 100)
    subject = dataclasses.replace(
        subject, split=dataclasses.replace(whole.take(held_out), labels=labels), split_name="validation"
    )
    thresholds = fit_thresholds(logits)
    unfamiliar = Unfamiliar(thresholds, usable, "validation", 60, 0.05, ())
    text = format_csv(COLUMNS, predictions(subject, unfamiliar))
    assert text.splitlines()[0] == "index,file,label,predicted,probability,margin,loss,unfamiliar"
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["index"]) for row in rows] == held_out.tolist()
    assert rows[0]["file"] == "train/x/40.png"
    powers = np.exp(logits.astype(float))
    shares = np.sort(powers / powers.sum(axis=1, keepdims=True), axis=1)
    for i, row in enumerate(rows):
        assert row["predicted"] == subject.classes[logits[i].argmax()]
        assert float(row["probability"]) == pytest.approx(shares[i, -1], rel=1e-5)
        assert float(row["margin"]) == pytest.approx(shares[i, -1] - shares[i, -2], rel=1e-4)
        loss = -np.log(powers[i, labels[i]] / powers[i].sum())
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-5)
        flag = str(bool(thresholds.is_unfamiliar(logits[i : i + 1])[0])).lower()
        assert row["unfamiliar"] == (flag if usable else "")
