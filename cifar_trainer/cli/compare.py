"""`cifar-trainer compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    PathType,
    data_dir_option,
    json_option,
    plot_option,
    print_json,
    save_plot,
    verbosity,
    verbosity_options,
)
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.comparison import Comparison, Group


@click.command(name="compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=PathType())
@click.option(
    "--split",
    default="test",
    metavar="[test|validation]",
    help="The test set, or the held-out images of runs that held out the same ones.",
)
@plot_option("Draw the learning curves and the accuracies.")
@data_dir_option("compare")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    runs: tuple[Path, ...],
    split: str,
    plot: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Compare runs by accuracy, loss, time and energy, and test whether they differ.

    Runs that differ only by their seed form a group: mean, standard deviation, n. Each
    run is tested against the first on the same images (McNemar's test). A run that has
    not been evaluated yet is evaluated first.

    \b
    Examples:
      cifar-trainer compare runs/seed-0 runs/seed-1
      cifar-trainer compare runs/document-* runs/regularized-* --plot comparison.png
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.comparison import compare

    output = Output(verbosity(ctx))
    comparison = compare(
        runs, split=split, data_dir=data_dir, on_evaluate=lambda run: output.note(f"evaluating {run}")
    )
    if plot is not None:
        from cifar_trainer.comparison import comparison_figure
        from cifar_trainer.plots import LIGHT

        save_plot(plot, comparison_figure(comparison, LIGHT))
        output.note(f"figure: {plot}")
    if as_json:
        print_json(comparison.to_json())
        return
    output.result(runs_table(comparison))
    if len(comparison.groups) < len(comparison.runs):
        output.result(groups_table(comparison.groups))
    output.result(tests_table(comparison))


def runs_table(comparison: "Comparison") -> "Table":
    """One row a run."""
    from rich.table import Table

    # Without an NVIDIA GPU nothing was measured, and the column would be empty.
    measured = any(each.joules is not None for each in comparison.runs)
    table = Table(title=f"{comparison.images:,} images of the {comparison.split} split", box=None)
    table.add_column("run", overflow="fold")
    table.add_column("recipe", no_wrap=True)
    energy = ["energy"] if measured else []
    names = ("seed", "accuracy", "95 %", "loss", "epochs", "time", *energy, "parameters", "test looks")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in comparison.runs:
        table.add_row(
            printable(each.run.path.resolve().name),
            each.config.recipe,
            str(each.config.seed),
            f"{each.accuracy:.2%}",
            f"{each.interval[0] * 100:.1f}–{each.interval[1] * 100:.1f}",
            f"{each.loss:.4f}",
            str(each.epochs),
            f"{each.seconds:,.0f} s",
            *([] if not measured else ["–" if each.joules is None else f"{each.joules:,.0f} J"]),
            f"{each.parameters:,}",
            str(each.test_looks),
        )
    return table


def groups_table(groups: "tuple[Group, ...]") -> "Table":
    """One row a group: the mean over the seeds, and the standard deviation."""
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
    """One row for each run against the first."""
    from rich.table import Table

    first = printable(comparison.runs[0].run.path.resolve().name)
    table = Table(title=f"against {first}, by McNemar's test", box=None)
    table.add_column("run", overflow="fold")
    for name in ("only FIRST correct", "only RUN correct", "chi-square", "p, exact"):
        table.add_column(name, justify="right", no_wrap=True)
    for each, test in zip(comparison.runs[1:], comparison.tests, strict=True):
        table.add_row(
            printable(each.run.path.resolve().name),
            f"{test.only_first:,}",
            f"{test.only_second:,}",
            f"{test.statistic:.2f}",
            f"{test.p_value:.2g}",
        )
    return table
