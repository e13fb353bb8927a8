"""How a worker begins a run, and goes on with one that is there. No training here."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cifar_trainer import errors
from cifar_trainer.run import Run
from cifar_trainer.sweeps import worker
from cifar_trainer.sweeps.record import TrialRecord
from cifar_trainer.sweeps.sweep import _chosen_epoch
from cifar_trainer.training.control import TrainingReporter

SETTINGS = {"epochs": 3, "seed": 0, "data_dir": "/data", "device": "cpu", "end_after": 2}


class Calls:
    """Stands in for `train` and `resume`, and notes what they are asked for."""

    def __init__(self, damaged: tuple[str, ...] = ()) -> None:
        self.made: list[tuple[str, str, dict[str, Any]]] = []
        self._damaged = damaged

    def train(self, *, run_dir: Path, **settings: Any) -> str:
        self.made.append(("train", run_dir.name, settings))
        return "trained"

    def resume(self, run: Run, **settings: Any) -> str:
        self.made.append(("resume", run.path.name, settings))
        if run.path.name in self._damaged:
            raise errors.CheckpointError("All checkpoints are damaged.")
        return "resumed"


def begin(monkeypatch: pytest.MonkeyPatch, calls: Calls, run: Path) -> None:
    monkeypatch.setattr(worker.session, "train", calls.train)
    monkeypatch.setattr(worker.session, "resume", calls.resume)
    worker._train(worker.Job(SETTINGS, str(run)), Run(run), {"reporter": TrainingReporter()})


def settings_of(call: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in call[2].items() if name != "reporter"}


def test_a_new_run_has_all_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = Calls()
    begin(monkeypatch, calls, tmp_path / "trial-0")
    [call] = calls.made
    assert (call[0], settings_of(call)) == ("train", SETTINGS)


def test_a_run_that_is_there_goes_on_with_the_data_and_the_device_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "trial-0").mkdir()
    (tmp_path / "trial-0" / "config.json").write_text("{}")
    calls = Calls()
    begin(monkeypatch, calls, tmp_path / "trial-0")
    [call] = calls.made
    assert (call[0], settings_of(call)) == (
        "resume", {"data_dir": "/data", "device": "cpu", "end_after": 2},
    )  # fmt: skip


def test_a_run_without_a_whole_checkpoint_is_trained_again_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "trial-0").mkdir()
    (tmp_path / "trial-0" / "config.json").write_text("{}")
    calls = Calls(damaged=("trial-0",))
    begin(monkeypatch, calls, tmp_path / "trial-0")
    assert [call[:2] for call in calls.made] == [("resume", "trial-0"), ("train", "trial-0-again")]


@pytest.mark.parametrize(("chosen", "expected"), [(2, 2), (3, None), (None, None)])
def test_a_confirming_run_ends_where_the_trials_weights_are_from(
    trained_run: Path, tmp_path: Path, chosen: int | None, expected: int | None
) -> None:
    result = dataclasses.replace(Run(trained_run).read_result(), chosen_epoch=chosen, planned_epochs=3)
    import msgspec

    (tmp_path / "result.json").write_bytes(msgspec.json.encode(result.to_json()))
    trial = TrialRecord(0, "complete", {}, 0.5, str(tmp_path))
    assert _chosen_epoch(trial) == expected
