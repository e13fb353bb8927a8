"""`cifar-trainer check`: a group with one command per check."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import DATASET, RunType, data_dir_option, make_command
from cifar_trainer.errors import CheckError, UsageError

if TYPE_CHECKING:
    from cifar_trainer.checks.data_report import DataCheck
    from cifar_trainer.cli.console import Output


@click.group("check")
def command() -> None:
    """Check data or training. The exit code is 4 if a check fails.

    \b
    Examples:
      cifar-trainer check data
    """


@make_command("check data")
@click.option("--dataset", type=DATASET, help="Data set to check.  [default: the run's, or cifar10]")
@click.option("--run", type=RunType(), help="Run whose features are compared.  [default: a short training]")
@data_dir_option()
@click.option("--allow", type=int, metavar="N", help="Exit with code 4 if more than N labels are suspect.")
def data(
    output: "Output", /, dataset: str | None, run: Path | None, data_dir: Path | None, allow: int | None
) -> None:
    """Find copies of images and suspect labels in a data set. Changes nothing.

    Writes DATA_DIR/DATASET/check/: report.html, one page with pictures; groups.csv, images
    that are copies or nearly copies; suspects.csv, labels that are probably wrong. Exits with
    code 4 if copies of training images are in the test set.

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
            "Test images with a copy, or nearly a copy, among the training images: "
            f"{result.across_splits:,}. See {result.report}."
        )
    if allow is not None and result.label_suspects > allow:
        raise CheckError(
            f"{result.label_suspects:,} labels are suspect; --allow {allow} permits {allow:,}. "
            f"See {result.report}."
        )


def format_check(result: "DataCheck") -> str:
    """One line per finding."""
    lines = [f"{result.dataset}: {result.images:,} images"]
    lines += [f"  {finding.message}" for finding in result.findings] or ["  Nothing found."]
    return "\n".join(lines)


command.add_command(data)
