"""`cifar-trainer compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import RunType, data_dir_option, make_command, plot_option, save_plot
from cifar_trainer.errors import CheckError, UsageError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.comparison import Comparison, Decision, Group
    from cifar_trainer.significance import PairedTest


@make_command("compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=RunType())
@click.option(
    "--split",
    metavar="[test|validation]",
    help="Images to compare on: the test set, or held-out images that all runs share.  [default: test]",
)
@click.option(
    "--decide",
    is_flag=True,
    show_default=False,
    help="Test on held-out images whether the second group of seeds is better; exit with code 4 if not.",
)
@plot_option("Draw the learning curves and the accuracies.")
@data_dir_option()
def command(
    output: "Output",
    /,
    runs: tuple[Path, ...],
    split: str | None,
    decide: bool,
    plot: Path | None,
    data_dir: Path | None,
) -> None:
    """Compare runs by accuracy, loss, time and energy, and test whether they differ.

    Runs that differ only by their seed form a group with mean, standard deviation and n.
    Each run is tested against the first on the same images (McNemar's test). Runs without
    a report are evaluated first. A RUN may be the folder of a group (train --seeds).

    With --decide, a paired test over the seeds of two groups tells a real gain from noise. It uses held-out
    images, and corrects for earlier decisions about these runs.

    \b
    Examples:
      cifar-trainer compare runs/seed-0 runs/seed-1
      cifar-trainer compare runs/tutorial-* runs/regularized-* --plot comparison.png
      cifar-trainer compare runs/baseline runs/candidate --decide
    """
    if decide and plot is not None:
        raise UsageError("--plot cannot be combined with --decide. Leave one of them out.")
    from cifar_trainer.comparison import Decision, compare, comparison_figure

    comparison = compare(
        runs,
        split=split,
        decide=decide,
        data_dir=data_dir,
        on_evaluate=lambda run: output.note(f"evaluating {run}"),
    )
    if isinstance(comparison, Decision):
        output.result(comparison, decision_table)
        if comparison.decision != "better":
            raise CheckError(explain(comparison.test))
        output.note(explain(comparison.test))
        return
    if plot is not None:
        from cifar_trainer.plots import LIGHT

        save_plot(plot, comparison_figure(comparison, LIGHT))
        output.note(f"figure: {plot}")
    output.result(comparison, lambda comparison: comparison_tables(comparison, output.width))


def decision_table(decision: "Decision") -> "Table":
    """One row per seed, with the gain and its interval as the caption."""
    from rich.table import Table

    test = decision.test
    corrected = "" if test.looks == 1 else f", corrected for {test.looks:,} looks"
    table = Table(
        title=f"accuracy on {decision.images:,} held-out images",
        caption=(
            f"first: {printable(decision.first.name)}\nsecond: {printable(decision.second.name)}\n"
            f"gain {format_gain(test)}, p = {test.p_value:.2g}{corrected}"
        ),
        title_justify="left",
        caption_justify="left",
        box=None,
    )
    for name in ("seed", "first", "second", "gain"):
        table.add_column(name, justify="right")
    sides = zip(decision.first.runs, decision.second.runs, strict=True)
    for (one, other), gain in zip(sides, test.differences, strict=True):
        table.add_row(
            str(one.config.seed), f"{one.accuracy:.2%}", f"{other.accuracy:.2%}", f"{100 * gain:+.2f}"
        )
    means = (f"{side.accuracy[0]:.2%}" for side in (decision.first, decision.second))
    table.add_row("mean", *means, f"{100 * test.difference:+.2f}")
    return table


def format_gain(test: "PairedTest") -> str:
    """The mean gain in percentage points, with its interval."""
    low, high = (f"{100 * end:+.2f}" for end in test.interval)
    return f"{100 * test.difference:+.2f} points ({100 * test.confidence:.4g} % interval {low} to {high})"


def explain(test: "PairedTest") -> str:
    """The decision as sentences."""
    from cifar_trainer.significance import POWER

    if test.is_better:
        return "Better: the second group is more accurate, by more than noise explains."
    return (
        f"Not shown: the gain of {format_gain(test)} may be noise. {len(test.differences)} seeds detect a "
        f"true gain of {100 * test.minimum_detectable:.2f} points with a probability of {POWER:.0%}; to "
        "detect a smaller one, train more seeds."
    )


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
            "run": printable(label),
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
        for label, each in zip(comparison.labels, comparison.runs, strict=True)
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

    first, *others = map(printable, comparison.labels)
    table = Table(title=f"against {first}, by McNemar's test", box=None)
    table.add_column("run", overflow="fold")
    for name in ("only FIRST correct", "only RUN correct", "chi-square", "p, exact"):
        table.add_column(name, justify="right")
    for label, test in zip(others, comparison.tests, strict=True):
        table.add_row(
            label,
            f"{test.only_first:,}",
            f"{test.only_second:,}",
            f"{test.statistic:.2f}",
            f"{test.p_value:.2g}",
        )
    return table
