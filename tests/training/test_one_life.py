"""A run, a group of seeds and a sweep's trial refuse, stop, survive and resume alike."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import RunCli, start_command

from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.store import load_dataset, write_dataset
from cifar_trainer.run import Run
from cifar_trainer.training import checkpoint as checkpoints

#: Seconds for a slow machine.
PATIENCE = 120.0
KINDS = ("run", "group", "trial")


@pytest.fixture(scope="module")
def own_data(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a user's own data set, which nothing can prepare again."""
    folder = tmp_path_factory.mktemp("own")
    data = load_dataset(data_dir, "synthetic")
    splits = {"train": Split(data.train.images[:320], data.train.labels[:320]),
              "test": Split(data.test.images[:80], data.test.labels[:80])}  # fmt: skip
    write_dataset(folder / "own", "own", ImageSet(data.classes, splits), "drawn")
    return folder


class Subject:
    """A run, a group or a trial, and the commands that start and resume it."""

    def __init__(self, kind: str, folder: Path, data: Path) -> None:
        self.kind, self.folder = kind, folder
        settings = ["--dataset", "own", "--data-dir", data, "--batch-size", 4, "--device", "cpu",
                    "--checkpoint-every", 0.01, "--epochs", 1000]  # fmt: skip
        sweep = ["sweep", "--name", "x", "--trials", 1, "--confirm", 0, "--set", "learning_rate=1e-3"]
        own = {"run": ["train"], "group": ["train", "--seeds", "0,1"], "trial": sweep}[kind]
        self.start = [*own, *settings, "--run-dir", folder]
        self.resume = self.start if kind == "trial" else ["train", "--resume", folder]
        names = {"run": ("",), "group": ("seed-0", "seed-1"), "trial": ("trial-0",)}[kind]
        self.runs = [Run(folder / name) for name in names]

    def step(self) -> int:
        """Of the newest checkpoint."""
        paths = checkpoints.list_checkpoints(self.runs[0].checkpoints)
        return max(map(checkpoints.checkpoint_step, paths), default=0)

    def interrupt(self, arguments: list[object], number: signal.Signals) -> tuple[int, str]:
        """Send a signal to a command in the middle of its training; its exit code and messages."""
        before, process = self.step(), start_command(arguments)
        try:
            until = time.monotonic() + PATIENCE
            while self.step() <= before and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return process.returncode, err


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path, own_data: Path) -> Subject:
    return Subject(request.param, tmp_path / "a subject", own_data)


@pytest.fixture(scope="module", params=KINDS)
def stopped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, own_data: Path
) -> Iterator[tuple[Subject, int, str]]:
    """One that SIGTERM has stopped, the exit code, and what the command said."""
    subject = Subject(request.param, tmp_path_factory.mktemp(request.param) / "a subject", own_data)
    yield subject, *subject.interrupt(subject.start, signal.SIGTERM)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.json") if path.is_file()}


def test_sigterm_saves_and_exits_with_143(stopped: tuple[Subject, int, str]) -> None:
    subject, code, err = stopped
    assert code == 143, err
    assert "Traceback" not in err
    assert checkpoints.load_newest(subject.runs[0].checkpoints, pytest.fail).global_step > 0
    assert not subject.runs[0].result.exists()


def test_another_setting_is_refused_by_name(stopped: tuple[Subject, int, str], run_cli: RunCli) -> None:
    subject, _, _ = stopped
    before = contents(subject.folder)
    done = run_cli([*subject.resume, "--batch-size", 7])
    assert done.returncode == 2, done.stderr
    assert "batch" in done.stderr
    assert "4" in done.stderr
    assert "7" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(subject.folder) == before


def test_missing_data_are_missed(stopped: tuple[Subject, int, str], run_cli: RunCli, tmp_path: Path) -> None:
    subject, _, _ = stopped
    before = contents(subject.folder)
    done = run_cli([*subject.resume, "--data-dir", tmp_path / "nowhere"])
    assert done.returncode == 3, done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(subject.folder) == before
    assert not (tmp_path / "nowhere").exists()


def test_a_usage_error_leaves_nothing_that_blocks_the_name(subject: Subject, run_cli: RunCli) -> None:
    done = run_cli([*subject.start, "--epochs", 0])
    assert done.returncode == 2, done.stderr
    assert "--epochs 0" in done.stderr
    assert not subject.folder.exists()


def test_ctrl_c_saves_and_exits_with_130(subject: Subject) -> None:
    code, err = subject.interrupt(subject.start, signal.SIGINT)
    assert code == 130, err
    assert "Traceback" not in err
    assert checkpoints.load_newest(subject.runs[0].checkpoints, pytest.fail).global_step > 0


def test_what_was_killed_resumes_from_its_checkpoint(subject: Subject, run_cli: RunCli) -> None:
    code, _ = subject.interrupt(subject.start, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = subject.step()
    if subject.kind == "trial":
        # A sweep takes no time limit: it has resumed once its trial is further on.
        code, err = subject.interrupt(subject.resume, signal.SIGTERM)
        assert code == 143, err
        assert subject.step() > before
        return
    done = run_cli([*subject.resume, "--time-limit", "0.001", "--json"])
    assert done.returncode == 0, done.stderr
    assert "Resuming after" in done.stderr
    assert [run.read_result().ended_by for run in subject.runs] == ["time limit"] * len(subject.runs)
    assert json.loads(done.stdout)


def test_each_prints_the_command_that_resumes(stopped: tuple[Subject, int, str]) -> None:
    subject, _, err = stopped
    assert (
        "Repeat the command to resume" in err
        if subject.kind == "trial"
        else f"--resume '{subject.folder}'" in err
    )
