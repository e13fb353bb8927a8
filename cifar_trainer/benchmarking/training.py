"""The throughput of training: steps of a recipe on random pictures, and the energy that they take."""

import dataclasses
import time
from typing import Any

import numpy as np

from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Split
from cifar_trainer.telemetry import GpuTelemetry
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.engine import MAX_CHUNK

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
