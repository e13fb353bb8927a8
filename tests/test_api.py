"""Each command has a function of the package: the same arguments and defaults, and the result it prints."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import all_commands

import cifar_trainer
from cifar_trainer.results import Result
from cifar_trainer.settings import RuntimeOptions, Settings, declared

COMMANDS = all_commands()
#: The functions of commands whose names are not those of an action.
NAMES = {
    "check data": "check_data",
    "check training": "check_training",
    "recipes": "list_recipes",
    "runs": "list_runs",
    "env": "environment",
}
#: Options that only a command needs: what it prints and draws, and how it ends.
OF_COMMANDS = {"as_json", "as_csv", "quiet", "verbose", "run_option", "plot"}
#: Others, by command, with the reason.
OTHERS: dict[str, set[str]] = {
    "prepare": {"path"},  # Refused: it reminds of --source.
    "train": {
        "resume",  # The function `resume`.
        "from_trial", "gpus",  # They start `train` with other settings, or in several processes.
    },
    "evaluate": {"require_accuracy"},  # An exit code: a script compares the accuracy itself.
    "check data": {"allow"},  # An exit code, too.
    "recipes": {"data_dir", "augment"},  # For --plot.
    "serve": set(),
}  # fmt: skip


def function_of(command: str) -> Any:
    return getattr(cifar_trainer, NAMES.get(command, command))


def options_of(command: str) -> dict[str, click.Parameter]:
    return {str(parameter.name): parameter for parameter in COMMANDS[command].params}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_function_with_its_options_as_arguments(command: str) -> None:
    function = function_of(command)
    assert NAMES.get(command, command) in cifar_trainer.__all__
    parameters = inspect.signature(function).parameters
    arguments = set(parameters)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        # Those of `train`.
        arguments |= {*declared(Settings), *declared(RuntimeOptions), "data_dir"}
    assert set(options_of(command)) - OF_COMMANDS - OTHERS.get(command, set()) - arguments == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_function_has_the_defaults_of_its_command(command: str) -> None:
    """Without those that the command leaves to the function: None, a flag, nothing."""
    arguments = inspect.signature(function_of(command)).parameters
    typed = {
        name: option.default
        for name, option in options_of(command).items()
        if name in arguments and isinstance(option.default, str | int | float | Path | list | tuple)
    }
    given = {name: value for name, value in typed.items() if value not in (False, [], ())}
    # What may be given several times is a list for the command, and may be one value for the function.
    ours = {name: arguments[name].default for name in given}
    assert {name: many(value) for name, value in given.items()} == {n: many(v) for n, v in ours.items()}


def many(value: object) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


FUNCTIONS = sorted(set(cifar_trainer.__all__) - {"__version__", "errors"})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_path_may_be_a_text_or_a_path(name: str) -> None:
    parameters = inspect.signature(getattr(cifar_trainer, name)).parameters.values()
    hints = {each.name: inspect.formatannotation(each.annotation) for each in parameters}
    paths = {key: hint for key, hint in hints.items() if "Path" in hint and "Callable" not in hint}
    assert {key: hint for key, hint in paths.items() if not re.search(r"\bstr\b", hint)} == {}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("load_run", "serve")])
def test_each_function_returns_a_result_that_can_be_printed_as_json(name: str) -> None:
    returned = inspect.formatannotation(inspect.signature(getattr(cifar_trainer, name)).return_annotation)
    kinds = {kind.strip(" '\"").rpartition(".")[2] for kind in returned.split("|")}
    import_module("cifar_trainer.evaluation.report")
    results = Result.__subclasses__()
    results += [kind for each in results for kind in each.__subclasses__()]
    assert kinds <= {kind.__name__ for kind in results}


def test_a_notebook_shows_a_result_as_a_table_with_names_escaped() -> None:
    from cifar_trainer.run import ListedRun, RunList

    runs = tuple(ListedRun(path=f"runs/<{i}>", state="finished", bytes=i) for i in range(30))
    shown = RunList("runs", runs)._repr_html_()
    assert shown.startswith("<table>")
    assert "runs/&lt;7&gt;" in shown
    assert "and 10 more" in shown
    assert "runs/<7>" not in shown
