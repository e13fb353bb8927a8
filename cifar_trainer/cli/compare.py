"""`cifar-trainer compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    PathType,
    data_dir_option,
    json_option,
    print_json,
    save_plot,
    verbosity,
    verbosity_options,
)
from cifar_trainer.config import TrainConfig, check_choice
from cifar_trainer.errors import printable
from cifar_trainer.files import writing

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.comparison import Comparison, Evaluated, Group
    from cifar_trainer.data.dataset import Dataset
    from cifar_trainer.run import Run


@click.command(name="compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=PathType())
@click.option(
    "--split",
    default="test",
    metavar="[test|validation]",
    help="The test set, or the held-out images of runs that held out the same ones.",
)
@click.option("--plot", type=PathType(), metavar="PNG", help="Draw the learning curves.")
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
    """Set runs beside each other: accuracy, loss, time, energy, and whether they differ.

    Runs that differ only by their seed are one group: mean, standard deviation, n. Each
    run is tested against the first on the same images (McNemar). A run that was not
    evaluated yet is evaluated first.

    \b
    Examples:
      cifar-trainer compare runs/seed-0 runs/seed-1
      cifar-trainer compare runs/document-* runs/regularized-* --plot comparison.png
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.comparison import check_comparable, compare
    from cifar_trainer.run import check_model, load_data, open_run

    output = Output(verbosity(ctx))
    check_choice("split", split, ("test", "validation"))
    opened = [open_run(path) for path in runs]
    configs = [(run, run.read_config()) for run in opened]
    check_comparable(configs, split)
    for run in opened:
        check_model(run)
    comparison = compare(
        split, [_evaluated(run, c, split, load_data(run, data_dir), output) for run, c in configs]
    )
    if plot is not None:
        from cifar_trainer.comparison import comparison_figure
        from cifar_trainer.plots import LIGHT

        save_plot(plot, comparison_figure(comparison, LIGHT))
        output.note(f"curves: {plot}")
    if as_json:
        print_json(comparison.to_json())
        return
    output.result(runs_table(comparison))
    if len(comparison.groups) < len(comparison.runs):
        output.result(groups_table(comparison.groups))
    output.result(tests_table(comparison))


def _evaluated(
    run: "Run", config: TrainConfig, split: str, dataset: "Dataset", output: "Output"
) -> "Evaluated":
    from cifar_trainer.comparison import read_evaluated
    from cifar_trainer.data.splits import evaluated_split

    images = evaluated_split(dataset, config, split)
    found = read_evaluated(run, split, images)
    if found is not None:
        return found
    output.note(f"evaluating {run.path}")
    from cifar_trainer import environment
    from cifar_trainer.recipes import get_recipe

    environment.load_tensorflow(verbose=verbosity() > 0)
    environment.choose_device("cpu" if config.device == "cpu" else "auto")
    environment.configure_threads(split=get_recipe(config.recipe).SPLITTABLE)
    from cifar_trainer.errors import RunError
    from cifar_trainer.evaluation.evaluate import evaluate
    from cifar_trainer.evaluation.subject import load_subject

    subject = load_subject(run, dataset, split)
    with writing(run.evaluation(split), "Make room, or give write access to the run's folder."):
        evaluate(subject)
    found = read_evaluated(run, split, images)
    if found is None:
        raise RunError(f"{run.evaluation(split)} has changed while it was read. Try again.")
    return found


def runs_table(comparison: "Comparison") -> "Table":
    """One row a run."""
    from rich.table import Table

    # Without an NVIDIA GPU nothing was measured, and an empty column tells nobody anything.
    measured = any(each.joules is not None for each in comparison.runs)
    table = Table(title=f"{comparison.images:,} images of the {comparison.split} split", box=None)
    table.add_column("run", overflow="fold")
    table.add_column("recipe", no_wrap=True)
    energy = ["energy"] if measured else []
    for name in ("seed", "accuracy", "95 %", "loss", "epochs", "time", *energy, "parameters"):
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
    for name in ("only that right", "only this right", "chi-square", "p, exact"):
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
