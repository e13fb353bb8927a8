"""A run whose JSON files hold what this version did not write: named as damaged, never a traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import RunCli

from cifar_trainer.run import list_runs

#: What another hand may have written: the file, the key, and a value of another type.
DAMAGE = [
    ("config.json", "epochs", "2"),
    ("config.json", "learning_rate", None),
    ("config.json", "recipe", 7),
    ("config.json", "deterministic", "no"),
    ("environment.json", "started_at", "yesterday"),
    ("environment.json", "started_at", 5),
    ("result.json", "epochs", "two"),
    ("failure.json", "message", [1]),
]


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(trained_run, tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def change(path: Path, key: str, value: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, key: value}))


@pytest.mark.parametrize(("name", "key", "value"), DAMAGE)
def test_a_value_of_another_type_is_listed_as_damage_with_its_file_and_key(
    run: Path, name: str, key: str, value: Any
) -> None:
    change(run / name, key, value)
    (listed,) = list_runs(run.parent).runs
    assert listed.state == "damaged"
    assert listed.message is not None
    assert name in listed.message
    assert key in listed.message
    assert str(value) in listed.message or json.dumps(value) in listed.message


@pytest.mark.parametrize("command", ["evaluate", "export", "train"])
def test_a_number_that_is_text_is_one_message_in_each_command(
    run_cli: RunCli, run: Path, data_dir: Path, command: str
) -> None:
    change(run / "config.json", "epochs", "2")
    arguments = ["--resume", run] if command == "train" else [run]
    done = run_cli([command, *arguments, "--data-dir", data_dir])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "config.json" in done.stderr
    assert "epochs" in done.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", "future"),
        ("precision", "float8"),
        ("device", "tpu"),
    ],
)
def test_a_run_of_a_newer_version_is_named_as_such_and_not_as_an_option(
    run_cli: RunCli, run: Path, data_dir: Path, key: str, value: str
) -> None:
    change(run / "config.json", key, value)
    done = run_cli(["evaluate", run, "--data-dir", data_dir])
    assert done.returncode == 1, done.stderr
    assert f"--{key}" not in done.stderr
    assert repr(value) in done.stderr
