"""`train --resume` where something is not as it was: rows 48, 49, 52 and 54 of the faults."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_trainer.run import Run, hold
from cifar_trainer.training.checkpoint import list_checkpoints

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(trained_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_passed_over_and_what_is_ahead_of_it_is_cut_back(
    run_cli: RunCli, run: Path, trained_run: Path, data_dir: Path
) -> None:
    """The newest loses its end: the run goes on from the one before, to the same bits, nothing doubled."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest, before = list_checkpoints(run / "checkpoints")
    arrays = newest / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    expected = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--json"])
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged: arrays.npz" in done.stderr
    assert "Going on after 1 epochs and 0 steps" in done.stderr, before
    result = json.loads(done.stdout)
    for key in ("weights_sha256", "train", "validation"):
        assert result[key] == expected[key]
    losses = [line.split(",")[1] for line in (run / "history.csv").read_text().splitlines()]
    assert losses == [line.split(",")[1] for line in (trained_run / "history.csv").read_text().splitlines()]
    for split in ("train", "validation"):
        events = EventAccumulator(str(run / "tensorboard" / split), {"tensors": 0}).Reload()
        assert [event.step for event in events.Tensors("epoch_loss")] == [1, 2]


def test_another_environment_is_told_and_the_run_extended(run_cli: RunCli, run: Path, data_dir: Path) -> None:
    record = json.loads((run / "environment.json").read_text())
    record["versions"]["tensorflow"] = "2.20.0"
    record["threads"]["inter_op"] = 7
    (run / "environment.json").write_text(json.dumps(record))
    done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--epochs", 3])
    assert done.returncode == 0, done.stderr
    assert "TensorFlow was 2.20.0 and is " in done.stderr
    assert "inter-op threads was 7" in done.stderr
    assert done.stderr.count("will not be bit-identical") == 2
    assert json.loads((run / "result.json").read_text())["epochs"] == 3
    assert len((run / "history.csv").read_text().splitlines()) == 4


def test_a_run_that_another_process_holds_is_left_to_it(run_cli: RunCli, run: Path, data_dir: Path) -> None:
    with hold(Run(run)):
        done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--epochs", 3])
    assert done.returncode == 1
    assert f"{run} is in use by another process" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((run / "config.json").read_text())["epochs"] == 2


def test_other_data_is_refused_by_its_fingerprint(
    run_cli: RunCli, run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Another version of the set under the same name."""
    other = tmp_path / "other"
    shutil.copytree(data_dir, other)
    record = json.loads((other / "synthetic" / "dataset.json").read_text())
    record["train"]["fingerprint"] = "0" * 64
    (other / "synthetic" / "dataset.json").write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = run_cli(["train", "--resume", run, "--data-dir", other, "--epochs", 3])
    assert done.returncode == 2
    assert "was trained on other data" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
