"""`cifar-trainer reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    PathType,
    data_dir_option,
    json_option,
    print_json,
    run_argument,
    verbosity,
    verbosity_options,
)
from cifar_trainer.cli.signals import StopRequest
from cifar_trainer.errors import CheckError, TrainingStopped, UsageError

if TYPE_CHECKING:
    from cifar_trainer.training.reproduction import Reproduction


@click.command(name="reproduce")
@run_argument
@click.option("--run-dir", type=PathType(), help="Folder of the new run.  [default: runs/TIME-RUN-again]")
@data_dir_option("reproduce")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, /, run: Path | None, run_dir: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Train a finished run again and check that it gives the same weights.

    Settings, recipe and data come from the run's own record. Exit code 4 means that the
    weights differ; what differs in the environment is then listed.

    \b
    Examples:
      cifar-trainer reproduce runs/seed-1
      cifar-trainer reproduce runs/seed-1 --run-dir runs/seed-1-again --json
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.cli.prepare import reporting
    from cifar_trainer.cli.training_display import TrainingDisplay
    from cifar_trainer.training.reproduction import reproduce

    if run is None:
        raise UsageError(
            "Missing argument 'RUN'. Which run is to be reproduced? `cifar-trainer runs` lists them."
        )
    output, stop = Output(verbosity(ctx)), StopRequest()
    with reporting(output) as prepare_reporter, TrainingDisplay(output, prepare_reporter, stop) as display:
        try:
            result = reproduce(
                run,
                run_dir=run_dir,
                data_dir=data_dir,
                reporter=display,
                should_stop=lambda: bool(stop),
                verbose=verbosity(ctx) > 0,
            )
        except TrainingStopped as error:
            output.note(
                f"Stopped and saved. Go on with:\n  cifar-trainer reproduce {run} --run-dir {error.run_dir}",
                wrap=False,
            )
            ctx.exit(128 + int(stop.received or 0))
    if as_json:
        print_json(result.to_json())
    else:
        output.result(format_reproduction(result))
    if not result.same:
        raise CheckError(
            f"{result.run_dir} was not reproduced: the weights of {result.reproduced_in} differ."
        )


def format_reproduction(result: "Reproduction") -> str:
    """Both hashes, and what differs in the environment."""
    lines = [
        "The weights are the same to the bit." if result.same else "The weights differ.",
        f"expected  sha256 {result.expected_sha256}  {result.run_dir}",
        f"received  sha256 {result.weights_sha256}  {result.reproduced_in}",
    ]
    if not result.same:
        differences = result.differences or ("nothing that is recorded",)
        lines += ["what differs in the environment:", *(f"  {difference}" for difference in differences)]
    return "\n".join(lines)
