"""GPU statistics while a run trains: utilization, memory, power, energy.

Uses nvidia-ml-py (imported as pynvml). Without it, or without an NVIDIA GPU, every reading is empty.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Self

#: Seconds between samples; the driver does not update its averages faster.
INTERVAL = 0.2


@dataclasses.dataclass(frozen=True)
class Reading:
    """GPU statistics since the previous mark; None if unavailable.

    Attributes:
        utilization: mean share of the time during which a kernel ran, in percent.
        memory_mib: peak memory in use on the device.
        power_watts: mean power.
        energy_joules: from the device's counter if it has one, otherwise from the mean power.
    """

    utilization: float | None = None
    memory_mib: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None


class GpuTelemetry:
    """Samples one GPU in a thread while the `with` block runs.

    Args:
        bus_id: the PCI bus id, such as `0000:65:00.0`; CUDA and NVML may number devices differently. None
            gives empty readings.
        nvml: the NVML binding; None imports pynvml if it is installed.
    """

    def __init__(self, bus_id: str | None, nvml: ModuleType | Any | None = None) -> None:
        self._bus_id = bus_id
        self._nvml: Any = nvml
        self._handle: Any = None
        self._samples: list[tuple[float | None, float | None, float | None]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._marked_at = 0.0
        self._marked_energy: float | None = None

    def __enter__(self) -> Self:
        if self._bus_id is None:
            return self
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return self
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(self._bus_id.encode())
        except self._nvml.NVMLError:
            return self
        self._marked_at, self._marked_energy = time.monotonic(), self._energy()
        self._thread = threading.Thread(target=self._run, name="gpu-telemetry", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._nvml is None or self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._handle = None
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def mark(self) -> Reading:
        """The statistics since the previous mark, or since the start of the block."""
        if self._handle is None:
            return Reading()
        # Take at least one sample: an epoch may be shorter than the interval.
        self._sample()
        now, energy = time.monotonic(), self._energy()
        with self._lock:
            samples, self._samples = self._samples, []
        utilization, memory, power = (
            [value for value in values if value is not None] for values in zip(*samples, strict=True)
        )
        watts = _mean(power)
        joules = self._joules_since(now, energy, watts)
        self._marked_at, self._marked_energy = now, energy
        return Reading(_mean(utilization), max(memory, default=None), watts, joules)

    def joules(self) -> float | None:
        """Energy since the previous mark, in J, without setting a new mark."""
        if self._handle is None:
            return None
        with self._lock:
            power = [watts for _, _, watts in self._samples if watts is not None]
        return self._joules_since(time.monotonic(), self._energy(), _mean(power))

    def _joules_since(self, now: float, energy: float | None, watts: float | None) -> float | None:
        if energy is not None and self._marked_energy is not None:
            return energy - self._marked_energy
        return None if watts is None else watts * (now - self._marked_at)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        nvml, handle = self._nvml, self._handle
        sample = (
            self._read(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            self._read(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20),
            self._read(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        )
        with self._lock:
            self._samples.append(sample)

    def _energy(self) -> float | None:
        """Energy since the driver was loaded, in J; None on GPUs before Volta, which have no counter."""
        return self._read(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000)

    def _read(self, read: Callable[[], float]) -> float | None:
        # Each value is read separately, because many devices support only some of them.
        try:
            return read()
        except self._nvml.NVMLError:
            return None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
