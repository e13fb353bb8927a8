"""How a worker starts and resumes runs, and listens to its command. No training here."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cifar_trainer import errors
from cifar_trainer.run import Run
from cifar_trainer.sweeps import worker
from cifar_trainer.sweeps.result import Trial
from cifar_trainer.sweeps.study import _chosen_epoch
from cifar_trainer.training.reporter import TrainingReporter

SETTINGS = {"epochs": 3, "seed": 0, "data_dir": "/data", "device": "cpu", "end_after": 2}

Calls = list[tuple[str, str, dict[str, Any]]]
Train = Callable[..., Calls]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    """Lets a worker train a run; returns how it called `train` and `resume`."""

    def train(run: Path, damaged: tuple[str, ...] = ()) -> Calls:
        calls: Calls = []

        def start(*, run_dir: Path, reporter: object, **settings: Any) -> None:
            calls.append(("train", run_dir.name, settings))

        def resume(run: Run, *, reporter: object, **settings: Any) -> None:
            calls.append(("resume", run.path.name, settings))
            if run.path.name in damaged:
                raise errors.CheckpointError("All checkpoints are damaged.")

        monkeypatch.setattr(worker.api, "train", start)
        monkeypatch.setattr(worker.api, "resume", resume)
        worker._train(worker.Job(SETTINGS, str(run)), Run(run), {"reporter": TrainingReporter()})
        return calls

    return train


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """The folder of a run that was started before."""
    (tmp_path / "trial-0").mkdir()
    (tmp_path / "trial-0" / "config.json").write_text("{}")
    return tmp_path / "trial-0"


def test_a_new_run_has_all_settings(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path / "trial-0") == [("train", "trial-0", SETTINGS)]


def test_a_resumed_run_has_the_data_and_the_device_of_this_machine(train: Train, existing: Path) -> None:
    assert train(existing) == [("resume", "trial-0", {"data_dir": "/data", "device": "cpu", "end_after": 2})]


def test_a_run_without_a_whole_checkpoint_starts_over_beside_it(train: Train, existing: Path) -> None:
    calls = train(existing, damaged=("trial-0",))
    assert [call[:2] for call in calls] == [("resume", "trial-0"), ("train", "trial-0-again")]


@pytest.mark.parametrize(("chosen", "expected"), [(2, 2), (3, None), (None, None)])
def test_a_confirming_run_ends_where_the_trials_weights_are_from(
    trained_run: Path, tmp_path: Path, chosen: int | None, expected: int | None
) -> None:
    result = dataclasses.replace(Run(trained_run).read_result(), chosen_epoch=chosen, planned_epochs=3)
    (tmp_path / "result.json").write_bytes(msgspec.json.encode(result.to_json()))
    assert _chosen_epoch(Trial(0, "complete", {}, 0.5, str(tmp_path))) == expected


@pytest.fixture
def pipe() -> Iterator[tuple[worker._Reporter, int]]:
    """What a worker reports to, and the file descriptor by which its command answers."""
    read, write = os.pipe()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    yield worker._Reporter(worker.Command(read, nowhere)), write
    for descriptor in (read, nowhere):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [
        (b'{"continue": true}\n', False),
        (b'{"continue": false}\n', True),
        # The second one was sent at the same time, to stop the run.
        (b'{"continue": true}\n{"continue": false}\n', True),
    ],
)
def test_a_run_continues_as_the_command_answers(
    pipe: tuple[worker._Reporter, int], answer: bytes, stopped: bool
) -> None:
    reporter, write = pipe
    os.write(write, answer)
    reporter.epoch_ended({"epoch": 1, "val_accuracy": 0.5}, 3)
    assert reporter.should_stop() is stopped
    os.close(write)


def test_the_end_of_its_command_stops_a_run(pipe: tuple[worker._Reporter, int]) -> None:
    reporter, write = pipe
    assert not reporter.should_stop()
    os.close(write)
    assert reporter.should_stop()
    reporter.epoch_ended({"epoch": 1, "val_accuracy": 0.5}, 3)


def test_a_message_that_a_worker_cannot_read_ends_it(pipe: tuple[worker._Reporter, int]) -> None:
    """In its main thread: nothing is left that could wait for another message."""
    reporter, write = pipe
    os.write(write, b"not JSON\n")
    with pytest.raises(json.JSONDecodeError):
        reporter.epoch_ended({"epoch": 1, "val_accuracy": 0.5}, 3)
    os.close(write)
