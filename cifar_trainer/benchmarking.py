"""How fast a model answers, and how fast a recipe trains."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cifar_trainer.artefacts.formats import Artefact
from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Split
from cifar_trainer.environment.telemetry import GpuTelemetry
from cifar_trainer.plots import LINES, Theme, new_figure
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.engine import MAX_CHUNK

#: Calls before any is timed, and the seconds that they take at least.
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.3
#: Fewer calls say nothing about a p99.
LEAST_CALLS = 100


@dataclasses.dataclass(frozen=True)
class Timing:
    """One artefact at one batch size.

    Attributes:
        batch_size: images a call.
        calls: that were timed.
        p50_ms, p95_ms, p99_ms: percentiles of a call's duration in milliseconds.
        images_per_second: all images by all of the time.
    """

    batch_size: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """One artefact on one device.

    Attributes:
        artefact: its path.
        format: as its runtime names it.
        device: `cpu` or `gpu`.
        bytes: of all its files.
        timings: by batch size.
    """

    artefact: str
    format: str
    device: str
    bytes: int
    timings: tuple[Timing, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return dataclasses.asdict(self)


def measure_latency(
    artefact: Artefact,
    batch_size: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time calls of an artefact, one after the other, from host array to host array.

    The pictures are random: a network's time does not depend on what they show.

    Args:
        artefact: opened.
        batch_size: images a call.
        seconds: to go on for; at least LEAST_CALLS calls are made.
        clock: gives seconds; for tests.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
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


#: CIFAR-10's training set; the order of its images is as scattered as an epoch's.
IMAGES = 50_000
#: Steps of the chunk that waits for the compiler, and of the one after it, which tells the speed.
_WARM_UP = (8, 32)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """How fast a recipe trains.

    Attributes:
        recipe, batch_size, precision, device: what was trained, and where.
        steps, seconds: that were timed, evaluation and checkpoints left out.
        images_per_second: trained.
        first_step_seconds: until the first chunk was done, the compiler's time included.
        joules_per_image, watts, utilization: of the GPU, None where there is no NVIDIA GPU;
            J, W, and per cent of the time.
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

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return dataclasses.asdict(self)


def measure_training(config: TrainConfig, *, gpu: bool, bus_id: str | None, seconds: float) -> Throughput:
    """Train on random pictures for a while; nothing is written.

    Args:
        config: recipe, batch size, precision and XLA count; its epochs and data do not.
        gpu: whether the device is a GPU.
        bus_id: the GPU's place on the bus, to read its power; None reads nothing.
        seconds: to go on for, after the warm-up.
    """
    draw = np.random.default_rng(config.seed)
    images = draw.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    split = Split(images, draw.integers(0, 10, IMAGES).astype(np.uint8), "")
    loop = assemble(config, split, np.arange(IMAGES), gpu=gpu).loop
    loop.set_order(draw.permutation(IMAGES).astype(np.int32))
    # The last step of an epoch may be smaller, and is left out.
    whole = IMAGES // config.batch_size
    began = time.perf_counter()
    for steps in _WARM_UP:
        begun = time.perf_counter()
        loop.run(0, min(steps, whole), 0)
        if steps == _WARM_UP[0]:
            first = time.perf_counter() - began
    per_step = (time.perf_counter() - begun) / min(_WARM_UP[1], whole)
    count = max(1, min(MAX_CHUNK, whole, int(0.5 / per_step)))
    done = 0
    with GpuTelemetry(bus_id) as telemetry:
        telemetry.mark()
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or done == 0:
            loop.run(done % (whole - count + 1), count, done)
            done += count
        reading = telemetry.mark()
    trained = done * config.batch_size
    return Throughput(
        recipe=config.recipe,
        batch_size=config.batch_size,
        precision=config.precision,
        device="gpu" if gpu else "cpu",
        steps=done,
        seconds=elapsed,
        images_per_second=trained / elapsed,
        first_step_seconds=first,
        joules_per_image=None if reading.energy_joules is None else reading.energy_joules / trained,
        watts=reading.power_watts,
        utilization=reading.utilization,
    )


LEGEND_COLUMNS = 4


def latency_figure(measured: Sequence[Latency], theme: Theme) -> Figure:
    """Left the median latency, up to p99 as a bar; right images a second; a line an artefact."""
    names = figure_labels(measured)
    with new_figure(theme, 9.6, 4.2 + 0.25 * -(-len(measured) // LEGEND_COLUMNS)) as figure:
        left, right = figure.subplots(1, 2)
        for i, each in enumerate(measured):
            color = LINES[i % len(LINES)]
            sizes = [timing.batch_size for timing in each.timings]
            p50 = [timing.p50_ms for timing in each.timings]
            above = [timing.p99_ms - timing.p50_ms for timing in each.timings]
            left.errorbar(
                sizes, p50, yerr=([0] * len(p50), above), color=color, marker="o", ms=4, label=names[i]
            )
            rates = [timing.images_per_second for timing in each.timings]
            right.plot(sizes, rates, color=color, marker="o", ms=4)
        for axes, title in ((left, "latency in ms: median, and up to p99"), (right, "images a second")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel("batch size")
            axes.set_title(title)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        right.set_ylim(bottom=0)
        right.yaxis.set_major_formatter("{x:,.0f}")
        # Below both: inside, it would hide lines.
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    return figure


def figure_labels(measured: Sequence[Latency]) -> list[str]:
    """A short name for each: the file's, with as many folders as tell it from the others, and the device."""
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
