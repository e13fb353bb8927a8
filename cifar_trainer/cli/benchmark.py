"""`cifar-trainer benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import RECIPE, RunType, make_command, plot_option, save_plot
from cifar_trainer.errors import UsageError, printable
from cifar_trainer.recipes import RECIPES
from cifar_trainer.settings import CONVOLUTIONS, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.benchmarking import LatencyBenchmark, TrainingBenchmark
    from cifar_trainer.cli.console import Output


@make_command("benchmark")
@click.argument("artefacts", metavar="[RUN | ARTEFACT...]", nargs=-1, type=RunType())
@click.option("--run", type=RunType(), help="Run to measure: its model and exports.")
@click.option(
    "--batch-size", type=int, multiple=True, metavar="N",
    help="Images per call; repeatable.  [default: 1, 8, 64, 512; --train: the recipe's]",
)  # fmt: skip
@click.option("--seconds", type=float, default=2.0, help="Duration of each measurement.")
@click.option("--train", is_flag=True, help="Measure the training of a recipe instead.")
@click.option(
    "--recipe", type=RECIPE, default="tutorial", metavar=f"[{'|'.join(RECIPES)}|FILE.py]",
    help="With --train: the recipe.",
)  # fmt: skip
@click.option(
    "--precision", default="float32", metavar=f"[{'|'.join(PRECISIONS)}]", help="With --train: compute dtype."
)
@click.option(
    "--xla/--no-xla", default=None, help="With --train: compile with XLA.  [default: on a GPU only]"
)
@click.option(
    "--conv",
    default="auto",
    metavar=f"[{'|'.join(CONVOLUTIONS)}]",
    help="With --train: convolution implementation.",
)
@click.option(
    "--device",
    default="auto",
    metavar=f"[{'|'.join(DEVICES)}]",
    help="Where to compute; auto measures on all devices.",
)
@plot_option("Draw latency and throughput by batch size.")
def command(output: "Output", /, plot: Path | None, **options: Any) -> None:
    """Measure the speed of inference, or with --train the speed of training.

    Latency is measured in-process, array in to array out, with sequential calls after a warm-up. Pass
    artefacts, or a RUN to measure its model and its exports; the default is the newest run.

    \b
    Examples:
      cifar-trainer benchmark
      cifar-trainer benchmark runs/seed-1
      cifar-trainer benchmark runs/seed-1/export/model.onnx --batch-size 1
      cifar-trainer benchmark --train --precision bfloat16 --json
    """
    from cifar_trainer.benchmarking import LatencyBenchmark, benchmark, latency_figure

    if options["train"] and plot is not None:
        raise UsageError("--plot draws latencies, which --train does not measure. Leave one of them out.")
    measured = benchmark(**options, on_start=output.note, verbose=output.verbose)
    if isinstance(measured, LatencyBenchmark):
        if plot is not None:
            from cifar_trainer.plots import LIGHT

            save_plot(plot, latency_figure(measured.artefacts, LIGHT))
            output.note(f"figure: {plot}")
        output.result(measured, lambda measured: latency_table(measured, output.width))
    else:
        output.result(measured, format_throughput)


def latency_table(measured: "LatencyBenchmark", width: int) -> "Table":
    """One row per artefact and batch size; drops the least important columns to fit into `width`."""
    from cifar_trainer.benchmarking import figure_labels
    from cifar_trainer.cli.console import fitting_table

    rows = [
        {
            "artefact": printable(name) if i == 0 else "",
            "device": artefact.device if i == 0 else "",
            "batch": str(timing.batch_size),
            "p50 ms": f"{timing.p50_ms:.2f}",
            "p95 ms": f"{timing.p95_ms:.2f}",
            "p99 ms": f"{timing.p99_ms:.2f}",
            "images/s": f"{timing.images_per_second:,.0f}",
            "size": f"{artefact.bytes / 1e3:,.0f} kB" if i == 0 else "",
        }
        for name, artefact in zip(figure_labels(measured.artefacts), measured.artefacts, strict=True)
        for i, timing in enumerate(artefact.timings)
    ]
    dropped = ("size", "p95 ms", "device", "images/s", "p99 ms")
    return fitting_table(
        rows,
        width,
        title=f"on {measured.device}",
        left=("device",),
        folding=("artefact",),
        less_important=dropped,
    )


def format_throughput(measured: "TrainingBenchmark") -> str:
    """Training speed and energy in a few lines."""
    training = measured.training
    lines = [
        f"{training.recipe}, batch size {training.batch_size}, {training.precision}, on {measured.device}",
        f"{training.images_per_second:,.0f} images/s over {training.steps:,} steps "
        f"in {training.seconds:.1f} s",
        f"first steps after {training.first_step_seconds:.1f} s",
    ]
    if training.joules_per_image is not None:
        lines.append(f"{training.joules_per_image * 1000:.2f} mJ per image")
    if training.watts is not None:
        lines.append(f"{training.watts:.0f} W, {training.utilization or 0:.0f} % utilised")
    return "\n".join(lines)
