"""Click options made from the declarations in `settings`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from cifar_trainer.cli.base import DATASET, RECIPE, Duration
from cifar_trainer.recipes import RECIPES
from cifar_trainer.settings import Declaration

Command = Callable[..., Any]

#: Settings whose values the shell can complete.
_NAMES: Mapping[str, Any] = {"recipe": RECIPE, "dataset": DATASET}


def choices(values: Iterable[str]) -> str:
    """A metavar that lists choices; `settings` checks the value."""
    return f"[{'|'.join(values)}]"


def setting_options(declarations: Iterable[Declaration]) -> Callable[[Command], Command]:
    """Add an option for each declaration, in order. Options default to None."""

    def decorate(command: Command) -> Command:
        for declaration in reversed(list(declarations)):
            command = setting_option(declaration)(command)
        return command

    return decorate


def setting_option(declaration: Declaration) -> Callable[[Command], Command]:
    """Add the option of one declaration."""
    default = f"  [default: {declaration.shown_default}]" if declaration.shown_default else ""
    kind: Mapping[str, Any]
    if declaration.type is bool:
        kind = {"is_flag": True}
    else:
        kind = {
            "type": Duration() if declaration.seconds else _NAMES.get(declaration.name, declaration.type),
            "metavar": _metavar(declaration),
        }
    name = declaration.option
    if declaration.type is bool and declaration.optional:
        name, kind = f"{name}/--no-{name.removeprefix('--')}", {}
    variable = declaration.variable and f"  [env: {declaration.variable}]"
    return click.option(
        name, declaration.name, default=None, show_default=False, envvar=declaration.variable,
        help=declaration.help + default + (variable or ""), **kind,
    )  # fmt: skip


def _metavar(declaration: Declaration) -> str | None:
    if declaration.name == "recipe":
        return choices([*RECIPES, "FILE.py"])
    return declaration.metavar or (choices(declaration.choices) if declaration.choices else None)


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set on the command line or in the environment."""
    return {name: value for name, value in options.items() if value is not None}
