"""docs/command-line.md, which scripts rely on, says what the commands have."""

import dataclasses
import re
from pathlib import Path

import click
import pytest

from cifar_trainer.benchmarking import Latency, Throughput, Timing
from cifar_trainer.cli import COMMANDS, main
from cifar_trainer.cli.base import EXIT_CODES
from cifar_trainer.run import TrainResult
from cifar_trainer.runs import Listed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def section(command: str) -> str:
    found = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, command
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented_with_its_options_and_no_others(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    everywhere = {"--quiet", "--verbose"}
    options = {opt for each in command.params if isinstance(each, click.Option) for opt in each.opts}
    listed = re.search(r"^Options: (.*?)\n\n", section(name), re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"--[a-z-]+", listed[1])) == {o for o in options if o.startswith("--")} - everywhere


@pytest.mark.parametrize(
    ("name", "kind"),
    [("train", TrainResult), ("runs", Listed), ("benchmark", Latency), ("benchmark", Timing),
     ("benchmark", Throughput)],
)  # fmt: skip
def test_the_keys_of_a_result_are_documented(name: str, kind: type) -> None:
    told = set(re.findall(r"`(\w+)`", section(name)))
    assert {field.name for field in dataclasses.fields(kind)} <= told


def test_every_exit_code_is_documented() -> None:
    told = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(",")
    }
    assert told == {0, 129, 130, 143} | {code for _, code in EXIT_CODES}


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in COMMANDS)
