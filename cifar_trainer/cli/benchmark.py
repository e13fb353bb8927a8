"""`cifar-trainer benchmark`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import PathType, json_option, print_json, save_plot, verbosity, verbosity_options
from cifar_trainer.config import DEVICES, PRECISIONS, TrainConfig, check_choice, check_count
from cifar_trainer.errors import UsageError, printable
from cifar_trainer.recipes import RECIPES

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.benchmarking import Latency, Throughput
    from cifar_trainer.cli.console import Output
    from cifar_trainer.environment import Device

BATCH_SIZES = (1, 8, 64, 512)
#: Formats whose runtime can use a GPU here; the others run on the CPU.
_ON_GPU = ("saved_model", "keras")


@click.command(name="benchmark")
@click.argument("artefacts", metavar="[ARTEFACT]...", nargs=-1, type=PathType())
@click.option("--run", type=PathType(), help="A run: its model, and what it has exported.")
@click.option(
    "--batch-size", "batch_sizes", type=int, multiple=True, metavar="N",
    help="Images a call; may be given several times.  [default: 1, 8, 64, 512; --train: the recipe's]",
)  # fmt: skip
@click.option("--seconds", type=float, default=2.0, help="For each measurement.")
@click.option("--train", "training", is_flag=True, help="Measure training a recipe instead.")
@click.option("--recipe", default="document", metavar=f"[{'|'.join(RECIPES)}]", help="With --train.")
@click.option("--precision", default="float32", metavar=f"[{'|'.join(PRECISIONS)}]", help="With --train.")
@click.option("--xla/--no-xla", default=None, help="With --train.  [default: on a GPU only]")
@click.option("--device", default="auto", metavar=f"[{'|'.join(DEVICES)}]", help="auto: all there are.")
@click.option("--plot", type=PathType(), metavar="PNG", help="Draw the figures.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, /, artefacts: tuple[Path, ...], run: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure how fast a model answers, or with --train how fast a recipe trains.

    Latency is from array to array in this process, calls one after the other, after a
    warm-up. Without an ARTEFACT: the newest run's model, and what it has exported.

    \b
    Examples:
      cifar-trainer benchmark
      cifar-trainer benchmark runs/seed-1/export/model.onnx --batch-size 1
      cifar-trainer benchmark --train --precision bfloat16 --json
    """
    from cifar_trainer.cli.console import Output

    _check(artefacts, run, options)
    output = Output(verbosity(ctx))
    if options["training"]:
        device, throughput = _measure_training(options, output)
        if as_json:
            print_json({"environment": _environment(device), "training": throughput.to_json()})
        else:
            output.result(format_throughput(throughput, device.description))
        return
    device, measured = _measure_artefacts(artefacts, run, options, output)
    if options["plot"] is not None:
        from cifar_trainer.benchmarking import latency_figure
        from cifar_trainer.plots import LIGHT

        save_plot(options["plot"], latency_figure(measured, LIGHT))
        output.note(f"figures: {options['plot']}")
    if as_json:
        print_json({"environment": _environment(device), "artefacts": [each.to_json() for each in measured]})
    else:
        output.result(latency_table(measured, device.description))


def _check(artefacts: tuple[Path, ...], run: Path | None, options: dict[str, Any]) -> None:
    check_choice("recipe", options["recipe"], RECIPES)
    check_choice("precision", options["precision"], PRECISIONS)
    check_choice("device", options["device"], DEVICES)
    for size in options["batch_sizes"]:
        check_count("batch-size", size)
    if not (math.isfinite(options["seconds"]) and options["seconds"] > 0):
        raise UsageError(f"--seconds {options['seconds']} is out of range. Expected a number above 0.")
    if artefacts and run is not None:
        raise UsageError(f"--run {run} and {artefacts[0]} were both given. Name one of them.")
    if options["training"]:
        if artefacts or run is not None:
            raise UsageError("--train measures a recipe; leave out ARTEFACT and --run.")
        if options["plot"] is not None:
            raise UsageError("--plot draws latencies; --train gives one figure and no curve.")
        if len(options["batch_sizes"]) > 1:
            raise UsageError("--train takes one --batch-size.")


def _start(options: dict[str, Any], *, split: bool) -> "Device":
    from cifar_trainer import environment

    environment.load_tensorflow(verbose=verbosity() > 0)
    device = environment.choose_device(options["device"])
    environment.configure_threads(split=split)
    return device


def _environment(device: "Device") -> dict[str, Any]:
    from cifar_trainer import environment

    return environment.describe_environment(device)


def _measure_training(options: dict[str, Any], output: "Output") -> "tuple[Device, Throughput]":
    from cifar_trainer.benchmarking import IMAGES, measure_training
    from cifar_trainer.recipes import get_recipe

    recipe = get_recipe(options["recipe"])
    batch_size = options["batch_sizes"][0] if options["batch_sizes"] else recipe.BATCH_SIZE
    if batch_size > IMAGES:
        raise UsageError(f"--batch-size {batch_size} is more than {IMAGES:,} images, which there are.")
    device = _start(options, split=recipe.SPLITTABLE)
    output.note(f"{options['recipe']}, batch {batch_size}, on {device.description}")
    config = TrainConfig(
        options["recipe"], "cifar10", 1, batch_size, recipe.LEARNING_RATE,
        precision=options["precision"], xla=options["xla"],
    )  # fmt: skip
    gpu = device.kind == "gpu"
    return device, measure_training(config, gpu=gpu, bus_id=device.bus_id, seconds=options["seconds"])


def _measure_artefacts(
    artefacts: tuple[Path, ...], run: Path | None, options: dict[str, Any], output: "Output"
) -> "tuple[Device, list[Latency]]":
    from cifar_trainer import files
    from cifar_trainer.artefacts.formats import kind_of, open_artefact
    from cifar_trainer.benchmarking import Latency, measure_latency

    paths = list(artefacts) or _artefacts_of(run)
    kinds = {path: kind_of(path) for path in paths}
    device = _start(options, split=False)
    import tensorflow as tf

    measured = []
    for path, (kind, place) in _places(kinds, device, options["device"]):
        output.note(f"{path} on the {place.upper()}")
        with tf.device(f"/{place.upper()}:0"):
            artefact = open_artefact(path)
            timings = [
                measure_latency(artefact, size, options["seconds"])
                for size in options["batch_sizes"] or BATCH_SIZES
            ]
        measured.append(Latency(str(path), kind, place, files.size_of(path), tuple(timings)))
    return device, measured


def _artefacts_of(run: Path | None) -> list[Path]:
    from cifar_trainer.artefacts.formats import FORMATS
    from cifar_trainer.run import check_model, open_run

    opened = open_run(run)
    check_model(opened)
    exported = [opened.export / form.file_name for form in FORMATS.values()]
    return [opened.model, *(path for path in exported if path.exists())]


def _places(kinds: dict[Path, str], device: "Device", wanted: str) -> Iterator[tuple[Path, tuple[str, str]]]:
    for path, kind in kinds.items():
        if wanted != "gpu" or kind not in _ON_GPU:
            yield path, (kind, "cpu")
        if device.kind == "gpu" and kind in _ON_GPU:
            yield path, (kind, "gpu")


def latency_table(measured: "list[Latency]", device: str) -> "Table":
    """One row for each artefact and batch size."""
    from rich.table import Table

    from cifar_trainer.benchmarking import figure_labels

    table = Table(title=f"on {device}", box=None)
    table.add_column("artefact", overflow="fold")
    table.add_column("device", no_wrap=True)
    for name in ("batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, each in zip(figure_labels(measured), measured, strict=True):
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


def format_throughput(found: "Throughput", device: str) -> str:
    """A few lines about training."""
    lines = [
        f"{found.recipe}, batch {found.batch_size}, {found.precision}, on {device}",
        f"{found.images_per_second:,.0f} images/s over {found.steps:,} steps in {found.seconds:.1f} s",
        f"first steps after {found.first_step_seconds:.1f} s",
    ]
    if found.joules_per_image is not None:
        lines.append(f"{found.joules_per_image * 1000:.2f} mJ an image")
    if found.watts is not None:
        lines.append(f"{found.watts:.0f} W, {found.utilization or 0:.0f} % utilised")
    return "\n".join(lines)
