"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(command: list[object], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    # The scripts call `cifar-trainer`, which lies beside the interpreter that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env={**os.environ, "PATH": path, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_listing_trains_and_prints_its_accuracy(data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "listing.py", "--data-dir", data_dir, "--dataset", "synthetic"]
    done = run([*command, "--epochs", 1, "--limit", 320], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test accuracy: 0\.\d{4}$", done.stdout, re.MULTILINE)


def test_the_command_line_example_ends_with_an_exported_model(data_dir: Path, tmp_path: Path) -> None:
    env = {"CIFAR_TRAINER_DATA": str(data_dir), "DATASET": "synthetic"}
    done = run(["bash", EXAMPLES / "command_line.sh", "--epochs", 1, "--limit", 320], tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/command-line/export/saved_model/saved_model.pb").is_file()
    assert (tmp_path / "runs/command-line/evaluation/test/confusion_matrix.png").is_file()


def test_the_demo_says_that_it_goes_on_with_synthetic_pictures(data_dir: Path, tmp_path: Path) -> None:
    """No mirror answers, so CIFAR-10 cannot be had; the model that comes out is whole all the same."""
    env = {
        "CIFAR_TRAINER_DATA": str(data_dir),
        "CIFAR_TRAINER_MIRRORS": "http://127.0.0.1:9/cifar-10-python.tar.gz",
        "DEMO_EPOCHS": "1",
    }
    done = run(["bash", EXAMPLES / "demo.sh"], tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "goes on with the built-in SYNTHETIC set" in done.stdout
    assert "Trained on: synthetic" in done.stdout
    assert list(tmp_path.glob("demo/*/export/saved_model/saved_model.pb"))


def test_the_notebook_runs_from_top_to_bottom(data_dir: Path, tmp_path: Path) -> None:
    done = run([sys.executable, EXAMPLES / "notebook.py"], tmp_path, CIFAR_TRAINER_DATA=str(data_dir))
    assert done.returncode == 0, done.stderr
    assert "agreement with Keras 100.00%" in done.stdout
    assert (tmp_path / "runs/notebook-seed-0/export/saved_model/saved_model.pb").is_file()
