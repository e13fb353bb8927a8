"""The examples run as they stand."""

import os
import re
import subprocess
from pathlib import Path

from command_line import COMMAND_WITH_A_SMALL_GATE, SMALL_GATE, environment, python, run_python

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_script(name: str, *arguments: object, programs: Path, cwd: Path, **env: str) -> str:
    """Run a shell script with the `cifar-trainer` of the folder `programs`; what it printed."""
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", EXAMPLES / name, *map(str, arguments)], cwd=cwd, env=environment({"PATH": path, **env}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_listing_trains_and_prints_its_accuracy(small_data: Path, tmp_path: Path) -> None:
    data = ["--data-dir", small_data, "--dataset", "synthetic"]
    done = run_python([EXAMPLES / "listing.py", *data, "--epochs", 1, "--limit", 320], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test accuracy: 0\.\d{4}$", done.stdout, re.MULTILINE)


def test_the_command_line_example_goes_from_prepare_to_export(tmp_path: Path) -> None:
    """The demo below runs the same commands; here a stand-in records them."""
    (tmp_path / "cifar-trainer").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "cifar-trainer").chmod(0o755)
    shown = run_script("command_line.sh", "--limit", 320, programs=tmp_path, cwd=tmp_path)
    assert shown.splitlines()[:4] == [
        "prepare --dataset cifar10",
        "train --dataset cifar10 --run-dir runs/command-line --limit 320",
        "evaluate runs/command-line",
        "export runs/command-line",
    ]


def test_the_demo_says_that_it_continues_with_synthetic_images(small_data: Path, tmp_path: Path) -> None:
    """No mirror answers, so CIFAR-10 is not available; the result is still a complete model."""
    env = {
        "CIFAR_TRAINER_DATA": str(small_data),
        "CIFAR_TRAINER_MIRRORS": "http://127.0.0.1:9/cifar-10-python.tar.gz",
        "DEMO_EPOCHS": "1",
    }
    program = tmp_path / "bin" / "cifar-trainer"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {python()} -c '{COMMAND_WITH_A_SMALL_GATE}' \"$@\"\n")
    program.chmod(0o755)
    shown = run_script("demo.sh", programs=program.parent, cwd=tmp_path, **env)
    assert "continues with the built-in SYNTHETIC data set" in shown
    assert "Trained on: synthetic" in shown
    assert list(tmp_path.glob("demo/*/export/saved_model/saved_model.pb"))


def test_the_notebook_runs_from_top_to_bottom(small_data: Path, tmp_path: Path) -> None:
    program = f"{SMALL_GATE}\nimport runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    env = {"CIFAR_TRAINER_DATA": str(small_data)}
    done = run_python(["-c", program, EXAMPLES / "notebook.py"], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "agreement with Keras 100.00%" in done.stdout
    assert (tmp_path / "runs/notebook-seed-0/export/saved_model/saved_model.pb").is_file()
