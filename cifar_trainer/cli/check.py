"""`cifar-trainer check`: a group with one command per check."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import DATASET, RECIPE, PathType, RunType, data_dir_option, make_command
from cifar_trainer.errors import CheckError, UsageError
from cifar_trainer.recipes import RECIPES
from cifar_trainer.settings import DEVICES

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.checks.data_report import DataCheck
    from cifar_trainer.checks.training import TrainingCheck
    from cifar_trainer.cli.console import Output


@click.group("check")
def command() -> None:
    """Check data or training. The exit code is 4 if a check fails.

    \b
    Examples:
      cifar-trainer check data
      cifar-trainer check training
    """


@make_command("check data")
@click.option("--dataset", type=DATASET, help="Data set to check.  [default: the run's, or cifar10]")
@click.option(
    "--run", type=RunType(), help="Run whose network compares images.  [default: a network trained here]"
)
@data_dir_option()
@click.option("--allow", type=int, metavar="N", help="Exit with code 4 if more than N labels are suspect.")
def data(
    output: "Output", /, dataset: str | None, run: Path | None, data_dir: Path | None, allow: int | None
) -> None:
    """Find copies of images and suspect labels in a data set. Changes nothing.

    Writes to DATA_DIR/DATASET/check/: report.html, a page with pictures; groups.csv, images that are copies
    or near-duplicates; suspects.csv, labels that are probably wrong. Exits with code 4 if the test set
    contains copies of training images.

    \b
    Examples:
      cifar-trainer check data
      cifar-trainer check data --dataset pets --allow 20
      cifar-trainer check data --run runs/seed-1 --json
    """
    if allow is not None and allow < 0:
        raise UsageError(f"--allow {allow} is out of range. Expected 0 or more.")
    from cifar_trainer.checks.data import check_data

    with output.counting() as show:
        result = check_data(dataset, run=run, data_dir=data_dir, verbose=output.verbose, on_progress=show)
    output.result(result, format_check)
    output.note(f"report: {result.report}", wrap=False)
    if result.across_splits:
        raise CheckError(
            "Test images with a copy or near-duplicate among the training images: "
            f"{result.across_splits:,}. See {result.report}."
        )
    if allow is not None and result.label_suspects > allow:
        raise CheckError(
            f"Suspect labels: {result.label_suspects:,}, more than --allow {allow}. See {result.report}."
        )


def format_check(result: "DataCheck") -> str:
    """One line per finding."""
    lines = [f"{result.dataset}: {result.images:,} images"]
    lines += [f"  {finding.message}" for finding in result.findings] or ["  Nothing found."]
    return "\n".join(lines)


command.add_command(data)


@make_command("check training")
@click.option(
    "--recipe", type=RECIPE, default="tutorial", metavar=f"[{'|'.join(RECIPES)}|FILE.py]",
    help="Recipe to check.",
)  # fmt: skip
@click.option("--dataset", type=DATASET, default="cifar10", help="Data set; only training images are used.")
@data_dir_option(help="Folder of the prepared data sets.  [default: data]")
@click.option(
    "--output", type=PathType(), metavar="FILE", help="Page to write.  [default: runs/check-RECIPE.html]"
)
@click.option("--device", default="auto", metavar=f"[{'|'.join(DEVICES)}]", help="Device to compute on.")
def training(console: "Output", /, data_dir: Path | None, **options: Any) -> None:
    """Check how a recipe trains: gradients, layers, learning rate, augmentation.

    Trains briefly on training images, and writes a page that shows each number beside the expected one. Keeps
    no model. Exits with code 4 if a check fails.

    \b
    Examples:
      cifar-trainer check training
      cifar-trainer check training --recipe my_recipe.py
      cifar-trainer check training --recipe regularized --json
    """
    from cifar_trainer.checks.training import check_training

    if data_dir is not None:
        options["data_dir"] = data_dir
    with console.counting() as show:
        result = check_training(**options, verbose=console.verbose, on_progress=show)
    console.result(result, checks_table)
    console.note(f"report: {result.report}", wrap=False)
    result.require_passed()


def checks_table(result: "TrainingCheck") -> "Table":
    """One row per check."""
    from rich.table import Table

    from cifar_trainer.checks.training import format_number

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("expected", overflow="fold")
    for check in result.checks:
        table.add_row(
            check.name, "passed" if check.passed else "FAILED", format_number(check.measured), check.expected
        )
    return table


command.add_command(training)
