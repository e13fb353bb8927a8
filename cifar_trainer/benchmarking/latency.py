"""Latency and throughput of an opened artefact by batch size."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cifar_trainer.prediction.artefact import Artefact

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
class Measured:
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


def measure(
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
