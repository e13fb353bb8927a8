"""`cifar-trainer compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import RunType, data_dir_option, make_command, plot_option, save_plot
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.comparison import Comparison, Group


@make_command("compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=RunType())
@click.option(
    "--split",
    default="test",
    metavar="[test|validation]",
    help="The test set, or the held-out images, which must be the same in all runs.",
)
@plot_option("Draw the learning curves and the accuracies.")
@data_dir_option()
def command(
    output: "Output", /, runs: tuple[Path, ...], split: str, plot: Path | None, data_dir: Path | None
) -> None:
    """Compare runs by accuracy, loss, time and energy, and test whether they differ.

    Runs that differ only by their seed form a group with mean, standard deviation and n.
    Each run is tested against the first on the same images (McNemar's test). Runs without
    a report are evaluated first.

    \b
    Examples:
      cifar-trainer compare runs/seed-0 runs/seed-1
      cifar-trainer compare runs/tutorial-* runs/regularized-* --plot comparison.png
    """
    from cifar_trainer.comparison import compare, comparison_figure

    comparison = compare(
        runs, split=split, data_dir=data_dir, on_evaluate=lambda run: output.note(f"evaluating {run}")
    )
    if plot is not None:
        from cifar_trainer.plots import LIGHT

        save_plot(plot, comparison_figure(comparison, LIGHT))
        output.note(f"figure: {plot}")
    output.result(comparison, lambda comparison: comparison_tables(comparison, output.width))


def comparison_tables(comparison: "Comparison", width: int) -> "list[Table]":
    """Tables of the runs, of groups with several runs, and of the tests."""
    grouped = len(comparison.groups) < len(comparison.runs)
    groups = [groups_table(comparison.groups)] if grouped else []
    return [runs_table(comparison, width), *groups, tests_table(comparison)]


def runs_table(comparison: "Comparison", width: int) -> "Table":
    """One row per run; drops the least important columns to fit into `width`."""
    from cifar_trainer.cli.console import fitting_table

    rows = [
        {
            "run": printable(each.run.path.resolve().name),
            "recipe": each.config.recipe,
            "seed": str(each.config.seed),
            "accuracy": f"{each.accuracy:.2%}",
            "95 %": f"{each.interval[0] * 100:.1f}–{each.interval[1] * 100:.1f}",
            "loss": f"{each.loss:.4f}",
            "epochs": str(each.epochs),
            "time": f"{each.seconds:,.0f} s",
            "energy": "" if each.joules is None else f"{each.joules:,.0f} J",
            "parameters": f"{each.parameters:,}",
            "test looks": str(each.test_looks),
        }
        for each in comparison.runs
    ]
    return fitting_table(
        rows,
        width,
        title=f"{comparison.images:,} images of the {comparison.split} split",
        left=("run", "recipe"),
        less_important=(
            "parameters",
            "test looks",
            "energy",
            "time",
            "epochs",
            "loss",
            "recipe",
            "95 %",
            "seed",
        ),
    )


def groups_table(groups: "tuple[Group, ...]") -> "Table":
    """One row per group: mean and standard deviation over the seeds."""
    from rich.table import Table

    table = Table(title="by settings, mean ± standard deviation over the seeds", box=None)
    table.add_column("settings", overflow="fold")
    for name in ("n", "accuracy", "loss", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        (accuracy, a), (loss, b), (seconds, c) = group.accuracy, group.loss, group.seconds
        table.add_row(
            group.name,
            str(len(group.runs)),
            f"{accuracy:.2%}" + ("" if a is None else f" ± {a:.2%}"),
            f"{loss:.4f}" + ("" if b is None else f" ± {b:.4f}"),
            f"{seconds:,.0f}" + ("" if c is None else f" ± {c:,.0f}") + " s",
        )
    return table


def tests_table(comparison: "Comparison") -> "Table":
    """One row for each run that is tested against the first."""
    from rich.table import Table

    first = printable(comparison.runs[0].run.path.resolve().name)
    table = Table(title=f"against {first}, by McNemar's test", box=None)
    table.add_column("run", overflow="fold")
    for name in ("only FIRST correct", "only RUN correct", "chi-square", "p, exact"):
        table.add_column(name, justify="right")
    for each, test in zip(comparison.runs[1:], comparison.tests, strict=True):
        table.add_row(
            printable(each.run.path.resolve().name),
            f"{test.only_first:,}",
            f"{test.only_second:,}",
            f"{test.statistic:.2f}",
            f"{test.p_value:.2g}",
        )
    return table
