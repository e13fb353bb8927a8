"""`cifar-trainer reproduce`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, data_dir_option, make_command, run_argument
from cifar_trainer.errors import CheckError, TrainingStopped, UsageError
from cifar_trainer.settings import command_words

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.training.api import Reproduction


@make_command("reproduce")
@run_argument
@click.option("--run-dir", type=PathType(), help="Folder of the new run.  [default: runs/TIME-RUN-again]")
@data_dir_option()
def command(output: "Output", /, run: Path | None, run_dir: Path | None, data_dir: Path | None) -> None:
    """Train a finished run or group again and check that the weights are the same.

    Settings, recipe and data come from the run's own record. If the weights differ, lists the
    differences between the environments and exits with code 4.

    \b
    Examples:
      cifar-trainer reproduce runs/seed-1
      cifar-trainer reproduce runs/seed-1 --run-dir runs/seed-1-again --json
    """
    from cifar_trainer.cli.displays import TrainingDisplay
    from cifar_trainer.training.api import reproduce

    if run is None:
        raise UsageError("Missing argument 'RUN'. `cifar-trainer runs` lists the runs.")
    with TrainingDisplay(output) as display:
        try:
            result = reproduce(
                run,
                run_dir=run_dir,
                data_dir=data_dir,
                reporter=display,
                should_stop=display.should_stop,
                verbose=output.verbose,
            )
        except TrainingStopped as error:
            options = command_words({"run_dir": error.run_dir, "data_dir": data_dir})
            words = ["cifar-trainer", "reproduce", str(run), *options]
            display.exit_stopped(f"Resume with:\n  {shlex.join(words)}")
    output.result(result, format_reproduction)
    if not result.same:
        raise CheckError(
            f"{result.run_dir} was not reproduced: the weights of {result.reproduced_in} differ."
        )


def format_reproduction(result: "Reproduction") -> str:
    """Both hashes, and the differences between the environments."""
    lines = [
        "The weights are bit-identical." if result.same else "The weights differ.",
        f"expected  sha256 {result.expected_sha256}  {result.run_dir}",
        f"received  sha256 {result.weights_sha256}  {result.reproduced_in}",
    ]
    if not result.same:
        differences = result.differences or ("none recorded",)
        lines += ["differences between the environments:", *(f"  {difference}" for difference in differences)]
    return "\n".join(lines)
