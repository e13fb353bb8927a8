"""`~` in a path is the home folder, in whatever way the path was given."""

from pathlib import Path

import click
import pytest
from command_line import RunCli, all_commands

#: Addresses and lists that may hold a path; `-` is standard input.
PATH_OPTIONS = {"--source", "--output", "--plot", "--run", "--model"}


def path_parameters() -> list[tuple[str, str]]:
    """(command, parameter) of whatever takes a path."""
    found = []
    for name, command in all_commands().items():
        for each in command.params:
            if isinstance(each.type, click.Path) or PATH_OPTIONS & set(each.opts):
                found.append((name, str(each.name)))
    return found


@pytest.mark.parametrize(("name", "parameter"), path_parameters(), ids=str)
def test_a_tilde_in_any_path_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, name: str, parameter: str
) -> None:
    monkeypatch.setenv("HOME", "/home/of-the-test")
    command = all_commands()[name]
    each = next(each for each in command.params if each.name == parameter)
    several = each.multiple if isinstance(each, click.Option) else each.nargs != 1
    given = each.type_cast_value(click.Context(command), ["~/x"] if several else "~/x")
    (found,) = given if several else [given]
    assert str(found) == "/home/of-the-test/x"


def test_a_tilde_in_the_variable_of_the_data_folder_is_the_home_folder(
    run_cli: RunCli, tmp_path: Path
) -> None:
    env = {"CIFAR_TRAINER_DATA": "~/data", "HOME": str(tmp_path)}
    done = run_cli(["train", "--offline", "--run-dir=~/run"], cwd=tmp_path, env=env)
    assert done.returncode == 3
    assert str(tmp_path / "data") in done.stderr
    assert not (tmp_path / "~").exists()
