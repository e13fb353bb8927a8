"""Start TensorFlow: backend, quiet import, device, threads, determinism."""

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
class Device:
    """The device in use.

    Attributes:
        kind: `cpu` or `gpu`.
        description: such as `AMD EPYC, 2 cores` or `NVIDIA H100`.
        count: number of such devices.
        bus_id: a GPU's PCI bus id, which NVML uses to identify it.
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

    Device and threads can be set only once per process: if TensorFlow is already computing, they do not
    change, and the returned device is the one in use. Once enabled, determinism stays enabled.

    Args:
        settings: the run's settings; None uses float32.
        split: whether the two halves of a batch are computed in parallel (`recipes.is_splittable`);
            otherwise each operation gets all cores.
        device: one of `DEVICES`; None uses the settings' device, or `auto`.
        onednn: whether to use oneDNN's kernels on a CPU; a resumed run keeps its choice. None: what is known
            to be faster on this processor. TF_ENABLE_ONEDNN_OPTS takes precedence if the user has set it.
        verbose: show TensorFlow's own messages.
        nth_gpu: index of the only GPU to use; None uses all.

    Raises:
        UsageError: `device` is invalid.
        DeviceError: the device is missing or cannot be used, with the reason; or a GPU was requested, but
            this process is already computing on the CPU.
    """
    prepare(onednn=onednn, verbose=verbose)
    chosen = choose_device(device or ("auto" if settings is None else settings.device), nth_gpu)
    _configure_threads(split)
    import tensorflow as tf

    # It would merge additions into one operation, AddN, whose rounding depends on which operations end first.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    if settings is not None and settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    # By default, TensorFlow uses TF32 on NVIDIA's Ampere and later: factors with 10 bits of mantissa.
    tf.config.experimental.enable_tensor_float_32_execution(
        settings is not None and settings.precision == "tf32"
    )
    return chosen


def prepare(*, onednn: bool | None = None, verbose: bool = False) -> None:
    """Import TensorFlow as `start` does, but without choosing device and threads."""
    _set_variables(onednn)
    load_tensorflow(verbose)


def _set_variables(onednn: bool | None) -> None:
    """Set the environment variables that TensorFlow, Keras and XLA read when they are imported."""
    # The training loop needs TensorFlow, even if the user prefers another backend.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # This variable would make TensorFlow's exporter look for Keras 2, a different package.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    # Keras imports Matplotlib, which fails if a shell has inherited a missing backend from a notebook.
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


def xla_flags(user_flags: str) -> str:
    """XLA's flags for a GPU: the user's, and our defaults for flags that the user has not set.

    Args:
        user_flags: the value of XLA_FLAGS: flags, or the name of a file of flags, returned unchanged.
    """
    if user_flags.strip() and not user_flags.strip().startswith("-"):
        return user_flags
    ours = {
        # The matrix products of `training.layers` are too small for Triton.
        "--xla_gpu_enable_triton_gemm": "false",
    }
    # With the cache, later runs need not measure the kernels again, and choose the same ones.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cifar-trainer" / "xla"
    # If the folder cannot be written, each process measures the kernels again.
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        # XLA splits its flags at spaces.
        if " " not in str(cache):
            ours["--xla_gpu_per_fusion_autotune_cache_dir"] = str(cache)
    names = {flag.partition("=")[0] for flag in user_flags.split()}
    return " ".join(
        [*user_flags.split(), *(f"{flag}={value}" for flag, value in ours.items() if flag not in names)]
    )


def load_tensorflow(verbose: bool = False) -> None:
    """Import TensorFlow and Keras, without their messages unless `verbose`.

    TF_CPP_MIN_LOG_LEVEL is not enough: before TensorFlow (2.21) has set up its log, it ignores this variable
    and writes to stderr. So file descriptor 2 is captured during the import and the first listing of the
    devices. The captured text is shown if that fails.

    Raises:
        DeviceError: Keras was already imported with another backend.
    """
    if "tensorflow" not in sys.modules:
        # Shown on the command line: loading takes seconds, or half a minute on a slow disk.
        log.info("loading TensorFlow ...")
    if verbose:
        _import()
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _captured_stderr():
        _import()
    # TensorFlow warns if functions are traced often. The training loop is, once for each phase of each run.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _import() -> None:
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise DeviceError(
            f"Keras was already imported with the backend {keras.backend.backend()!r}; expected tensorflow. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported, or use another process."
        )
    # ~/.keras/keras.json may have other values.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    tf.config.list_physical_devices()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Capture file descriptor 2; show what was written only if the block fails."""
    try:
        stderr = os.dup(2)
    except OSError:
        # It is closed, so there is nothing to capture.
        yield
        return
    with tempfile.TemporaryFile() as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(stderr, 2)
            file.seek(0)
            os.write(2, file.read())
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def _configure_threads(split: bool) -> None:
    """If `split`, let two operations run in parallel, the halves of a batch, with half of the cores each.

    Otherwise operations mostly run sequentially, and each gets all cores. Has no effect if TensorFlow has
    already started.
    """
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(2)
        cores = usable_cores()
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // 2) if split else cores)


def threads() -> dict[str, int]:
    """TensorFlow's numbers of threads between and within operations; 0 means TensorFlow's default."""
    import tensorflow as tf

    return {
        "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
    }


def choose_device(name: str, nth_gpu: int | None = None) -> Device:
    """Choose the device; call this before TensorFlow's first operation.

    `auto` uses a GPU if TensorFlow can; `cpu` hides GPUs from TensorFlow. GPU memory is allocated as needed,
    not all at once. If TensorFlow is already computing, its device is kept, with a warning if another one was
    requested.

    Args:
        name: one of `DEVICES`.
        nth_gpu: as in `start`.

    Raises:
        UsageError: `name` is invalid.
        DeviceError: `gpu` was requested, but TensorFlow cannot use one, with the reason; or this process is
            already computing on the CPU.
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
            "TensorFlow already uses the GPU in this process. To compute on the CPU, use another process.",
        )
    report = cuda.inspect(tf.sysconfig.get_build_info(), listed=bool(gpus))
    advice = report.advice()
    if gpus and not report.obstacles:
        if _make_visible(gpus):
            for gpu in gpus:
                # Fails once TensorFlow has started, but the device can still be used.
                with contextlib.suppress(RuntimeError):
                    tf.config.experimental.set_memory_growth(gpu, True)
            return _gpu(len(gpus), advice if report.missing else "", first)
        problem = (
            "TensorFlow already uses the CPU in this process. To compute on the GPU, use another process."
        )
        if name == "gpu":
            raise DeviceError(f"--device gpu: {problem}")
        return _cpu(problem)
    if name == "gpu":
        problem = "cannot use the GPU" if gpus else "does not find a usable GPU"
        raise DeviceError(f"--device gpu: TensorFlow {problem}. {advice}")
    if not _make_visible([]):
        return _gpu(len(gpus), advice)
    return _cpu(f"There is a GPU, but the CPU is used. {advice}" if gpus or report.gpu_present else "")


def _make_visible(gpus: Sequence[Any]) -> bool:
    """Make TensorFlow use only these GPUs; False if it has already started with others."""
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
