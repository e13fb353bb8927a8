"""What can go wrong while a run trains: memory, disks, clocks, streams, a device that is not there."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from command_line import RunCli, command, environment

from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices import Device
from cifar_trainer.errors import TrainingError
from cifar_trainer.model import LogitsFunction
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import RuntimeOptions, Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training import trainer as trainers
from cifar_trainer.training.loop import StepLoop
from cifar_trainer.training.reporter import TrainingReporter

CPU = Device("cpu", "a processor", 1)


class Told(TrainingReporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def start(
    small_runs: None, small_data: Path, tmp_path: Path
) -> Callable[..., tuple[TrainResult | None, Told]]:
    """Train 320 synthetic pictures for two epochs in this process, in `tmp_path / "run"`."""

    def run(told: Told | None = None) -> tuple[TrainResult | None, Told]:
        told = told or Told()
        (tmp_path / "run").mkdir(exist_ok=True)
        config = Settings("tutorial", "synthetic", 2, 32, 0.001, limit=320)
        options = RuntimeOptions(checkpoint_every=1e-9)
        dataset = load_dataset(small_data, "synthetic")
        trainer = trainers.Trainer(
            config, RECIPES["tutorial"], dataset, Run(tmp_path / "run"), CPU, None,
            options=options, reporter=told,
        )  # fmt: skip
        trainers.train([trainer], should_stop=lambda: False)
        if trainer.error is not None:
            raise trainer.error
        return trainer.result, told

    return run


def test_memory_that_runs_out_names_the_batch_and_a_smaller_one_and_keeps_the_checkpoint(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorFlow says it, from the third call of the compiled loop on."""
    run_chunk, calls = StepLoop.run, []

    def exhausted(self: StepLoop, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return run_chunk(self, *arguments)

    monkeypatch.setattr(StepLoop, "run", exhausted)
    with pytest.raises(TrainingError, match=r"--batch-size 32, at epoch 2, step 1. Try --batch-size 16"):
        start()
    kept = checkpoints.load_newest(tmp_path / "run" / "checkpoints", pytest.fail)
    assert (kept.epoch, kept.step) == (1, 0)
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["epoch"] == 2


def test_memory_that_does_not_hold_the_images_is_named_too(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory")

    monkeypatch.setattr(trainers, "assemble", exhausted)
    with pytest.raises(TrainingError, match="not have enough memory for 400 images"):
        start()
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] == 1


def test_a_watched_loss_that_is_not_finite_ends_the_run_and_is_saved_nowhere(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be finite and the logits of other images overflow."""
    monkeypatch.setattr(LogitsFunction, "__call__", lambda self, images: np.full((len(images), 10), np.nan))
    with pytest.raises(TrainingError, match=r"The validation loss .* epoch 1, step 10 of 10"):
        start()
    kept = checkpoints.load_newest(tmp_path / "run" / "checkpoints", pytest.fail)
    assert kept.epoch == 0
    assert not (tmp_path / "run" / "model.keras").exists()


def test_a_gpu_that_is_not_there_is_named_and_never_replaced_by_the_cpu(
    run_cli: RunCli, small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["--dataset", "synthetic", "--data-dir", small_data, "--run-dir", run, "--device", "gpu"]
    done = run_cli(["train", *arguments])
    assert done.returncode == 5
    assert done.stdout == ""
    assert "does not find a usable GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.exists()


def test_a_disk_that_fills_up_keeps_the_checkpoints_that_are_there(
    run_cli: RunCli, small_data: Path, mount: Callable[[str], Path]
) -> None:
    """Two checkpoints fit on the disk, the third beside them does not."""
    run = mount("size=4m") / "run"
    arguments = ["--dataset", "synthetic", "--data-dir", small_data, "--run-dir", run]
    done = run_cli(["train", *arguments, "--limit", 320, "--epochs", 4, "--checkpoint-every", 0.01])
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert f"--resume {run}" in done.stderr
    assert "Traceback" not in done.stderr
    kept = checkpoints.list_checkpoints(run / "checkpoints")
    assert kept
    for path in kept:
        checkpoints.load(path)
    assert not list((run / "checkpoints").glob(".partial-*"))


def test_files_for_tensorboard_and_the_history_that_cannot_be_written_are_a_warning_each(
    start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("in the way")
    (run / "history.csv").mkdir()
    result, told = start()
    assert result is not None
    assert result.epochs == 2
    assert (run / "model.keras").is_file()
    assert sum("TensorBoard's files" in warning for warning in told.warnings) == 1
    assert any("history.csv cannot be written" in warning for warning in told.warnings)


def test_a_clock_that_is_set_back_changes_no_order_and_no_duration(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began - time.monotonic())
    result, _ = start()
    assert result is not None
    assert result.seconds > 0
    assert result.images_per_second > 0
    kept = checkpoints.load_newest(tmp_path / "run" / "checkpoints", pytest.fail)
    assert (kept.epoch, kept.step) == (2, 0)
    assert kept.clock["total"] > 0


def small_run(data_dir: Path, run: Path) -> list[str]:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320]
    return command("train", *data, "--epochs", 2, "--run-dir", run)


def test_a_run_whose_streams_are_closed_trains_to_its_end(small_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    closed = ["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash", *small_run(small_data, run)]
    assert subprocess.run(closed, check=False, timeout=300, env=environment()).returncode == 0
    assert json.loads((run / "result.json").read_text())["epochs"] == 2


def test_a_run_whose_terminal_goes_away_trains_to_its_end(small_data: Path, tmp_path: Path) -> None:
    """A live bar on a terminal of which nobody holds the other end: each write to it fails with EIO."""
    run = tmp_path / "run"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        small_run(small_data, run), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        start_new_session=True, env=environment({"TERM": "xterm"}),
    )  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 1)
    os.close(ours)
    assert process.wait(timeout=300) == 0
    assert json.loads((run / "result.json").read_text())["epochs"] == 2
