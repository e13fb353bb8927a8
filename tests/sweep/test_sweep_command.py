"""`cifar-trainer sweep` on SQLite: what it prints, writes, resumes and refuses."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import environment, run_command, run_here

import cifar_trainer
from cifar_trainer.errors import DeviceError, UsageError
from cifar_trainer.training import api

RunCli = Callable[..., subprocess.CompletedProcess[str]]

#: Small and quick trials; the last two arguments vary.
SPACE = ["--set", "learning_rate=1e-3..1e-2:log", "--set", "batch_size=32,64"]


def small(data_dir: Path, folder: Path) -> list[object]:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 200, "--device", "cpu"]
    return ["sweep", "--name", "tiny", "--run-dir", folder, *SPACE, *data, "--epochs", 1]


@pytest.fixture(scope="module")
def swept(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished sweep's folder, and what `sweep --json` printed. Read it; to change it, copy it first."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    done = run_command([*small(small_data, folder), "--trials", 2, "--confirm", 1, "--json"])
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_trial_is_a_run_like_any_other(swept: tuple[Path, dict[str, Any]], run_cli: RunCli) -> None:
    """Two trials were asked for, and both are complete."""
    folder, printed = swept
    assert [trial["number"] for trial in printed["trials"]] == [0, 1]
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
    _, printed = swept
    [confirmed] = printed["confirmed"]
    config = json.loads((Path(confirmed["runs"][0]) / "config.json").read_text())
    assert (config["seed"], config["limit"], config["data"]["train"]["images"]) == (1, None, 320)


def test_each_confirming_run_looks_at_the_test_set_once(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    looks = (Path(printed["confirmed"][0]["runs"][0]) / "test_looks.jsonl").read_text().splitlines()
    assert [json.loads(look)["command"] for look in looks] == ["evaluate"]


def test_the_test_accuracy_is_that_of_the_report(swept: tuple[Path, dict[str, Any]]) -> None:
    _, printed = swept
    [confirmed] = printed["confirmed"]
    report = json.loads((Path(confirmed["runs"][0]) / "evaluation" / "test" / "report.json").read_text())
    assert confirmed["test_accuracy"] == report["accuracy"]


def test_the_page_loads_nothing_from_elsewhere_and_its_links_lead_to_files(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = swept
    page = Path(printed["page"]).read_text(encoding="utf-8")
    addresses = re.findall(r'(?:href|src|srcset)="([^"]*)"', page)
    links = [address for address in addresses if not address.startswith("data:")]
    assert any(link.endswith("evaluation/test/report.html") for link in links)
    assert [link for link in links if not (folder / link).exists()] == []
    assert [mark for mark in ("http://", "https://", "<script src", "@import") if mark in page] == []


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


def test_an_option_beside_from_trial_wins(swept: tuple[Path, dict[str, Any]], run_cli: RunCli) -> None:
    done = run_cli(["train", "--from-trial", f"{swept[0]}:0", "--epochs", 0])
    assert (done.returncode, "--epochs 0 is out of range" in done.stderr) == (2, True), done.stderr


def test_a_trial_can_be_trained_with_other_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"dataset": "synthetic", "seed": 0, "validation": "holdout"}
    trials = [{"number": 7, "state": "complete", "params": {"learning_rate": 0.002}}]
    (tmp_path / "sweep.json").write_text(json.dumps({"settings": settings, "trials": trials}))
    asked: list[dict[str, Any]] = []

    def train(**arguments: Any) -> None:
        asked.append(arguments)
        raise UsageError("enough")

    monkeypatch.setattr(api, "train", train)
    run_here(["train", "--from-trial", f"{tmp_path}:7", "--seeds", "1,2"])
    assert (asked[0]["seeds"], asked[0]["learning_rate"], "seed" in asked[0]) == ("1,2", 0.002, False)


def test_a_sweep_keeps_to_the_recipe_that_it_was_started_with(
    small_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    recipe, folder = tmp_path / "r.py", tmp_path / "own"
    text = (
        "import dataclasses\nfrom cifar_trainer.recipes import tutorial\n"
        "RECIPE = dataclasses.replace(tutorial.TUTORIAL, name='own', batch_size=64)\n"
    )
    recipe.write_text(text)
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--limit", 64, "--device", "cpu"]
    words = ["sweep", "--name", "own", "--run-dir", folder, "--recipe", recipe, *data]
    words += ["--set", "learning_rate=0.01,0.03", "--epochs", 1, "--confirm", 0, "--json", "--trials"]
    [trial] = json.loads(run_cli([*words, 1]).stdout)["trials"]
    recipe.write_text(text.replace("64", "8"))
    more = run_cli([*words, 2])
    assert (more.returncode, f"the file {recipe} was different" in more.stderr) == (2, True), more.stderr
    again = run_cli(["train", "--from-trial", f"{folder}:0", "--run-dir", tmp_path / "again", "--json"])
    before = json.loads((Path(trial["run_dir"]) / "result.json").read_text())
    assert json.loads(again.stdout)["weights_sha256"] == before["weights_sha256"], again.stderr


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


def test_the_same_command_with_more_trials_adds_to_them_also_in_a_folder_that_was_moved(
    swept: tuple[Path, dict[str, Any]], small_data: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    shutil.copytree(swept[0], tmp_path / "s")
    done = run_cli([*small(small_data, tmp_path / "s"), "--confirm", 0, "--trials", 3, "--json"])
    trials = json.loads(done.stdout)["trials"]
    moved = [
        {**trial, "run_dir": str(tmp_path / "s" / f"trial-{trial['number']}")} for trial in swept[1]["trials"]
    ]
    assert (trials[:2], len(trials)) == (moved, 3), done.stderr


def test_another_setting_for_the_same_sweep_is_named(
    swept: tuple[Path, dict[str, Any]], small_data: Path, run_cli: RunCli
) -> None:
    done = run_cli([*small(small_data, swept[0]), "--epochs", 2])
    assert (done.returncode, "epochs was 1, now 2" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"validation": "test"}, UsageError, "--validation test: a sweep chooses by held-out images"),
        ({"validation": "train"}, UsageError, "--validation train: a sweep chooses by held-out images"),
        ({"learning_rate": 0.1}, UsageError, "learning_rate has both a value and a range"),
        ({"set": ["batch_size=32"]}, UsageError, "is given twice"),
        ({"space": {"ema": [0.9, 1.5]}}, UsageError, "--ema 1.5 is out of range"),
        ({"sampler": "tpee"}, UsageError, "Did you mean 'tpe'?"),
        ({"pruner": "x"}, UsageError, "Choose from median, hyperband, none"),
        ({"trials": 0}, UsageError, "--trials 0 is out of range"),
        ({"confirm": -1}, UsageError, "--confirm -1 is out of range"),
        ({"name": "a/b"}, UsageError, "--name 'a/b' cannot be used"),
        ({"limit": 50}, UsageError, "--batch-size 64 is more than the 50 training images"),
        ({"device": "gpu"}, DeviceError, "--device gpu"),
        ({"storage": "mysql://me:secret@h/d"}, UsageError, "Expected postgresql://"),
        ({"storage": "secret"}, UsageError, "--storage is not a database URL"),
        ({"storage": "sqlite://"}, UsageError, "does not name a file"),
    ],
)
def test_a_wrong_argument_is_one_message_without_a_password(
    small_data: Path,
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that the fork server takes the worker that looks for a GPU.
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    usual = {"name": "tiny", "run_dir": tmp_path, "epochs": 1}
    data = {"dataset": "synthetic", "data_dir": small_data, "limit": 192}
    space = {"learning_rate": "1e-3..1e-2:log", "batch_size": [32, 64]}
    more = arguments.pop("space", {})
    with pytest.raises(error) as raised:
        cifar_trainer.sweep(**{**usual, "space": {**space, **more}, **data, **arguments})
    assert (says in str(raised.value), "secret" in str(raised.value)) == (True, False)


def test_a_server_that_is_not_there_is_named_without_a_password(
    small_data: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    storage = "postgresql://me:secret@127.0.0.1:9/d?password=secret"
    done = run_cli([*small(small_data, tmp_path / "s"), "--storage", storage])
    assert (done.returncode, "Connection refused" in done.stderr) == (1, True), done.stderr
    assert [word for word in ("Traceback", "secret") if word in done.stderr + done.stdout] == []


@pytest.mark.parametrize("option", [["--gpus", 2], ["--stack", "on"], ["--seeds", 2]])
def test_an_option_of_single_runs_is_not_offered(run_cli: RunCli, option: list[object]) -> None:
    done = run_cli(["sweep", "--name", "x", "--set", "epochs=1,2", *option])
    assert (done.returncode, f"No such option '{option[0]}'" in done.stderr) == (2, True), done.stderr


def test_a_study_of_another_program_is_left_alone(small_data: Path, tmp_path: Path, run_cli: RunCli) -> None:
    import optuna

    (tmp_path / "s").mkdir()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s/optuna.db", study_name="tiny")
    study.tell(study.ask(), 1.0)
    done = run_cli(small(small_data, tmp_path / "s"))
    assert (done.returncode, "a study of that name, from another program" in done.stderr) == (2, True)


def test_a_study_of_a_newer_version_is_not_touched(
    swept: tuple[Path, dict[str, Any]], small_data: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    import optuna

    shutil.copytree(swept[0], tmp_path / "s")
    study = optuna.load_study(storage=f"sqlite:///{tmp_path}/s/optuna.db", study_name="tiny")
    study.set_user_attr("cifar_trainer", {"format": 99})
    done = run_cli(small(small_data, tmp_path / "s"))
    assert (done.returncode, "by a newer version of cifar-trainer" in done.stderr) == (1, True), done.stderr


def test_a_sweep_of_trials_that_all_fail_ends_after_three_and_prints_them(
    small_data: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    command = small(small_data, tmp_path / "s")
    command[command.index("learning_rate=1e-3..1e-2:log")] = "learning_rate=1e30,2e30,3e30,4e30"
    done = run_cli([*command, "--trials", 20, "--json"])
    assert (done.returncode, "The first 3 trials all failed" in done.stderr) == (1, True), done.stderr
    printed = json.loads(done.stdout)
    assert [(trial["state"], "not finite" in trial["message"]) for trial in printed["trials"]] == [
        ("failed", True)
    ] * 3
    assert printed["best"] is None
