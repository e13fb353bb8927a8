"""`reproduce`: a run trained again from its own record."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here

from cifar_trainer.errors import RunError, TrainingStopped
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training import api
from cifar_trainer.training.api import reproduce, resume, train

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_that_is_reproduced_has_the_same_weights(
    run_cli: RunCli, trained_run: Path, tmp_path: Path
) -> None:
    done = run_cli(["reproduce", trained_run, "--run-dir", tmp_path / "again", "--json"])
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    expected = json.loads((trained_run / "result.json").read_text())["weights_sha256"]
    assert list(printed) == [
        "run_dir", "reproduced_in", "same", "weights_sha256", "expected_sha256", "differences",
    ]  # fmt: skip
    assert printed["weights_sha256"] == printed["expected_sha256"] == expected


def test_a_run_is_not_its_own_repetition(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(trained_run)
    for folder in (trained_run, tmp_path / "link"):
        done = run_here(["reproduce", trained_run, "--run-dir", folder])
        assert (done.exit_code, "is the folder to reproduce" in done.stderr) == (2, True)


def test_the_command_that_resumes_a_stopped_repetition_is_complete_and_quoted(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise TrainingStopped(Path("my runs/again"))

    monkeypatch.setattr(api, "reproduce", stop)
    done = run_here(["reproduce", trained_run, "--run-dir", "my runs/again", "--data-dir", "my data"])
    command = f"  cifar-trainer reproduce {trained_run} --run-dir 'my runs/again' --data-dir 'my data'"
    assert command in done.stderr.splitlines()


def small(data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 1, "limit": 320, "device": "cpu", "recipe": "regularized", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_is_not_reproduced_exits_with_4_and_names_what_differs(
    small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small(small_data, run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    environment = json.loads((run / "environment.json").read_text())
    environment["versions"]["tensorflow"] = "2.20.0"
    (run / "environment.json").write_text(json.dumps(environment))
    done = run_here(["reproduce", run, "--run-dir", tmp_path / "again"])
    assert done.exit_code == 4
    assert "TensorFlow was 2.20.0" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_was_extended_is_reproduced_in_the_same_parts(small_data: Path, tmp_path: Path) -> None:
    """Its schedule spanned one epoch at first, then two."""
    small(small_data, tmp_path / "run")
    extended = resume(Run(tmp_path / "run"), epochs=2)
    found = reproduce(tmp_path / "run", run_dir=tmp_path / "again")
    assert found.same
    assert found.weights_sha256 == extended.weights_sha256
    assert small(small_data, tmp_path / "at once", epochs=2).weights_sha256 != extended.weights_sha256


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_was_extended_within_an_epoch_says_that_it_cannot_be_reproduced(
    small_data: Path, tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    with pytest.raises(TrainingStopped):
        small(small_data, tmp_path / "run", should_stop=stop_after(1), batch_size=4)
    resume(tmp_path / "run", epochs=2)
    with pytest.raises(
        RunError, match="cannot be reproduced: it was extended beyond 1 epochs in the middle of an epoch"
    ):
        reproduce(tmp_path / "run", run_dir=tmp_path / "again")


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_a_time_limit_ended_continues_with_a_longer_one(small_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert small(small_data, run, epochs=2, time_limit=0.001).ended_by == "time limit"
    assert resume(Run(run)).epochs == resume(Run(run), time_limit=0.001).epochs == 1
    assert resume(Run(run), time_limit=3600.0).epochs == 2
