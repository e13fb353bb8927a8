"""What a person sees: tables and bars of any width, notes and warnings, completion."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from command_line import run_here
from rich.console import Console

from cifar_trainer import cli, process
from cifar_trainer.cli import displays
from cifar_trainer.cli.console import Output, fitting_table
from cifar_trainer.errors import counted
from cifar_trainer.results import Result


def lines(table: object, width: int) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=width).print(table)
    return [line.rstrip() for line in shown.getvalue().splitlines()]


ROWS = [{"run": "20261123-143600-tutorial", "accuracy": "70.65%", "seed": "0", "size": "12.3 MB", "note": ""}]


@pytest.mark.parametrize(
    ("width", "columns"),
    [(120, ["run", "accuracy", "seed", "size"]), (34, ["run", "accuracy", "seed"]), (20, ["run"])],
)
def test_a_narrow_table_leaves_the_least_important_columns_out(width: int, columns: list[str]) -> None:
    """A column without any text is never there; none is cut to `…`."""
    table = fitting_table(ROWS, width, less_important=("size", "seed", "accuracy"))
    shown = lines(table, width)
    assert shown[0].split() == columns
    assert "…" not in "".join(shown)
    assert "".join(line.split()[0] for line in shown[1:]).startswith("20261123-143600-tutorial")
    assert all(len(line) <= width for line in shown)


FIGURES = {
    "step": "step 188/1563", "loss": "loss 1.2345", "accuracy": "accuracy 45.12%", "speed": "1,234 images/s",
    "left": "12:34 left",
}  # fmt: skip


@pytest.mark.parametrize(
    ("room", "kept"),
    [(80, "step loss accuracy speed left"), (55, "step loss accuracy left"), (40, "step loss left"),
     (25, "step loss"), (13, "step"), (5, "")],
)  # fmt: skip
def test_a_bar_keeps_the_figures_that_fit_and_the_most_important_ones_longest(room: int, kept: str) -> None:
    shown = displays._fitting(dict(FIGURES), room)
    assert shown == " ".join(FIGURES[name] for name in kept.split())
    assert len(shown) <= room


def test_quiet_hides_notes_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    for verbosity in (-1, 0):
        output = Output(verbosity)
        output.note("a note")
        output.warn("a warning")
        said = capsys.readouterr().err
        assert ("a warning" in said, "a note" in said) == (verbosity == 0, verbosity == 0)


class Answer(Result):
    """A result."""

    def to_json(self) -> dict[str, object]:
        return {"answer": 42}


def test_json_is_one_object_whatever_prints_while_a_command_works(capsys: pytest.CaptureFixture[str]) -> None:
    """A user's recipe, model.summary(), Keras's downloads."""
    output = Output(as_json=True)
    with output.redirecting():
        print("Downloading data from ...")
        output.result(Answer(), lambda answer: "for people")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"answer": 42}
    assert "Downloading" in said.err


def test_what_the_package_logs_is_shown_as_notes_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    log = logging.getLogger("cifar_trainer.somewhere")
    with Output().redirecting():
        log.info("loading")
        log.warning("no locks")
    assert capsys.readouterr().err == "loading\nWarning: no locks\n"
    log.warning("nobody is in charge")


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [(1, "epoch", "1 epoch"), (0, "run", "0 runs"), (1563, "step", "1,563 steps")],
)
def test_a_number_has_its_noun_in_the_right_number(count: int, noun: str, expected: str) -> None:
    assert counted(count, noun) == expected


def complete(words: list[str], incomplete: str) -> list[str]:
    completer = ShellComplete(cli.main, {}, "cifar-trainer", "_CIFAR_TRAINER_COMPLETE")
    return [item.value for item in completer.get_completions(words, incomplete)]


def test_the_shell_completes_runs_recipes_and_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/one", "runs/two"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.json").touch()
    (tmp_path / "data" / "pets").mkdir(parents=True)
    (tmp_path / "data" / "pets" / "dataset.json").touch()
    assert set(complete(["evaluate"], "")) == {"runs/one", "runs/two"}
    assert complete(["train", "--resume"], "runs/t") == ["runs/two"]
    assert complete(["train", "--dataset"], "p") == ["pets"]
    assert "regularized" in complete(["train", "--recipe"], "reg")
    assert "fast94" in complete(["benchmark", "--recipe"], "f")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_recipes_beside_files() -> None:
    program = Path(sys.executable).with_name("cifar-trainer")
    script = f"""
        eval "$(_CIFAR_TRAINER_COMPLETE=bash_source {program})"
        compopt() {{ :; }}  # It works in an interactive shell only.
        COMP_WORDS=(cifar-trainer train --recipe reg) COMP_CWORD=3
        _cifar_trainer_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "regularized\n", done.stderr


def test_a_recorded_command_is_what_was_typed_and_none_where_python_code_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["a.py", "--secret-token=abc"])
    monkeypatch.setattr(process, "command_line", None)
    from cifar_trainer.devices import choose_device, describe_environment

    assert describe_environment(choose_device("cpu"))["command_line"] is None
    run_here(["runs", tmp_path])
    assert process.command_line == f"cifar-trainer runs {tmp_path}"
