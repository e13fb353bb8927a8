"""Measure the latency of models and the training speed of recipes."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.errors import UsageError
from cifar_trainer.recipes import Recipe, get_recipe
from cifar_trainer.results import Result
from cifar_trainer.run import is_run_folder, open_run
from cifar_trainer.settings import (
    DEVICE_ALIASES,
    DEVICES,
    PRECISIONS,
    Settings,
    check_choice,
    check_count,
    check_seconds,
)

if TYPE_CHECKING:
    from cifar_trainer.artefacts.formats import Artefact
    from cifar_trainer.devices import Device
    from cifar_trainer.plots import Figure, Theme
    from cifar_trainer.training.loop import StepLoop

BATCH_SIZES = (1, 8, 64, 512)
#: Minimum number and duration of the warm-up calls.
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.3
#: Minimum number of timed calls; with fewer, a p99 is meaningless.
LEAST_CALLS = 100


@dataclasses.dataclass(frozen=True)
class Timing(Result):
    """The speed of one artefact at one batch size.

    Attributes:
        batch_size: images per call.
        calls: number of timed calls.
        p50_ms, p95_ms, p99_ms: percentiles of a call's duration in milliseconds.
        images_per_second: number of images divided by the total time.
    """

    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """The speed of one artefact on one device.

    Attributes:
        artefact: its path.
        format: such as `onnx`.
        device: `cpu` or `gpu`.
        bytes: total size of its files.
        timings: one for each batch size.
    """

    artefact: str
    format: str
    device: str
    bytes: int
    timings: tuple[Timing, ...]


@dataclasses.dataclass(frozen=True)
class LatencyBenchmark(Result):
    """The latency of artefacts.

    Attributes:
        device: description of the device.
        environment: versions, processor and device, as in a run's environment.json.
        artefacts: one entry for each artefact and device.
    """

    device: str
    environment: Mapping[str, Any]
    artefacts: tuple[Latency, ...]

    def to_json(self) -> dict[str, Any]:
        """What `benchmark --json` prints."""
        artefacts = [dataclasses.asdict(each) for each in self.artefacts]
        return {"environment": self.environment, "artefacts": artefacts}


def benchmark(
    artefacts: str | Path | Sequence[str | Path] = (),
    *,
    run: str | Path | None = None,
    batch_size: int | Sequence[int] | None = None,
    seconds: float = 2.0,
    train: bool = False,
    recipe: str | Path = "tutorial",
    precision: str = "float32",
    xla: bool | None = None,
    conv: str = "auto",
    device: str = "auto",
    verbose: bool = False,
    on_start: Callable[[str], None] = lambda what: None,
) -> "LatencyBenchmark | TrainingBenchmark":
    """Measure the latency of artefacts or, with `train`, the training speed of a recipe.

    Args:
        artefacts: paths of artefacts, or one run's folder. If empty: the run's model and its exports.
        run: the run's folder; by default, the newest run with a model.
        batch_size: images per call, one or several sizes; with `train`, images per step. None: 1, 8, 64 and
            512; with `train`, the recipe's.
        seconds: duration of each measurement.
        train: measure training, which the next four arguments configure.
        recipe: the name of a recipe, or a Python file that defines one.
        precision: one of `settings.PRECISIONS`.
        xla: whether XLA compiles the training loop; None: on a GPU only.
        conv: one of `settings.CONVOLUTIONS`.
        device: one of `settings.DEVICES`. `auto` measures artefacts on the CPU, and also on a GPU.
        verbose: show TensorFlow's own messages.
        on_start: called before each measurement, with a description.

    Raises:
        UsageError: an argument is invalid.
        RunError: there is no such run, or an artefact is missing or damaged.
        DeviceError: there is no such device.
    """
    check_choice("device", device, DEVICES, DEVICE_ALIASES)
    check_seconds("seconds", seconds)
    paths = [Path(artefacts)] if isinstance(artefacts, str | Path) else [Path(path) for path in artefacts]
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size or ())
    for size in sizes:
        check_count("batch-size", size)
    if not train:
        return _benchmark_artefacts(paths, run, sizes or BATCH_SIZES, seconds, device, verbose, on_start)
    if paths or run is not None:
        raise UsageError("--train measures a recipe; leave out ARTEFACT and --run.")
    if len(sizes) > 1:
        raise UsageError("--train takes a single --batch-size.")
    check_choice("precision", precision, PRECISIONS)
    chosen = get_recipe(str(recipe))
    (size,) = sizes or [chosen.batch_size]
    if size > IMAGES:
        raise UsageError(f"--batch-size {size} is more than the {IMAGES:,} images that the benchmark uses.")
    config = Settings(
        chosen.name, "cifar10", 1, size, chosen.learning_rate, precision=precision, device=device, xla=xla,
        conv=conv,
    )  # fmt: skip
    started = devices.start(config, split=chosen.splittable, verbose=verbose)
    on_start(f"{recipe}, batch size {size}, on {started.description}")
    throughput = _measure_training(config, chosen, started, seconds)
    return TrainingBenchmark(started.description, devices.describe_environment(started), throughput)


def _benchmark_artefacts(
    paths: list[Path],
    run: str | Path | None,
    sizes: Sequence[int],
    seconds: float,
    device: str,
    verbose: bool,
    on_start: Callable[[str], None],
) -> LatencyBenchmark:
    from cifar_trainer.artefacts.formats import open_artefact, recognize

    if paths and run is not None:
        raise UsageError(f"--run {run} and {paths[0]} were both given. Pass only one.")
    if len(paths) == 1 and is_run_folder(paths[0]):
        run, paths = paths[0], []
    formats = {path: recognize(path) for path in paths or _artefacts_of(run)}
    started = devices.start(device=device, verbose=verbose)
    import tensorflow as tf

    measured = []
    for path, form in formats.items():
        # Only TensorFlow's runtime uses a GPU.
        on_gpu = started.kind == "gpu" and form.uses_tensorflow
        on_cpu = device != "gpu" or not form.uses_tensorflow
        for place in ["cpu"] * on_cpu + ["gpu"] * on_gpu:
            on_start(f"{path} on the {place.upper()}")
            with tf.device(f"/{place.upper()}:0"):
                artefact = open_artefact(path)
                timings = [measure_latency(artefact, size, seconds) for size in sizes]
            measured.append(Latency(str(path), form.name, place, files.size_of(path), tuple(timings)))
    return LatencyBenchmark(started.description, devices.describe_environment(started), tuple(measured))


def _artefacts_of(run: str | Path | None) -> list[Path]:
    from cifar_trainer.artefacts.formats import FORMATS

    opened = open_run(run, with_model=True)
    exported = [opened.export / form.file_name for form in FORMATS.values()]
    return [opened.model, *(path for path in exported if path.exists())]


def measure_latency(
    artefact: "Artefact",
    batch_size: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time sequential calls of an artefact, from host array to host array.

    The images are random, because their content does not affect the time.

    Args:
        artefact: the opened artefact.
        batch_size: images per call.
        seconds: how long to measure; at least LEAST_CALLS calls are timed.
        clock: returns seconds; for tests.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *artefact.image_shape), np.uint8)
    began, calls = clock(), 0
    while calls < WARM_UP_CALLS or clock() - began < WARM_UP_SECONDS:
        artefact.predict(images)
        calls += 1
    durations: list[float] = []
    began = clock()
    while len(durations) < LEAST_CALLS or clock() - began < seconds:
        before = clock()
        artefact.predict(images)
        durations.append(clock() - before)
    p50, p95, p99 = np.percentile(durations, (50, 95, 99)) * 1000
    rate = batch_size * len(durations) / sum(durations)
    return Timing(batch_size, len(durations), float(p50), float(p95), float(p99), float(rate))


#: The size of CIFAR-10's training set.
IMAGES = 50_000
#: Steps of the first chunk, which includes compiling, and of the second, which estimates the speed.
_WARM_UP = (8, 32)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The speed of training a recipe.

    Attributes:
        recipe, batch_size, precision, device: as trained.
        steps, seconds: number of timed steps and their duration, excluding validation and checkpoints.
        images_per_second: training speed.
        first_step_seconds: duration of the first chunk, including compiling.
        joules_per_image, watts, utilization: GPU readings in J, W and per cent; None without an NVIDIA GPU.
    """

    recipe: str
    batch_size: int
    precision: str
    device: str
    steps: int
    seconds: float
    images_per_second: float
    first_step_seconds: float
    joules_per_image: float | None
    watts: float | None
    utilization: float | None


@dataclasses.dataclass(frozen=True)
class TrainingBenchmark(Result):
    """The speed of training a recipe.

    Attributes:
        device: description of the device.
        environment: versions, processor and device, as in a run's environment.json.
        training: the measured speed.
    """

    device: str
    environment: Mapping[str, Any]
    training: Throughput

    def to_json(self) -> dict[str, Any]:
        """What `benchmark --train --json` prints."""
        return {"environment": self.environment, "training": dataclasses.asdict(self.training)}


def _measure_training(config: Settings, recipe: Recipe, device: "Device", seconds: float) -> Throughput:
    from cifar_trainer.data.cifar10 import CIFAR10
    from cifar_trainer.data.dataset import Split
    from cifar_trainer.devices.telemetry import GpuTelemetry
    from cifar_trainer.training.assembly import assemble
    from cifar_trainer.training.loop import MAX_CHUNK

    draw = np.random.default_rng(config.seed)
    classes = len(CIFAR10.classes)
    images = draw.integers(0, 256, (IMAGES, *CIFAR10.image_shape), np.uint8)
    split = Split(images, draw.integers(0, classes, IMAGES).astype(np.uint8), "")
    # At full size, and everything trained: an average over a run's phases would depend on its length.
    recipe = dataclasses.replace(recipe, scales=(1.0,), frozen={})
    loop = assemble(config, recipe, split, np.arange(IMAGES), classes=classes, gpu=device.kind == "gpu")
    loop.set_order(draw.permutation(IMAGES).astype(np.int32))
    # Only full batches: the last one of an epoch may be smaller.
    full = IMAGES // config.batch_size
    first, second = (_seconds_of_steps(loop, min(steps, full)) for steps in _WARM_UP)
    count = max(1, min(MAX_CHUNK, full, int(0.5 * min(_WARM_UP[1], full) / second)))
    done = 0
    with GpuTelemetry(device.bus_id) as telemetry:
        telemetry.mark()
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or done == 0:
            loop.run(done % (full - count + 1), count, done)
            done += count
        reading = telemetry.mark()
    trained = done * config.batch_size
    return Throughput(
        recipe=config.recipe,
        batch_size=config.batch_size,
        precision=config.precision,
        device=device.kind,
        steps=done,
        seconds=elapsed,
        images_per_second=trained / elapsed,
        first_step_seconds=first,
        joules_per_image=None if reading.energy_joules is None else reading.energy_joules / trained,
        watts=reading.power_watts,
        utilization=reading.utilization,
    )


def _seconds_of_steps(loop: "StepLoop", count: int) -> float:
    began = time.perf_counter()
    loop.run(0, count, 0)
    return time.perf_counter() - began


LEGEND_COLUMNS = 4
#: Markers, which tell lines apart without colours, and the distance between whiskers (1: a doubling).
_MARKERS, _DODGE = "osD^vX", 0.08


def latency_figure(measured: Sequence[Latency], theme: "Theme") -> "Figure":
    """Two panels: median latency with whiskers to p99, and images per second; one line per artefact."""
    from cifar_trainer.plots import LINES, LogLocator, new_figure, shorten

    names = [shorten(name, 32) for name in figure_labels(measured)]
    with new_figure(theme, 9.6, 4.2 + 0.25 * -(-len(measured) // LEGEND_COLUMNS)) as figure:
        left, right = figure.subplots(1, 2)
        for i, each in enumerate(measured):
            color = LINES[i % len(LINES)]
            sizes = [timing.batch_size for timing in each.timings]
            # Shift each artefact a little, so that whiskers do not hide each other.
            aside = [size * 2 ** (_DODGE * (i - (len(measured) - 1) / 2)) for size in sizes]
            p50 = [timing.p50_ms for timing in each.timings]
            above = [timing.p99_ms - timing.p50_ms for timing in each.timings]
            left.errorbar(
                aside,
                p50,
                yerr=([0] * len(p50), above),
                color=color,
                marker=_MARKERS[i % len(_MARKERS)],
                ms=5,
                capsize=2,
                label=names[i],
            )
            rates = [timing.images_per_second for timing in each.timings]
            right.plot(sizes, rates, color=color, marker=_MARKERS[i % len(_MARKERS)], ms=5)
        titles = ("latency in ms: median, whisker to p99", "images per second")
        for axes, title in zip((left, right), titles, strict=True):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel("batch size")
            axes.set_title(title)
        left.set_yscale("log")
        # A narrow range may have no power of ten, and Matplotlib labels the ticks between them in LaTeX.
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("")
        right.set_ylim(bottom=0)
        right.yaxis.set_major_formatter("{x:,.0f}")
        # Below both panels, where it does not hide lines.
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    return figure


def figure_labels(measured: Sequence[Latency]) -> list[str]:
    """A short name for each artefact: the file name, as many folders as make it unique, and the device."""
    paths = {Path(each.artefact) for each in measured}
    devices = {each.device for each in measured}
    names = [_short(Path(each.artefact), paths) for each in measured]
    if len(devices) == 1:
        return names
    return [f"{name}, {each.device}" for name, each in zip(names, measured, strict=True)]


def _short(path: Path, paths: set[Path]) -> str:
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if sum(other.parts[-count:] == end for other in paths) == 1:
            return "/".join(end)
    return str(path)
