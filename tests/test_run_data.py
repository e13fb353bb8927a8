"""A run remembers where its data were, and takes no others."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import RunCli, run_here

from cifar_trainer.errors import RunError
from cifar_trainer.run import Run


@pytest.fixture(scope="module")
def begun(run_cli: RunCli, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, trained with a relative --data-dir; its data lie beside it in `mine`."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(small_data, folder / "mine")
    data = ["--dataset", "synthetic", "--data-dir", "mine", "--limit", 64]
    done = run_cli(["train", *data, "--epochs", 1, "--run-dir", folder / "run"], cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, which has the same data."""
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def gone(begun: Path) -> Iterator[None]:
    """The run's data are away as long as the test lasts."""
    (begun.parent / "mine").rename(begun.parent / "away")
    yield
    (begun.parent / "away").rename(begun.parent / "mine")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder without data, from which a command is called."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the data that a command in this process loads; the command then ends."""
    folders: list[Path] = []
    load_data = Run.load_data

    def load(run: Run, *arguments: Any, **options: Any) -> None:
        folders.append(load_data(run, *arguments, **options).folder)
        raise RunError("that is enough")

    monkeypatch.setattr(Run, "load_data", load)
    return folders


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_run_finds_its_own_data_from_another_folder(
    begun: Path, loaded: list[Path], elsewhere: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(elsewhere)
    assert "that is enough" in run_here([command, begun]).stderr
    assert loaded == [begun.parent / "mine" / "synthetic"]


def test_a_run_that_is_resumed_in_another_folder_finds_its_own_data(
    run_cli: RunCli, run: Path, elsewhere: Path
) -> None:
    done = run_cli(["train", "--resume", run, "--epochs", "2", "--offline"], cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("gone")
def test_the_option_comes_before_what_the_run_remembers(
    run: Path, loaded: list[Path], small_data: Path
) -> None:
    assert "that is enough" in run_here(["evaluate", run, "--data-dir", small_data]).stderr
    assert loaded == [small_data / "synthetic"]


@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize(
    "command",
    [
        "evaluate",
        "export",
        "train",
    ],
)
def test_a_run_whose_data_are_gone_begins_no_download(
    run_cli: RunCli, run: Path, elsewhere: Path, command: str
) -> None:
    """No mirror is asked either: this one would be named in the message."""
    arguments = ["--resume", run, "--epochs", 2] if command == "train" else [run]
    mirrors = {"CIFAR_TRAINER_MIRRORS": "http://127.0.0.1:9/cifar-10-python.tar.gz"}
    done = run_cli([command, *arguments], cwd=elsewhere, env=mirrors)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "127.0.0.1" not in done.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    ["evaluate", "export", "train"],
)
def test_other_data_than_the_runs_is_exit_code_3_in_every_command(
    run_cli: RunCli, run: Path, small_data: Path, tmp_path: Path, command: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_data, other)
    record = json.loads((other / "synthetic" / "dataset.json").read_text())
    for split in ("train", "test"):
        record[split]["fingerprint"] = "0" * 64
    (other / "synthetic" / "dataset.json").write_text(json.dumps(record))
    arguments = ["--resume", run, "--epochs", 2] if command == "train" else [run]
    done = run_cli([command, *arguments, "--data-dir", other])
    assert done.returncode == 3, done.stderr
    assert "different data" in done.stderr
    assert "Traceback" not in done.stderr
