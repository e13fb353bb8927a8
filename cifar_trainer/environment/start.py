"""TensorFlow's start in a process: backend, quiet import, device, threads, determinism."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Literal

from cifar_trainer.config import DEVICES, TrainConfig, check_choice
from cifar_trainer.environment import cuda
from cifar_trainer.environment.machine import processor, usable_cores
from cifar_trainer.errors import DeviceError


@dataclasses.dataclass(frozen=True)
class Threads:
    """TensorFlow's threads.

    Attributes:
        inter_op: operations that run side by side.
        intra_op: threads inside one operation.
    """

    inter_op: int
    intra_op: int


def load_tensorflow(verbose: bool = False) -> None:
    """Import TensorFlow and Keras, without their chatter unless `verbose`.

    TF_CPP_MIN_LOG_LEVEL is not enough: what is logged before TensorFlow has set up its
    log goes to stderr regardless (seen with 2.21). So file descriptor 2 is captured for
    the import and the first listing of the devices; where that fails, it is shown.
    """
    # Read once, at the import. The training loop is TensorFlow's, whatever other projects use.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if verbose:
        _import()
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _captured_stderr():
        _import()


def _import() -> None:
    import keras
    import tensorflow as tf

    # ~/.keras/keras.json may say otherwise for other projects.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    tf.config.list_physical_devices()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Keep what is written to file descriptor 2; show it only if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:
        # Closed: nobody reads it anyway.
        yield
        return
    with tempfile.TemporaryFile() as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            file.seek(0)
            os.write(2, file.read())
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def configure_threads(*, split: bool) -> Threads:
    """Two operations side by side; returns what is in force.

    Where TensorFlow has started already, its threads stay as they are.

    Args:
        split: whether the two are the halves of a batch, and have half of the cores each. Else
            the greater part is one operation after the other, and each has all.
    """
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(2)
        cores = usable_cores()
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // 2) if split else cores)
    return threads()


def threads() -> Threads:
    """TensorFlow's threads as they are set; 0 leaves the number to TensorFlow."""
    import tensorflow as tf

    return Threads(
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.threading.get_intra_op_parallelism_threads(),
    )


def enable_determinism() -> None:
    """From here on TensorFlow runs only operations that give the same bits each time."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


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


def start(config: TrainConfig | None = None, *, device: str | None = None, verbose: bool = False) -> Device:
    """Start TensorFlow as a run of these settings does: backend, device, threads, determinism.

    Args:
        config: the settings; None has all cores for each operation.
        device: one of `DEVICES`; None is that of the settings, or `auto`.
        verbose: show TensorFlow's own messages.

    Raises:
        DeviceError: the device is not there.
    """
    from cifar_trainer.recipes import get_recipe

    load_tensorflow(verbose)
    chosen = choose_device(device or ("auto" if config is None else config.device))
    configure_threads(split=config is not None and get_recipe(config.recipe).splittable)
    if config is not None and config.deterministic:
        enable_determinism()
    return chosen
