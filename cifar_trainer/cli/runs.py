"""`cifar-trainer runs`."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, make_command
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.run import RunList


@make_command("runs")
@click.argument("folder", type=PathType(), default=Path("runs"))
def command(output: "Output", /, folder: Path) -> None:
    """List the runs in a folder, the newest first.

    Accuracy is on the validation split after the last complete epoch.

    \b
    Examples:
      cifar-trainer runs
      cifar-trainer runs experiments --json
    """
    from cifar_trainer.run import list_runs

    listed = list_runs(folder)
    if not listed.runs:
        output.note(f"No runs in {folder} yet. Start one with: cifar-trainer train")
    output.result(listed, lambda listed: runs_table(listed, output.width))


def runs_table(listed: "RunList", width: int) -> "list[Table]":
    """One row per run, named by its path below the folder; no table without runs."""
    from cifar_trainer.cli.console import fitting_table

    now = datetime.datetime.now().astimezone()
    rows = [
        {
            "run": printable(str(Path(run.path).relative_to(listed.folder))),
            "recipe": run.recipe or "",
            "data": run.dataset or "",
            "state": run.state,
            "epochs": "" if run.epochs is None else f"{run.epochs_done} of {run.epochs}",
            "accuracy": "" if run.accuracy is None else f"{run.accuracy:.2%}",
            "age": _age(run.started, now),
            "size": f"{run.bytes / 1e6:.1f} MB",
        }
        for run in listed.runs
    ]
    table = fitting_table(
        rows,
        width,
        left=("run", "recipe", "data", "state"),
        less_important=("size", "age", "data", "recipe", "epochs", "state", "accuracy"),
    )
    return [table] if rows else []


def _age(started: datetime.datetime | None, now: datetime.datetime) -> str:
    """Age in the largest unit that fits, such as `3 h`."""
    if started is None:
        return "unknown"
    seconds = (now - started).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
