"""`cifar-trainer runs`."""

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, json_option, print_json, verbosity, verbosity_options
from cifar_trainer.errors import RunError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.runs import Listed


@click.command(name="runs")
@click.argument("folder", type=PathType(), default=Path("runs"))
@json_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """List the runs in a folder, the newest first.

    Accuracy is on the validation split after the last complete epoch.

    \b
    Examples:
      cifar-trainer runs
      cifar-trainer runs experiments --json
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.runs import list_runs

    output = Output(verbosity(ctx))
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise RunError(f"{folder} {what}; expected a folder of runs. Start one with: cifar-trainer train")
    runs = list_runs(folder)
    if as_json:
        print_json({"folder": str(folder), "runs": [run.to_json() for run in runs]})
    elif runs:
        output.result(runs_table(runs, folder))
    else:
        output.note(f"There is no run in {folder} yet. Start one with: cifar-trainer train")


def runs_table(runs: "list[Listed]", folder: Path) -> "Table":
    """The runs as a table, named by their place below `folder`."""
    from rich.table import Table

    from cifar_trainer.runs import age

    now = datetime.datetime.now().astimezone()
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("recipe", "data", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("epochs", "accuracy", "age", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            printable(str(Path(run.path).relative_to(folder))),
            run.recipe or "",
            run.dataset or "",
            run.state,
            "" if run.epochs is None else f"{run.epochs_done} of {run.epochs}",
            "" if run.accuracy is None else f"{run.accuracy:.2%}",
            age(run.started, now),
            f"{run.bytes / 1e6:.1f} MB",
        )
    return table
