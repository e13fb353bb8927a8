"""`cifar-trainer sweep`, on SQLite: what it prints and writes, goes on with, and refuses."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import run_command

RunCli = Callable[..., subprocess.CompletedProcess[str]]

#: Small and quick trials; the last two arguments vary.
SPACE = ["--set", "learning_rate=1e-3..1e-2:log", "--set", "batch_size=32,64"]


def small(data_dir: Path, folder: Path) -> list[object]:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320, "--device", "cpu"]
    return ["sweep", "--name", "tiny", "--run-dir", folder, *SPACE, *data, "--epochs", 1]


@pytest.fixture(scope="module")
def swept(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished sweep's folder, and what `sweep --json` printed. Read it; to change it, copy it first."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    done = run_command([*small(data_dir, folder), "--trials", 2, "--confirm", 1, "--json"])
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_json_has_the_documented_keys(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    assert list(printed) == [
        "name", "storage", "trials", "best", "confirmed", "importance", "sweep_dir", "page",
    ]  # fmt: skip


def test_there_are_as_many_trials_as_asked_for(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    assert [trial["number"] for trial in printed["trials"]] == [0, 1]


def test_a_trial_is_a_run_like_any_other(swept: tuple[Path, dict[str, Any]], run_cli: RunCli) -> None:
    folder, printed = swept
    done = run_cli(["runs", folder.parent, "--json"])
    listed = {run["path"]: run for run in json.loads(done.stdout)["runs"]}
    complete = [trial for trial in printed["trials"] if trial["state"] == "complete"]
    assert [listed[trial["run_dir"]]["accuracy"] for trial in complete] == [
        trial["value"] for trial in complete
    ]


def test_no_trial_looks_at_the_test_set(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = swept
    assert list(folder.glob("trial-*/test_looks.jsonl")) == []


def test_the_best_is_the_one_with_the_highest_value(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    values = [trial["value"] for trial in printed["trials"] if trial["state"] == "complete"]
    assert printed["best"]["value"] == max(values)


def test_the_best_is_trained_again_on_all_images_with_another_seed(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = swept
    [confirmed] = printed["confirmed"]
    config = json.loads((Path(confirmed["runs"][0]) / "config.json").read_text())
    assert (config["seed"], config["limit"], config["data"]["train"]["images"]) == (
        1, None, json.loads((folder / "trial-0" / "config.json").read_text())["data"]["test"]["images"] * 5,
    )  # fmt: skip


def test_each_confirming_run_looks_at_the_test_set_once(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    looks = (Path(printed["confirmed"][0]["runs"][0]) / "test_looks.jsonl").read_text().splitlines()
    assert [json.loads(look)["command"] for look in looks] == ["evaluate"]


def test_the_test_accuracy_is_that_of_the_report(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    [confirmed] = printed["confirmed"]
    report = json.loads((Path(confirmed["runs"][0]) / "evaluation" / "test" / "report.json").read_text())
    assert confirmed["test_accuracy"] == report["accuracy"]


def test_the_page_loads_nothing_from_elsewhere(swept: tuple[Path, dict[str, Any]]) -> None:
    page = Path(swept[1]["page"]).read_text(encoding="utf-8")
    assert [mark for mark in ("http://", "https://", "<script", "<link") if mark in page] == []


def test_train_from_trial_gives_the_trials_weights(
    swept: tuple[Path, dict[str, Any]], run_cli: RunCli, tmp_path: Path
) -> None:
    folder, printed = swept
    trial = printed["best"]
    done = run_cli(
        ["train", "--from-trial", f"{folder}:{trial['number']}", "--run-dir", tmp_path / "again", "--json"]
    )
    before = json.loads((Path(trial["run_dir"]) / "result.json").read_text())
    assert json.loads(done.stdout)["weights_sha256"] == before["weights_sha256"], done.stderr


def test_what_is_given_beside_from_trial_wins(
    swept: tuple[Path, dict[str, Any]], run_cli: RunCli, tmp_path: Path
) -> None:
    folder, _ = swept
    done = run_cli(
        ["train", "--from-trial", f"{folder}:0", "--seed", 7, "--run-dir", tmp_path / "other", "--json"]
    )
    assert json.loads(done.stdout)["seed"] == 7, done.stderr


@pytest.mark.parametrize(
    ("trial", "code", "says"),
    [
        ("tiny:99", 2, "has no trial 99"),
        ("tiny", 2, "Expected SWEEP:NUMBER"),
        ("gone:1", 1, "is not a sweep"),
    ],
)
def test_a_trial_that_is_not_there_is_named(
    swept: tuple[Path, dict[str, Any]], run_cli: RunCli, trial: str, code: int, says: str
) -> None:
    done = run_cli(["train", "--from-trial", f"{swept[0].parent}/{trial}"])
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_the_same_command_with_more_trials_adds_to_them(
    swept: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    shutil.copytree(swept[0], tmp_path / "s")
    done = run_cli([*small(data_dir, tmp_path / "s"), "--confirm", 0, "--trials", 3, "--json"])
    trials = json.loads(done.stdout)["trials"]
    assert trials[:2] == swept[1]["trials"], done.stderr
    assert len(trials) == 3


def test_another_setting_for_the_same_sweep_is_named(
    swept: tuple[Path, dict[str, Any]], data_dir: Path, run_cli: RunCli
) -> None:
    done = run_cli([*small(data_dir, swept[0]), "--epochs", 2])
    assert (done.returncode, "epochs was 1, now 2" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--validation", "test"], 2, "--validation test: a sweep chooses by held-out images"),
        (["--validation", "train"], 2, "--validation train: a sweep chooses by held-out images"),
        (["--learning-rate", "0.1"], 2, "learning_rate was given both a value and a range"),
        (["--set", "batch_size=32"], 2, "is given twice"),
        (["--set", "ema=0.9,1.5"], 2, "--ema 1.5 is out of range"),
        (["--sampler", "tpee"], 2, "Did you mean 'tpe'?"),
        (["--pruner", "x"], 2, "Choose from median, hyperband, none"),
        (["--trials", "0"], 2, "--trials 0 is out of range"),
        (["--confirm", "-1"], 2, "--confirm -1 is out of range"),
        (["--name", "a/b"], 2, "--name 'a/b' cannot be used"),
        (["--limit", "50"], 2, "--batch-size 64 is more than the 50 training images"),
        (["--device", "gpu"], 5, "--device gpu"),
        (["--storage", "mysql://me:secret@h/d"], 2, "Expected postgresql://"),
        (["--storage", "secret"], 2, "--storage is not the address of a database"),
        (["--storage", "sqlite://"], 2, "names no file"),
        (["--storage", "postgresql://me:secret@127.0.0.1:9/d?password=secret"], 1, "Connection refused"),
    ],
)
def test_a_wrong_use_is_one_message_without_a_password(
    data_dir: Path, tmp_path: Path, run_cli: RunCli, options: list[str], code: int, says: str
) -> None:
    done = run_cli([*small(data_dir, tmp_path / "s"), *options])
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert [word for word in ("Traceback", "secret") if word in done.stderr + done.stdout] == []


def test_a_study_of_another_program_is_left_alone(data_dir: Path, tmp_path: Path, run_cli: RunCli) -> None:
    import optuna

    (tmp_path / "s").mkdir()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s/optuna.db", study_name="tiny")
    study.tell(study.ask(), 1.0)
    done = run_cli(small(data_dir, tmp_path / "s"))
    assert (done.returncode, "a study of that name by another program" in done.stderr) == (2, True)


def test_a_study_of_a_newer_version_is_not_touched(
    swept: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    import optuna

    shutil.copytree(swept[0], tmp_path / "s")
    study = optuna.load_study(storage=f"sqlite:///{tmp_path}/s/optuna.db", study_name="tiny")
    study.set_user_attr("cifar_trainer", {"format": 99})
    done = run_cli(small(data_dir, tmp_path / "s"))
    assert (done.returncode, "by a newer version of cifar-trainer" in done.stderr) == (1, True), done.stderr


def test_a_sweep_of_trials_that_all_fail_ends_after_three(
    data_dir: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    command = small(data_dir, tmp_path / "s")
    command[command.index("learning_rate=1e-3..1e-2:log")] = "learning_rate=1e30,2e30,3e30,4e30"
    done = run_cli([*command, "--trials", 20])
    assert (done.returncode, "The first 3 trials all failed" in done.stderr) == (1, True), done.stderr
