"""`cifar-trainer runs`."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, json_option, print_json, verbosity, verbosity_options
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.run import RunList


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
    from cifar_trainer.run import list_runs

    output = Output(verbosity(ctx))
    listed = list_runs(folder)
    if as_json:
        print_json(listed.to_json())
    elif listed.runs:
        output.result(runs_table(listed))
    else:
        output.note(f"There is no run in {folder} yet. Start one with: cifar-trainer train")


def runs_table(listed: "RunList") -> "Table":
    """The runs, named by their path below the folder."""
    from rich.table import Table

    now = datetime.datetime.now().astimezone()
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("recipe", "data", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("epochs", "accuracy", "age", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in listed.runs:
        table.add_row(
            printable(str(Path(run.path).relative_to(listed.folder))),
            run.recipe or "",
            run.dataset or "",
            run.state,
            "" if run.epochs is None else f"{run.epochs_done} of {run.epochs}",
            "" if run.accuracy is None else f"{run.accuracy:.2%}",
            _age(run.started, now),
            f"{run.bytes / 1e6:.1f} MB",
        )
    return table


def _age(started: datetime.datetime | None, now: datetime.datetime) -> str:
    """Time since then in the largest unit that fits, such as `3 h`."""
    if started is None:
        return "unknown"
    seconds = (now - started).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
