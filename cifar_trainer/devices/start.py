"""Start TensorFlow in a process: backend, quiet import, device, threads, determinism."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from cifar_trainer.devices import cuda
from cifar_trainer.devices.machine import gains_from_onednn, processor, usable_cores
from cifar_trainer.errors import DeviceError
from cifar_trainer.settings import DEVICE_ALIASES, DEVICES, Settings, check_choice

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Threads:
    """TensorFlow's threads.

    Attributes:
        inter_op: number of operations that run in parallel.
        intra_op: number of threads in one operation.
    """

    inter_op: int
    intra_op: int


@dataclasses.dataclass(frozen=True)
class Device:
    """The device that computes.

    Attributes:
        kind: `cpu` or `gpu`.
        description: such as `AMD EPYC, 2 cores` or `NVIDIA H100`.
        count: number of such devices.
        bus_id: a GPU's PCI bus id, by which NVML finds it.
        warning: why an existing GPU is not used, or may fail; empty if there is no problem.
    """

    kind: Literal["cpu", "gpu"]
    description: str
    count: int
    bus_id: str | None = None
    warning: str = ""


def start(
    settings: Settings | None = None,
    *,
    split: bool = False,
    device: str | None = None,
    onednn: bool | None = None,
    verbose: bool = False,
    nth_gpu: int | None = None,
) -> Device:
    """Start TensorFlow for a run with these settings: backend, device, threads, determinism, TF32.

    Device and threads can be set once in a process: if TensorFlow computes already, they stay as they are,
    and the device that is returned is the one in use. Determinism, once enabled, stays enabled.

    Args:
        settings: of the run; None uses float32.
        split: whether the halves of a batch are computed side by side (`recipes.is_splittable`); otherwise
            each operation gets all cores.
        device: one of `DEVICES`; None is that of the settings, or `auto`.
        onednn: whether to use oneDNN's kernels on a CPU; a resumed run keeps its choice. None: whatever is
            known to be faster on this processor. The user's own TF_ENABLE_ONEDNN_OPTS wins.
        verbose: show TensorFlow's own messages.
        nth_gpu: index of the only GPU to use; None: all of them.

    Raises:
        UsageError: `device` is not a device.
        DeviceError: the device is missing or cannot be used, with the reason; or a GPU was asked for, but
            this process computes on the CPU already.
    """
    prepare(onednn=onednn, verbose=verbose)
    chosen = choose_device(device or ("auto" if settings is None else settings.device), nth_gpu)
    configure_threads(split=split)
    if settings is not None and settings.deterministic:
        enable_determinism()
    _set_tf32(settings is not None and settings.precision == "tf32")
    return chosen


def prepare(*, onednn: bool | None = None, verbose: bool = False) -> None:
    """Import TensorFlow as `start` does, without choosing device and threads."""
    _set_variables(onednn)
    load_tensorflow(verbose)


def _set_variables(onednn: bool | None) -> None:
    """Set the variables that TensorFlow, Keras and XLA read once, when they are imported."""
    # The training loop needs TensorFlow, whatever backend other projects use.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # It would make TensorFlow's exporter look for Keras 2, which is another package.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    # Keras imports Matplotlib, which fails if a shell inherits the backend of a notebook's kernel.
    backend = os.environ.get("MPLBACKEND", "")
    if backend.startswith("module://") and not _can_import(backend.removeprefix("module://")):
        os.environ["MPLBACKEND"] = "agg"
    if onednn is None:
        onednn = gains_from_onednn()
    if onednn is not None:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", str(int(onednn)))
    if cuda.gpu_present():
        os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))


def _can_import(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def xla_flags(given: str) -> str:
    """XLA's flags for a GPU: the user's, and ours if the user has not set them.

    Args:
        given: the value of XLA_FLAGS: flags, or the name of a file of flags, which is left unchanged.
    """
    if given.strip() and not given.strip().startswith("-"):
        return given
    ours = {
        # The matrix products of `training.layers` are too small for Triton.
        "--xla_gpu_enable_triton_gemm": "false",
    }
    # A second run then need not measure the kernels again, and chooses the same ones.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar-trainer" / "xla"
    # If the folder cannot be written, each process measures again.
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        # XLA splits its flags at spaces.
        if " " not in str(cache):
            ours["--xla_gpu_per_fusion_autotune_cache_dir"] = str(cache)
    named = {flag.partition("=")[0] for flag in given.split()}
    return " ".join(
        [*given.split(), *(f"{flag}={value}" for flag, value in ours.items() if flag not in named)]
    )


def load_tensorflow(verbose: bool = False) -> None:
    """Import TensorFlow and Keras, without their messages unless `verbose`.

    TF_CPP_MIN_LOG_LEVEL is not enough: until TensorFlow has set up its log, it writes to stderr regardless
    (seen with 2.21). So file descriptor 2 is captured during the import and the first listing of the
    devices, and shown if that fails.

    Raises:
        DeviceError: Keras was already imported with another backend.
    """
    if "tensorflow" not in sys.modules:
        # The command line shows it: loading takes seconds, on a slow disk half a minute.
        log.info("loading TensorFlow ...")
    if verbose:
        _import()
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _captured_stderr():
        _import()


def _import() -> None:
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise DeviceError(
            f"Keras was already imported with the backend {keras.backend.backend()!r}; expected tensorflow. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported, or use another process."
        )
    # ~/.keras/keras.json may say otherwise for other projects.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    tf.config.list_physical_devices()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Capture file descriptor 2; show what was written only if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:
        # It is closed: nobody reads it.
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
    """Let two operations run in parallel; returns the number of threads in use.

    If TensorFlow has already started, its threads stay as they are.

    Args:
        split: whether the two are the halves of a batch, with half of the cores each. Otherwise operations
            mostly run one after the other, and each gets all cores.
    """
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(2)
        cores = usable_cores()
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // 2) if split else cores)
    return threads()


def threads() -> Threads:
    """TensorFlow's numbers of threads; 0 means that TensorFlow decides."""
    import tensorflow as tf

    return Threads(
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.threading.get_intra_op_parallelism_threads(),
    )


def _set_tf32(enabled: bool) -> None:
    """Let a GPU round the factors of products to 10 bits of mantissa, or keep the 23 of float32.

    TensorFlow's default is to round (on NVIDIA's Ampere and later; a CPU never does).
    """
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(enabled)


def tf32_enabled() -> bool:
    """Whether products of float32 may be computed in TF32."""
    import tensorflow as tf

    return bool(tf.config.experimental.tensor_float_32_execution_enabled())


def enable_determinism() -> None:
    """Allow only deterministic operations from now on."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def choose_device(name: str, nth_gpu: int | None = None) -> Device:
    """Choose where to compute; call it before TensorFlow's first operation.

    `auto` takes a GPU if TensorFlow can use one; `cpu` hides the GPUs from TensorFlow. GPU memory is
    allocated as needed, not all at once. If TensorFlow already computes, its device is kept, with a warning
    if another one was asked for.

    Args:
        name: one of `DEVICES`.
        nth_gpu: as in `start`.

    Raises:
        UsageError: `name` is not a device.
        DeviceError: `gpu` was asked for, but TensorFlow cannot use one, with the reason; or this process
            already computes on the CPU.
    """
    import tensorflow as tf

    check_choice("device", name, DEVICES, DEVICE_ALIASES)
    gpus = tf.config.list_physical_devices("GPU")
    first = 0
    if nth_gpu is not None and len(gpus) > 1:
        first = nth_gpu % len(gpus)
        gpus = [gpus[first]]
    if name == "cpu":
        if _make_visible([]):
            return _cpu()
        return _gpu(
            len(gpus),
            "TensorFlow uses the GPU already in this process. To compute on the CPU, use another process.",
        )
    report = cuda.inspect(tf.sysconfig.get_build_info(), listed=bool(gpus))
    advice = report.advice()
    if gpus and not report.obstacles:
        if _make_visible(gpus):
            for gpu in gpus:
                # TensorFlow refuses it once it has started, but still uses the device.
                with contextlib.suppress(RuntimeError):
                    tf.config.experimental.set_memory_growth(gpu, True)
            return _gpu(len(gpus), advice if report.missing else "", first)
        problem = (
            "TensorFlow uses the CPU already in this process. To compute on the GPU, use another process."
        )
        if name == "gpu":
            raise DeviceError(f"--device gpu: {problem}")
        return _cpu(problem)
    if name == "gpu":
        found = "a GPU that it cannot use" if gpus else "no GPU that it can use"
        raise DeviceError(f"--device gpu: TensorFlow finds {found}. {advice}")
    if not _make_visible([]):
        return _gpu(len(gpus), advice)
    return _cpu(f"There is a GPU, but the CPU computes. {advice}" if gpus or report.gpu_present else "")


def _make_visible(gpus: Sequence[Any]) -> bool:
    """Let TensorFlow use only these GPUs; False if it has already started with others."""
    import tensorflow as tf

    if list(tf.config.get_visible_devices("GPU")) == list(gpus):
        return True
    try:
        tf.config.set_visible_devices(gpus, "GPU")
    except RuntimeError:
        return False
    return True


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


def _gpu(count: int, warning: str, index: int = 0) -> Device:
    return Device("gpu", describe_gpu(index), count, cuda.bus_id(index), warning)


def _cpu(warning: str = "") -> Device:
    return Device("cpu", describe_cpu(), 1, warning=warning)
