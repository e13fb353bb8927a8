"""The device that a run computes on."""

import contextlib
import dataclasses
from typing import Literal

from cifar_trainer.config import DEVICES, check_choice
from cifar_trainer.environment import cuda
from cifar_trainer.environment.machine import processor, usable_cores
from cifar_trainer.errors import DeviceError


@dataclasses.dataclass(frozen=True)
class Device:
    """A device, chosen.

    Attributes:
        kind: `cpu` or `gpu`.
        description: such as `AMD EPYC, 2 cores` or `NVIDIA H100`.
        tensorflow_name: the name of the first one for `tf.device`.
        count: how many there are of it.
        bus_id: a GPU's place on the bus, by which NVML knows it.
        warning: why a GPU that is there stays unused; empty if there is none to use.
    """

    kind: Literal["cpu", "gpu"]
    description: str
    tensorflow_name: str
    count: int
    bus_id: str | None = None
    warning: str = ""


def choose_device(name: str) -> Device:
    """Choose where to compute; to be called before TensorFlow's first operation.

    `auto` takes a GPU where TensorFlow can use one; `cpu` hides the GPUs from
    TensorFlow. A GPU's memory is taken as it is needed, not all at once.

    Raises:
        UsageError: `name` is no device.
        DeviceError: `gpu`, and there is none that TensorFlow can use: what is missing.
    """
    import tensorflow as tf

    check_choice("device", name, DEVICES)
    gpus = tf.config.list_physical_devices("GPU")
    if name == "cpu":
        if gpus:
            tf.config.set_visible_devices([], "GPU")
        return _cpu()
    if gpus:
        for gpu in gpus:
            # Refused once TensorFlow has started; the choice itself still stands.
            with contextlib.suppress(RuntimeError):
                tf.config.experimental.set_memory_growth(gpu, True)
        return Device("gpu", describe_gpu(0), "/GPU:0", len(gpus), bus_id=cuda.bus_id(0))
    report = cuda.inspect(tf.sysconfig.get_build_info())
    if name == "gpu":
        raise DeviceError(f"--device gpu: TensorFlow finds no GPU that it can use. {report.advice()}")
    return _cpu(report.advice() if report.gpu_present else "")


def describe_gpu(index: int) -> str:
    """The name of a GPU that TensorFlow lists, such as `NVIDIA H100 PCIe`."""
    import tensorflow as tf

    gpu = tf.config.list_physical_devices("GPU")[index]
    details = tf.config.experimental.get_device_details(gpu)
    return str(details.get("device_name", gpu.name))


def describe_cpu() -> str:
    """The processor's name and its usable cores, such as `AMD EPYC 7543, 2 cores`."""
    cores = usable_cores()
    return f"{processor()}, {cores} core{'' if cores == 1 else 's'}"


def _cpu(warning: str = "") -> Device:
    return Device("cpu", describe_cpu(), "/CPU:0", 1, warning=warning)
