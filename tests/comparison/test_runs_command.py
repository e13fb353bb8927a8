"""`runs` and `compare` as their users run them."""

import csv
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import run_here

from cifar_trainer.comparison import evaluate_apart, read_evaluated
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError
from cifar_trainer.run import Run, list_runs

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
    failure = {"message": "The loss (nan) is not finite", "epoch": 1, "step": 3}
    (runs / "failed" / "failure.json").write_text(json.dumps(failure))
    (runs / "damaged" / "config.json").write_text("{")
    return runs


def test_runs_are_listed_with_what_became_of_them(run_cli: RunCli, folder: Path, trained_run: Path) -> None:
    with Run(folder / "running").hold():
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
    assert row[:8] == ["finished", "tutorial", "synthetic", "finished", "2", "of", "2", f"{accuracy:.2%}"]


def test_a_folder_without_runs_is_an_empty_list(tmp_path: Path) -> None:
    empty = run_here(["runs", tmp_path])
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "No runs in" in empty.stderr


def damage(run: Path, name: str, **values: object) -> None:
    path = run / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"epochs": "2"}),
        ("config.json", {"seed": None}),
        ("result.json", {"epochs": "two"}),
        ("result.json", {"weights_sha256": 7}),
        ("environment.json", {"started_at": "yesterday"}),
        ("environment.json", {"started_at": {}}),
    ],
)
def test_a_value_of_another_type_makes_a_run_damaged_and_no_other(
    trained_run: Path, tmp_path: Path, name: str, values: dict[str, object]
) -> None:
    for run in ("whole", "damaged"):
        shutil.copytree(trained_run, tmp_path / run)
    damage(tmp_path / "damaged", name, **values)
    states = {Path(run.path).name: run.state for run in list_runs(tmp_path).runs}
    assert states == {"whole": "finished", "damaged": "damaged"}


def test_the_message_of_a_damaged_run_names_the_file_and_the_key(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    damage(tmp_path / "run", "config.json", epochs="2")
    (run,) = list_runs(tmp_path).runs
    assert re.search(r"config\.json.*epochs", run.message or "")


def test_listing_runs_never_keeps_a_run_from_being_held(trained_run: Path, tmp_path: Path) -> None:
    """One thread lists all the time; another takes the lock 200 times."""
    shutil.copytree(trained_run, tmp_path / "run")
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            list_runs(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            with Run(tmp_path / "run").hold():
                pass
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def compared(
    run_cli: RunCli, trained_run: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two copies of a run in a folder, `one` to be computed otherwise than `two`, and their comparison."""
    folder = tmp_path_factory.mktemp("compared")
    for name in ("one", "two"):
        shutil.copytree(trained_run, folder / name)
    damage(folder / "one", "config.json", device="auto", deterministic=True)
    arguments = ["compare", folder / "one", folder / "two", "--data-dir", data_dir]
    done = run_cli([*arguments, "--plot", folder / "curves.svg", "--json"])
    assert done.returncode == 0, done.stderr
    return folder, done


def test_compare_evaluates_the_runs_that_were_not(
    compared: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = compared
    notes = [line for line in done.stderr.splitlines() if line.startswith("evaluating ")]
    assert notes == [f"evaluating {folder / name}" for name in ("one", "two")]


def test_a_copy_of_a_run_is_no_better(compared: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    found = json.loads(compared[1].stdout)
    (test,) = found["mcnemar"]
    assert (test["only_first"], test["only_second"], test["p_value"]) == (0, 0, 1)


def test_runs_that_differ_by_where_they_were_computed_are_one_group(
    compared: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert [group["n"] for group in json.loads(compared[1].stdout)["groups"]] == [2]


def test_the_ending_of_the_plot_chooses_its_format(
    compared: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert (compared[0] / "curves.svg").read_bytes().startswith(b"<?xml")


def test_runs_that_were_evaluated_are_not_evaluated_again(
    run_cli: RunCli, compared: tuple[Path, subprocess.CompletedProcess[str]], data_dir: Path
) -> None:
    folder, _ = compared
    again = run_cli(["compare", folder / "one", folder / "two", "--data-dir", data_dir])
    assert (again.returncode, again.stderr) == (0, "")


def test_the_logits_of_a_comparison_are_those_of_evaluate_to_the_bit(
    compared: tuple[Path, subprocess.CompletedProcess[str]], evaluated_run: Path
) -> None:
    """Of the second of two runs with other settings: each is evaluated in a process of its own."""
    runs = (compared[0] / "two", evaluated_run)
    logits, expected = ((run / "evaluation/test/logits.npy").read_bytes() for run in runs)
    assert logits == expected


def test_why_a_run_cannot_be_evaluated_is_told_with_its_own_exit_code(
    trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The data change between the look at them and the evaluation."""
    shutil.copytree(trained_run, tmp_path / "run")
    shutil.copytree(data_dir / "synthetic", tmp_path / "data" / "synthetic")
    (tmp_path / "data" / "synthetic" / "test_images.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"run could not be evaluated: .*test_images\.npy"):
        evaluate_apart(Run(tmp_path / "run"), "test", tmp_path / "data")


def test_energy_and_curves_of_a_run_end_where_its_model_was_saved(
    trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """A longer run was begun and stopped: history.csv goes on, model.keras and result.json do not."""
    run, images = Run(tmp_path / "run"), load_dataset(data_dir, "synthetic").test
    shutil.copytree(trained_run, run.path)
    with open(run.history, newline="") as file:
        rows = list(csv.DictReader(file))
    extended = [{**rows[min(i, 1)], "epoch": str(i + 1), "energy_joules": "100"} for i in range(3)]
    with open(run.history, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(extended)
    folder = run.evaluation("test")
    folder.mkdir(parents=True)
    np.save(folder / "logits.npy", np.zeros((len(images), 10), np.float32))
    report = {
        "accuracy": 0.1, "accuracy_interval": [0.0, 0.2], "loss": 2.0,
        "calibration": {"before": {"ece": 0.1}},
        "weights_sha256": run.read_result().weights_sha256, "split_sha256": images.sha256,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    found = read_evaluated(run, "test", images)
    assert found is not None
    assert (found.joules, len(found.history)) == (200, 2)
