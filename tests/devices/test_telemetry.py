"""The readings of an NVIDIA GPU, against a stand-in for NVML's binding."""

import threading
import time
import types
from typing import Any

import pytest

from cifar_trainer.devices.telemetry import GpuTelemetry, Reading

MIB = 2**20


class NvmlError(Exception):
    pass


class Gpu:
    """NVML with one GPU at 0000:65:00.0: 50 %, 1,000 MiB, 200 W, and 30 J more at each look."""

    NVMLError = NvmlError
    unknown: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.asked_for: list[bytes] = []
        self.open = 0
        self.joules = 1000
        self.used = 1000 * MIB
        self.seen = threading.Event()

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: bytes) -> str:  # noqa: N802
        self.asked_for.append(bus_id)
        if bus_id != b"0000:65:00.0":
            raise NvmlError("not found")
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        self._know("utilization")
        return types.SimpleNamespace(gpu=50)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        self.seen.set()
        return types.SimpleNamespace(used=self.used)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._know("power")
        return 200_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        self._know("energy")
        self.joules += 30
        return self.joules * 1000

    def _know(self, what: str) -> None:
        if what in self.unknown:
            raise NvmlError(f"{what} is not supported")


def read(gpu: Gpu) -> Reading:
    with GpuTelemetry("0000:65:00.0", gpu) as telemetry:
        return telemetry.mark()


def test_a_mark_tells_of_the_time_since_the_mark_before() -> None:
    gpu = Gpu()
    with GpuTelemetry("0000:65:00.0", gpu) as telemetry:
        for used in (3000, 2000):
            gpu.used = used * MIB
            # The second reading begins when the first, which may have begun before, has been kept.
            for _ in range(2):
                gpu.seen.clear()
                assert gpu.seen.wait(60)
        first, second = telemetry.mark(), telemetry.mark()
    assert first == Reading(50.0, 3000.0, 200.0, 30.0)
    assert second == Reading(50.0, 2000.0, 200.0, 30.0)
    assert gpu.open == 0


def test_an_epoch_shorter_than_the_interval_has_its_readings_too() -> None:
    assert read(Gpu()) == Reading(50.0, 1000.0, 200.0, 30.0)


def test_without_an_energy_counter_the_energy_is_power_times_time() -> None:
    gpu = Gpu()
    gpu.unknown = ("energy",)
    before = time.monotonic()
    with GpuTelemetry("0000:65:00.0", gpu) as telemetry:
        began = time.monotonic()
        time.sleep(0.1)
        at_least = time.monotonic() - began
        joules = telemetry.mark().energy_joules
        at_most = time.monotonic() - before
    assert joules is not None
    assert 200 * at_least <= joules <= 200 * at_most


def test_what_a_device_does_not_know_stays_empty_and_the_rest_is_there() -> None:
    gpu = Gpu()
    gpu.unknown = ("power", "energy")
    assert read(gpu) == Reading(50.0, 1000.0, None, None)


def test_the_energy_so_far_can_be_asked_for_without_a_mark() -> None:
    with GpuTelemetry("0000:65:00.0", Gpu()) as telemetry:
        assert telemetry.joules() == 30
        assert telemetry.mark().energy_joules == 60
        assert telemetry.joules() == 30
    assert telemetry.joules() is None


def test_a_device_that_nvml_does_not_know_gives_empty_readings() -> None:
    gpu = Gpu()
    with GpuTelemetry("0000:99:00.0", gpu) as telemetry:
        assert telemetry.mark() == Reading()


def test_on_a_cpu_nvml_is_not_asked() -> None:
    gpu = Gpu()
    with GpuTelemetry(None, gpu) as telemetry:
        assert telemetry.mark() == Reading()
    assert gpu.open == 0


def test_without_the_binding_readings_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with GpuTelemetry("0000:65:00.0") as telemetry:
        assert telemetry.mark() == Reading()


def test_the_real_binding_has_every_name_that_is_called() -> None:
    """The stand-in is one only as far as its names are NVML's."""
    pynvml = pytest.importorskip("pynvml")
    for name in (name for name in vars(Gpu) if name.startswith(("nvml", "NVML"))):
        assert hasattr(pynvml, name), name
