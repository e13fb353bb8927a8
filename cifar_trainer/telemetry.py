"""Readings of an NVIDIA GPU while a run trains: utilisation, memory, power, energy.

Through nvidia-ml-py (imported as pynvml), NVIDIA's own binding of its management library;
without it, or without such a GPU, every reading is empty.
"""

import contextlib
import dataclasses
import threading
import time
from types import ModuleType, TracebackType
from typing import Any, Self

#: Seconds between samples; the driver's own counters do not move faster.
INTERVAL = 0.2


@dataclasses.dataclass(frozen=True)
class Reading:
    """Of the time since the mark before; None where the device does not say.

    Attributes:
        utilization: the mean share of time in which a kernel ran, in percent.
        memory_mib: the most memory in use on the device, in MiB.
        power_watts: the mean power, in W.
        energy_joules: in J, from the device's counter, else from the mean power.
    """

    utilization: float | None = None
    memory_mib: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None


class GpuTelemetry:
    """Samples one GPU in a thread of its own while the `with` block runs.

    Args:
        index: the device, as NVML counts them.
        nvml: the binding; None imports pynvml if it is there.
    """

    def __init__(self, index: int = 0, nvml: ModuleType | Any | None = None) -> None:
        self._index = index
        self._nvml = nvml
        self._handle: Any = None
        self._samples: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._marked_at = 0.0
        self._marked_energy: float | None = None

    def __enter__(self) -> Self:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return self
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)
        except self._nvml.NVMLError:
            self._handle = None
            return self
        self._marked_at, self._marked_energy = time.monotonic(), self._energy()
        self._thread = threading.Thread(target=self._sample, name="gpu-telemetry", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def mark(self) -> Reading:
        """What the device did since the last mark, or since the block began."""
        if self._handle is None:
            return Reading()
        now, energy = time.monotonic(), self._energy()
        with self._lock:
            samples, self._samples = self._samples, []
        seconds = now - self._marked_at
        watts = _mean([sample[2] for sample in samples])
        joules = None
        if energy is not None and self._marked_energy is not None:
            joules = energy - self._marked_energy
        elif watts is not None:
            joules = watts * seconds
        self._marked_at, self._marked_energy = now, energy
        return Reading(
            _mean([sample[0] for sample in samples]),
            max((sample[1] for sample in samples), default=None),
            watts,
            joules,
        )

    def _sample(self) -> None:
        nvml = self._nvml
        assert nvml is not None
        while not self._stop.wait(INTERVAL):
            # A reading that fails now may work in a moment: a driver under load answers late.
            with contextlib.suppress(nvml.NVMLError):
                sample = (
                    float(nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu),
                    nvml.nvmlDeviceGetMemoryInfo(self._handle).used / 2**20,
                    nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000,
                )
                with self._lock:
                    self._samples.append(sample)

    def _energy(self) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000  # type: ignore[union-attr]
        except self._nvml.NVMLError:  # type: ignore[union-attr]
            return None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
