"""`train` refuses what cannot be, before anything is written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import RunCli

from cifar_trainer.cli.train import command
from cifar_trainer.errors import RunError, TrainingStopped
from cifar_trainer.run import check_new, new_run
from cifar_trainer.training import api


def refused(run_cli: RunCli, cwd: Path, *arguments: str | Path, code: int = 2) -> str:
    """Run `train`; check the code, that there is one message and no traceback, and no run."""
    done = run_cli(["train", *map(str, arguments)], cwd=cwd)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error: ") == 1
    assert not (cwd / "runs").exists()
    return done.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--epochs", "0", "--epochs 0 is out of range. Expected a whole number from 1 up."),
        ("--checkpoint-every", "0", "--checkpoint-every 0.0 is out of range"),
        ("--checkpoint-every", "nan", "'nan' is not a duration"),
        ("--time-limit", "soon", "such as 90s, 10m or 2h"),
        ("--recipe", "tutoral", "Did you mean 'tutorial'?"),
        ("--dataset", "cifer10", "Did you mean 'cifar10'?"),
    ],
)
def test_a_value_that_is_not_possible_is_one_message(
    run_cli: RunCli, tmp_path: Path, option: str, value: str, says: str
) -> None:
    """What each setting takes is tried in test_settings.py."""
    assert says in refused(run_cli, tmp_path, option, value)


def test_a_batch_larger_than_the_data_names_the_largest_possible(
    run_cli: RunCli, tmp_path: Path, small_data: Path
) -> None:
    message = refused(
        run_cli,
        tmp_path,
        "--dataset",
        "synthetic",
        "--data-dir",
        small_data,
        "--limit",
        50,
        "--batch-size",
        51,
    )
    assert "--batch-size 51" in message
    assert "the largest possible is 50" in message


def test_a_limit_larger_than_the_data_names_the_largest_possible(
    run_cli: RunCli, tmp_path: Path, small_data: Path
) -> None:
    message = refused(
        run_cli, tmp_path, "--dataset", "synthetic", "--data-dir", small_data, "--limit", 10_000_000
    )
    assert "the largest possible is" in message


def test_without_data_it_names_the_ways_out_and_never_trains_on_something_else(
    run_cli: RunCli, tmp_path: Path
) -> None:
    message = refused(run_cli, tmp_path, "--offline", "--data-dir", tmp_path / "none", code=3)
    assert "--source" in message
    assert "--dataset synthetic" in message


def test_a_run_folder_that_exists_is_left_alone(run_cli: RunCli, tmp_path: Path, small_data: Path) -> None:
    common = ["--dataset", "synthetic", "--data-dir", small_data, "--run-dir"]
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    message = refused(run_cli, tmp_path, *common, run, code=1)
    assert "--resume" in message
    assert (run / "config.json").read_text() == "{}"
    assert [path.name for path in run.iterdir()] == ["config.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("dear")
    assert "another --run-dir" in refused(run_cli, tmp_path, *common, other, code=1)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    a_file = tmp_path / "file"
    a_file.write_text("x")
    assert "another --run-dir" in refused(run_cli, tmp_path, *common, a_file, code=1)
    assert a_file.read_text() == "x"


def test_what_a_run_leaves_that_was_killed_before_it_began_does_not_take_its_name(tmp_path: Path) -> None:
    (tmp_path / "run" / ".partial-config.json-x").mkdir(parents=True)
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "environment.json").write_text("{}")
    with new_run(tmp_path / "run", "tutorial") as run:
        assert not list(run.path.glob(".partial-*"))
        run.config.write_text("{}")
    with pytest.raises(RunError, match="already holds a run"):
        check_new(tmp_path / "run")


def test_runs_that_begin_in_the_same_second_get_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def begin(_: int) -> Path:
        with new_run(None, "tutorial") as run:
            run.config.write_text("{}")
            return run.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(begin, range(24)))
    assert len(set(paths)) == 24


@pytest.mark.parametrize("where", ["/proc/nothing/run", "x" * 300])
def test_a_run_folder_that_cannot_be_written_is_named(
    run_cli: RunCli, tmp_path: Path, small_data: Path, where: str
) -> None:
    """A folder that takes no entries, for root neither, and a name that is too long."""
    message = refused(
        run_cli, tmp_path, "--dataset", "synthetic", "--data-dir", small_data, "--run-dir", where, code=1
    )
    assert where in message
    assert "another --run-dir" in message


def test_resume_of_no_run_says_what_is_there(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "does not exist" in refused(run_cli, tmp_path, "--resume", tmp_path / "nowhere", code=1)
    assert "notes.txt" in refused(run_cli, tmp_path, "--resume", tmp_path, code=1)


def test_the_command_that_resumes_has_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**options: object) -> None:
        raise TrainingStopped(Path("runs/one"))

    monkeypatch.setattr(api, "train", stopped)
    done = CliRunner().invoke(command, ["--time-limit", "1.5m"])
    assert "cifar-trainer train --resume runs/one --time-limit 90" in done.stderr
