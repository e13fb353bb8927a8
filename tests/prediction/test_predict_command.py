"""`predict` as its users run it: what it reads, what it refuses, what it prints."""

import csv
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import environment, python, run_here
from PIL import Image

from cifar_trainer.artefacts.formats import open_artefact
from cifar_trainer.artefacts.source import Source
from cifar_trainer.errors import UsageError
from cifar_trainer.evaluation.report import COLUMNS
from cifar_trainer.images import encode_png
from cifar_trainer.prediction import predict

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def onnx(artefacts: dict[str, Path]) -> Path:
    """The artefact that starts fastest."""
    if "onnx" not in artefacts:
        pytest.skip("onnxruntime is not installed")
    return artefacts["onnx"]


@pytest.fixture(scope="module")
def images(data_dir: Path) -> np.ndarray:
    return np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[:100]


@pytest.fixture
def folder(images: np.ndarray, tmp_path: Path) -> Path:
    """Two pictures, one of them below, and a file that is none."""
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    Image.fromarray(images[0]).save(tmp_path / "in" / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "in" / "deeper" / "b.PNG")
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    return tmp_path / "in"


def test_the_json_is_one_object_with_the_likeliest_classes_first(
    run_cli: RunCli, onnx: Path, folder: Path
) -> None:
    done = run_cli(["predict", folder, "--model", onnx, "--top", 4, "--json"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told) == ["model", "format", "predictions", "errors", "passed_over"]
    assert (told["format"], told["errors"]) == ("onnx", [])
    assert [Path(each["image"]).name for each in told["predictions"]] == ["a.png", "b.PNG"]
    for each in told["predictions"]:
        assert set(each) == {"image", "format", "mode", "width", "height", "top", "unfamiliar", "margin"}
        shares = [guess["probability"] for guess in each["top"]]
        assert len(shares) == 4
        assert shares == sorted(shares, reverse=True)


def test_the_csv_has_one_row_per_image_and_the_columns_of_predictions_csv(
    run_cli: RunCli, onnx: Path, folder: Path
) -> None:
    printed, done = (run_cli(["predict", folder, "--model", onnx, how]) for how in ("--json", "--csv"))
    answers = json.loads(printed.stdout)["predictions"]
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["file"] for row in rows] == [answer["image"] for answer in answers]
    assert {"file", "predicted", "probability", "margin", "unfamiliar"} == set(rows[0]) <= set(COLUMNS)
    for row, answer in zip(rows, answers, strict=True):
        first, second = answer["top"][:2]
        assert row["predicted"] == first["class"]
        assert float(row["margin"]) == pytest.approx(first["probability"] - second["probability"], abs=1e-5)


def test_csv_and_json_are_not_printed_at_once(tmp_path: Path) -> None:
    refused = run_here(["predict", tmp_path, "--csv", "--json"])
    assert refused.exit_code == 2
    assert "--csv and --json were both given" in refused.stderr


def test_one_picture_that_cannot_be_read_is_named_and_the_others_are_done(
    run_cli: RunCli, onnx: Path, folder: Path
) -> None:
    good = folder / "a.png"
    (folder / "cut.png").write_bytes(good.read_bytes()[:200])
    (folder / "empty.jpg").touch()
    Image.open(good).save(folder / "really.gif", "JPEG")
    named = [folder / name for name in ("cut.png", "empty.jpg", "nowhere.png")]
    done = run_cli(["predict", good, *named, folder / "really.gif", "--model", onnx])
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(good), str(folder / "really.gif")]
    assert "a JPEG file, despite its name" in lines[1]
    assert "3 of 5 images could not be read; the others are classified" in done.stderr
    for path, reason in zip(named, ("PNG", "it is empty", "No such file"), strict=True):
        assert any(str(path) in line and reason in line for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


def test_standard_input_a_fifo_and_an_empty_folder(run_cli: RunCli, onnx: Path, folder: Path) -> None:
    content = (folder / "a.png").read_bytes()
    piped = subprocess.run(
        [python(), "-m", "cifar_trainer", "predict", "-", "--model", str(onnx), "--json"],
        input=content, capture_output=True, check=False,
    )  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    told = json.loads(piped.stdout)["predictions"]
    fifo = folder / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(content), daemon=True)
    writer.start()
    through = run_cli(["predict", fifo, "--model", onnx, "--json"])
    assert through.returncode == 0, through.stderr
    assert json.loads(through.stdout)["predictions"][0]["top"] == told[0]["top"]
    (folder / "bare").mkdir()
    none = run_cli(["predict", folder / "bare", "--model", onnx])
    assert none.returncode == 1
    assert "a folder without images" in none.stderr


def test_every_artefact_gives_the_same_class_for_100_test_images(
    run_cli: RunCli, artefacts: dict[str, Path], learned_run: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """Through the command line, each in its own process; int8 but where the run itself is undecided."""
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    answers = {}
    for name, path in {"run": learned_run, **artefacts}.items():
        where = ["--run", path] if name == "run" else ["--model", path]
        done = run_cli(["predict", tmp_path, *where, "--top", 2, "--json"])
        assert done.returncode == 0, done.stderr
        answers[name] = [each["top"] for each in json.loads(done.stdout)["predictions"]]
        assert len(answers[name]) == 100
    assert len({first["class"] for first, _ in answers["run"]}) > 5
    undecided = [first["probability"] - second["probability"] < 0.05 for first, second in answers["run"]]
    assert sum(undecided) < 20
    for name, said in answers.items():
        same = [a["class"] == b["class"] for (a, _), (b, _) in zip(said, answers["run"], strict=True)]
        assert all(ok or (name == "litert-int8" and u) for ok, u in zip(same, undecided, strict=True)), name


def test_saved_model_cli_shows_a_saved_model_and_runs_it_on_files(
    artefacts: dict[str, Path], images: np.ndarray, tmp_path: Path
) -> None:
    """As users look at a SavedModel: TensorFlow's own tool."""

    def use(*arguments: object) -> str:
        tool = [python(), "-m", "tensorflow.python.tools.saved_model_cli", *map(str, arguments)]
        done = subprocess.run(tool, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = ["--dir", artefacts["saved_model"], "--tag_set", "serve", "--signature_def"]
    shown = use("show", *where, "serving_default")
    assert "inputs['images'] tensor_info: dtype: DT_UINT8 shape: (-1, 32, 32, 3)" in " ".join(shown.split())
    for name in ("probabilities", "class_id", "class_name", "logits"):
        assert f"outputs['{name}']" in shown
    np.save(tmp_path / "files.npy", np.array([encode_png(image) for image in images[:3]], object))
    inputs = f"image_bytes={tmp_path}/files.npy"
    use("run", *where, "serving_bytes", "--inputs", inputs, "--outdir", tmp_path)
    expected = open_artefact(artefacts["saved_model"]).predict(images[:3])
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected.logits, rtol=0, atol=1e-5)


def test_a_picture_from_a_folder_of_any_name(
    run_cli: RunCli, onnx: Path, folder: Path, tmp_path: Path
) -> None:
    """A path that is not UTF-8, and a locale that is not."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copyfile(folder / "a.png", odd)
    done = subprocess.run(
        [python().encode(), b"-m", b"cifar_trainer", b"predict", odd, b"--model", os.fsencode(onnx)],
        capture_output=True, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_name_does_not_steer_the_terminal(run_cli: RunCli, onnx: Path, folder: Path) -> None:
    odd = folder / "\x1b[31m.png"
    shutil.copyfile(folder / "a.png", odd)
    done = run_cli(["predict", odd, odd.with_suffix(".gif"), "--model", onnx])
    assert done.returncode == 1
    assert r"\x1b[31m.png: " in done.stdout
    assert r"\x1b[31m.gif: it cannot be read" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_newest_run_is_named_on_stderr(run_cli: RunCli, learned_run: Path, folder: Path) -> None:
    project = learned_run.parent / "project"
    (project / "runs").mkdir(parents=True)
    (project / "runs" / "this-one").symlink_to(learned_run)
    done = run_cli(["predict", folder / "a.png"], cwd=project)
    assert "model: runs/this-one/model.keras (the newest run)" in done.stderr


def test_a_run_before_the_images_is_the_one_that_answers(
    run_cli: RunCli, learned_run: Path, folder: Path
) -> None:
    done = run_cli(["predict", learned_run, folder / "a.png"])
    assert done.stderr == f"model: {learned_run}/model.keras\n"
    assert done.stdout.startswith(f"{folder}/a.png: ")


def test_a_runs_folder_among_the_images_is_refused(learned_run: Path, folder: Path) -> None:
    message = f"{learned_run} is a run's folder.*--run {learned_run}"
    with pytest.raises(UsageError, match=message):
        predict([learned_run, folder / "a.png"], run=learned_run)


def test_more_classes_than_a_run_has_are_refused_before_its_model_is_opened(
    learned_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "open", lambda source: pytest.fail("it was opened"))
    with pytest.raises(UsageError, match=r"--top 11 is out of range. The model has 10 classes"):
        predict(folder / "a.png", run=learned_run, top=11)
