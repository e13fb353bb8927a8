"""`cifar-trainer sweep`."""

from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import PathType, data_dir_option, make_command
from cifar_trainer.cli.options import setting_options, without_none
from cifar_trainer.errors import SweepError, TrainingStopped
from cifar_trainer.settings import RuntimeOptions, Settings, declared

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.sweeps.result import SweepResult

#: The options of `train` that apply to all trials; a sweep has its own seed and validation split.
_OF_TRAIN = [
    declaration
    for name, declaration in {**declared(Settings), **declared(RuntimeOptions)}.items()
    if declaration.in_sweep and name not in ("seed", "validation")
]
#: Number of trials listed at the end; the page lists all.
_LISTED = 10


@make_command("sweep")
@click.option("--name", required=True, metavar="NAME", help="Name of the sweep, and of its folder in runs/.")
@click.option(
    "--set", multiple=True, metavar="PARAMETER=RANGE",
    help="Range of values to search: LOW..HIGH, LOW..HIGH:log, LOW..HIGH:step=S or A,B,C. Repeatable.",
)  # fmt: skip
@click.option("--space", type=PathType(), metavar="FILE", help="TOML file with the ranges.")
@click.option(
    "--trials", type=int, default=40, metavar="N", help="Number of trials of all commands together."
)
@click.option(
    "--storage",
    metavar="URL",
    help="Database; PostgreSQL for several machines.  [default: SQLite in the folder]",
)
@click.option("--sampler", default="tpe", metavar="[tpe|random|qmc]", help="How to choose values.")
@click.option(
    "--pruner", default="median", metavar="[median|hyperband|none]", help="How to stop trials early."
)
@click.option(
    "--workers", type=int, default=1, metavar="N", help="Number of worker processes; each gets its own GPU."
)
@click.option(
    "--confirm", type=int, default=3, metavar="N",
    help="Retrain the N best on all training images and test each once; 0 for none.",
)  # fmt: skip
@click.option(
    "--confirm-seeds", type=int, default=1, metavar="N", help="Number of seeds for each retrained trial."
)
@click.option(
    "--heartbeat", type=int, default=15, metavar="SECONDS",
    help="Heartbeat interval. After four missing heartbeats, other commands take over the trials.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, help="Seed of the sampler and of every trial.")
@click.option(
    "--validation",
    default="holdout",
    metavar="[holdout]",
    help="Trials are compared on held-out images, never on the test set.",
)
@setting_options(_OF_TRAIN)
@click.option("--run-dir", type=PathType(), help="Folder of the sweep.  [default: runs/NAME]")
@data_dir_option("Folder of the prepared data sets.  [default: data]")
def command(output: "Output", /, **options: Any) -> None:
    """Search for good settings with Optuna, by accuracy on held-out images.

    Each trial is an ordinary run. Repeat the command to resume a stopped sweep; a larger
    --trials extends it.

    \b
    Examples:
      cifar-trainer sweep --name rates --set learning_rate=1e-4..1e-2:log --set batch_size=32,64,128
      cifar-trainer sweep --name rates --space space.toml --trials 100 --workers 4
      cifar-trainer sweep --name rates --space space.toml --storage postgresql://me@db/sweeps
      cifar-trainer train --from-trial rates:7
    """
    from cifar_trainer import sweep
    from cifar_trainer.cli.sweep_display import SweepDisplay

    with SweepDisplay(output) as display:
        try:
            result = sweep(
                **without_none(options),
                reporter=display,
                should_stop=display.should_stop,
                verbose=output.verbose,
            )
        except TrainingStopped:
            display.exit_stopped("Repeat the command to resume.")
        except SweepError as error:
            if output.as_json:
                output.result(error.result, format_sweep)
            raise
    output.result(result, format_sweep)
    output.note(f"page: {result.page}")


def format_sweep(result: "SweepResult") -> "list[Table]":
    """Tables of the best trials and of confirmed ones."""
    confirmed = [confirmed_table(result)] if result.confirmed else []
    return [trials_table(result), *confirmed]


def trials_table(result: "SweepResult") -> "Table":
    """The best trials, and the number in each state."""
    from rich.table import Table

    from cifar_trainer.sweeps.result import best_first, format_value

    states = [trial.state for trial in result.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(title=f"{result.name}: {counts}", title_justify="left", box=None, pad_edge=False)
    best = best_first(result.trials)[:_LISTED]
    names = list(best[0].params) if best else []
    for name in ("trial", "accuracy", *names):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    for trial in best:
        values = [format_value(trial.params[name]) for name in names]
        table.add_row(str(trial.number), f"{trial.value:.2%}", *values, trial.run_dir or "")
    return table


def confirmed_table(result: "SweepResult") -> "Table":
    """The best trials' accuracy on the test set."""
    from rich.table import Table

    table = Table(
        title="retrained on all training images, tested once", title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    for name in ("trial", "test accuracy", "runs"):
        table.add_column(name, justify="right")
    for each in result.confirmed:
        table.add_row(str(each.number), f"{each.test_accuracy:.2%}", str(len(each.runs)))
    return table
