"""`runs` and `compare` as their users run them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_trainer.run import Run, hold

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(trained_run: Path, tmp_path: Path) -> Path:
    """Runs in every state, each a copy of a finished one."""
    runs = tmp_path / "runs"
    for name in ("finished", "stopped", "failed", "damaged", "running"):
        shutil.copytree(trained_run, runs / name)
    for name in ("stopped", "failed", "running"):
        (runs / name / "result.json").unlink()
    history = (runs / "stopped" / "history.csv").read_text().splitlines()
    (runs / "stopped" / "history.csv").write_text("\n".join(history[:2]) + "\n")
    (runs / "failed" / "failure.json").write_text(json.dumps({"message": "The loss (nan) is not finite"}))
    (runs / "damaged" / "config.json").write_text("{")
    return runs


def test_runs_are_listed_with_what_became_of_them(run_cli: RunCli, folder: Path, trained_run: Path) -> None:
    with hold(Run(folder / "running")):
        done = run_cli(["runs", folder, "--json"])
        shown = run_cli(["runs", folder])
    assert done.returncode == 0, done.stderr
    listed = {Path(run["path"]).name: run for run in json.loads(done.stdout)["runs"]}
    assert {name: run["state"] for name, run in listed.items()} == {
        name: name for name in ("finished", "stopped", "failed", "damaged", "running")
    }
    accuracy = json.loads((trained_run / "result.json").read_text())["validation"]["accuracy"]
    assert listed["finished"]["accuracy"] == accuracy
    assert (listed["stopped"]["epochs_done"], listed["stopped"]["epochs"]) == (1, 2)
    assert "nan" in listed["failed"]["message"]
    assert listed["finished"]["bytes"] > 100_000
    row = next(line.split() for line in shown.stdout.splitlines() if line.startswith("finished"))
    assert row[:8] == ["finished", "document", "synthetic", "finished", "2", "of", "2", f"{accuracy:.2%}"]


def test_an_empty_folder_and_none_at_all(run_cli: RunCli, tmp_path: Path) -> None:
    empty = run_cli(["runs", tmp_path])
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "no run in" in empty.stderr
    missing = run_cli(["runs", tmp_path / "nowhere"])
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr


def test_compare_evaluates_what_was_not_evaluated_and_says_that_a_copy_is_no_better(
    run_cli: RunCli, trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        shutil.copytree(trained_run, tmp_path / name)
    plot = tmp_path / "curves.png"
    arguments = ["compare", tmp_path / "one", tmp_path / "two", "--data-dir", data_dir, "--plot", plot]
    done = run_cli([*arguments, "--json"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("evaluating ") == 2
    found = json.loads(done.stdout)
    first, second = found["runs"]
    assert first["accuracy"] == second["accuracy"]
    assert found["mcnemar"][0]["p_value"] == 1
    assert found["groups"][0]["n"] == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = run_cli(arguments)
    assert again.returncode == 0
    assert "evaluating" not in again.stderr
    assert "122,570" in again.stdout
    one = run_cli(["compare", tmp_path / "one", "--data-dir", data_dir])
    assert one.returncode == 2
    assert "two runs or more" in one.stderr
