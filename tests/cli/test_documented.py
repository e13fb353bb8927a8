"""docs/command-line.md, which scripts rely on, says what the commands have."""

import dataclasses
import re
from pathlib import Path

import click
import pytest
from command_line import all_commands

from cifar_trainer.benchmarking import Latency, Throughput
from cifar_trainer.checks.data_report import DataCheck
from cifar_trainer.checks.findings import Finding
from cifar_trainer.cli import COMMANDS
from cifar_trainer.cli.base import EXIT_CODES
from cifar_trainer.cli.train import command as train
from cifar_trainer.recipes import Expected
from cifar_trainer.recipes.catalogue import RecipeInfo
from cifar_trainer.run import ListedRun, TrainResult
from cifar_trainer.sweeps.result import Confirmed, SweepResult, Trial
from cifar_trainer.training.api import Reproduction

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def section(command: str) -> str:
    found = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, command
    return found[1]


@pytest.mark.parametrize(("name", "command"), all_commands().items(), ids=all_commands())
def test_each_command_is_documented_with_its_options_and_no_others(name: str, command: click.Command) -> None:
    everywhere = {"--quiet", "--verbose"}
    options = {opt for each in command.params if isinstance(each, click.Option) for opt in each.opts}
    listed = re.search(r"^Options: (.*?)\n\n", section(name), re.MULTILINE | re.DOTALL)
    assert listed is not None
    named = set(re.findall(r"--[a-z0-9-]+", listed[1]))
    if "those of `train`" in listed[1]:
        of_train = {opt for each in train.params if isinstance(each, click.Option) for opt in each.opts}
        options -= of_train - named
    assert named == {o for o in options if o.startswith("--")} - everywhere


def documented_keys(command: str, within: str | None = None) -> set[str]:
    """The keys that a command's `--json` has, or those in the brackets behind the key `within`."""
    found = re.search(r"`--json`: (.*?)(?:\.\s|\.?\Z)", section(command), re.DOTALL)
    assert found is not None, command
    text = found[1]
    if within is not None:
        text = inside(text[text.index(f"`{within}` (") + len(within) + 3 :])
    return set(re.findall(r"`(\w+)`", without_brackets(text)))


def inside(text: str) -> str:
    """What a text that begins with an opening bracket has in it, up to the closing one."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[1:place]
    raise ValueError(text)


def without_brackets(text: str) -> str:
    """A text without what stands in brackets, and without what a list within it holds."""
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return re.sub(r": a list of.*", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("command", "within", "kind"),
    [
        ("train", None, TrainResult),
        ("runs", "runs", ListedRun),
        ("benchmark", "artefacts", Latency),
        ("benchmark", "training", Throughput),
        ("check data", None, DataCheck),
        ("check data", "findings", Finding),
        ("reproduce", None, Reproduction),
        ("recipes", "recipes", RecipeInfo),
        ("recipes", "expected", Expected),
        ("sweep", None, SweepResult),
        ("sweep", "trials", Trial),
        ("sweep", "confirmed", Confirmed),
    ],
)
def test_the_keys_of_a_result_are_documented_and_no_others(
    command: str, within: str | None, kind: type
) -> None:
    assert documented_keys(command, within) == {field.name for field in dataclasses.fields(kind)}


def test_every_exit_code_is_documented() -> None:
    told = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(",")
    }
    assert told == {0, 129, 130, 143} | {code for _, code in EXIT_CODES}


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in COMMANDS)
