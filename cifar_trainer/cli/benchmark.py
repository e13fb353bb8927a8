"""`cifar-trainer benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    PathType,
    json_option,
    plot_option,
    print_json,
    save_plot,
    verbosity,
    verbosity_options,
)
from cifar_trainer.errors import UsageError, printable
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import is_run_folder
from cifar_trainer.settings import CONVOLUTIONS, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.benchmarking import LatencyBenchmark, TrainingBenchmark


@click.command(name="benchmark")
@click.argument("artefacts", metavar="[RUN | ARTEFACT...]", nargs=-1, type=PathType())
@click.option("--run", type=PathType(), help="A run: its model, and what it has exported.")
@click.option(
    "--batch-size", "batch_sizes", type=int, multiple=True, metavar="N",
    help="Images a call; may be given several times.  [default: 1, 8, 64, 512; --train: the recipe's]",
)  # fmt: skip
@click.option("--seconds", type=float, default=2.0, help="Duration of each measurement.")
@click.option("--train", "training", is_flag=True, help="Measure training a recipe instead.")
@click.option(
    "--recipe", default="document", metavar=f"[{'|'.join(RECIPES)}|FILE.py]", help="With --train: the recipe."
)
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
    help="With --train: how convolutions are computed.",
)
@click.option(
    "--device",
    default="auto",
    metavar=f"[{'|'.join(DEVICES)}]",
    help="Where to compute; auto measures on all devices.",
)
@plot_option("Draw latency and throughput by batch size.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    artefacts: tuple[Path, ...],
    run: Path | None,
    batch_sizes: tuple[int, ...],
    seconds: float,
    training: bool,
    recipe: str,
    precision: str,
    xla: bool | None,
    conv: str,
    device: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast a model answers, or with --train how fast a recipe trains.

    Latency is measured in-process, array in to array out, sequential calls after a
    warm-up. Instead of an ARTEFACT a RUN may be named: its model, and what it has exported;
    without either, the newest run.

    \b
    Examples:
      cifar-trainer benchmark
      cifar-trainer benchmark runs/seed-1
      cifar-trainer benchmark runs/seed-1/export/model.onnx --batch-size 1
      cifar-trainer benchmark --train --precision bfloat16 --json
    """
    from cifar_trainer.benchmarking import BATCH_SIZES, benchmark_artefacts, benchmark_training
    from cifar_trainer.cli.console import Output

    output = Output(verbosity(ctx))
    runs = [path for path in artefacts if is_run_folder(path)]
    if run is None and len(runs) == len(artefacts) == 1:
        run, artefacts = runs[0], ()
    if training:
        _check_training(artefacts, run, batch_sizes, plot)
        trained = benchmark_training(
            recipe,
            batch_size=batch_sizes[0] if batch_sizes else None,
            precision=precision,
            xla=xla,
            conv=conv,
            device=device,
            seconds=seconds,
            verbose=verbosity(ctx) > 0,
            on_start=lambda config, name: output.note(f"{recipe}, batch size {config.batch_size}, on {name}"),
        )
        if as_json:
            print_json(trained.to_json())
        else:
            output.result(format_throughput(trained))
        return
    measured = benchmark_artefacts(
        artefacts,
        run=run,
        batch_sizes=batch_sizes or BATCH_SIZES,
        seconds=seconds,
        device=device,
        verbose=verbosity(ctx) > 0,
        on_artefact=lambda path, place: output.note(f"{path} on the {place.upper()}"),
    )
    if plot is not None:
        from cifar_trainer.benchmarking import latency_figure
        from cifar_trainer.plots import LIGHT

        save_plot(plot, latency_figure(measured.artefacts, LIGHT))
        output.note(f"figure: {plot}")
    if as_json:
        print_json(measured.to_json())
    else:
        output.result(latency_table(measured))


def _check_training(
    artefacts: tuple[Path, ...], run: Path | None, batch_sizes: tuple[int, ...], plot: Path | None
) -> None:
    if artefacts or run is not None:
        raise UsageError("--train measures a recipe; leave out ARTEFACT and --run.")
    if plot is not None:
        raise UsageError("--plot draws latencies; --train gives one figure and no curve.")
    if len(batch_sizes) > 1:
        raise UsageError("--train takes one --batch-size.")


def latency_table(measured: "LatencyBenchmark") -> "Table":
    """One row for each artefact and batch size."""
    from rich.table import Table

    from cifar_trainer.benchmarking import figure_labels

    table = Table(title=f"on {measured.device}", box=None)
    table.add_column("artefact", overflow="fold")
    table.add_column("device", no_wrap=True)
    for name in ("batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, each in zip(figure_labels(measured.artefacts), measured.artefacts, strict=True):
        for i, timing in enumerate(each.timings):
            table.add_row(
                printable(name) if i == 0 else "",
                each.device if i == 0 else "",
                str(timing.batch_size),
                *(f"{value:.2f}" for value in (timing.p50_ms, timing.p95_ms, timing.p99_ms)),
                f"{timing.images_per_second:,.0f}",
                f"{each.bytes / 1e3:,.0f} kB" if i == 0 else "",
            )
    return table


def format_throughput(measured: "TrainingBenchmark") -> str:
    """A few lines about training."""
    found = measured.training
    lines = [
        f"{found.recipe}, batch size {found.batch_size}, {found.precision}, on {measured.device}",
        f"{found.images_per_second:,.0f} images/s over {found.steps:,} steps in {found.seconds:.1f} s",
        f"first steps after {found.first_step_seconds:.1f} s",
    ]
    if found.joules_per_image is not None:
        lines.append(f"{found.joules_per_image * 1000:.2f} mJ an image")
    if found.watts is not None:
        lines.append(f"{found.watts:.0f} W, {found.utilization or 0:.0f} % utilised")
    return "\n".join(lines)
