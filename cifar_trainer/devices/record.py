"""Record the environment of a run, and compare two records."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifar_trainer import __version__, process
from cifar_trainer.devices import cuda, machine
from cifar_trainer.devices.start import Device, threads

#: Entries that can change the last bits of a result, with their names in messages.
_AFFECTS_RESULT = {
    ("versions", "tensorflow"): "TensorFlow",
    ("versions", "keras"): "Keras",
    ("versions", "numpy"): "NumPy",
    ("versions", "cifar-trainer"): "cifar-trainer",
    ("device", "kind"): "the device",
    ("device", "description"): "the device's name",
    ("processor", "name"): "the processor",
    ("processor", "instruction_sets"): "the processor's instruction sets",
    ("threads", "inter_op"): "the number of inter-op threads",
    ("threads", "intra_op"): "the number of intra-op threads",
    ("onednn",): "oneDNN",
    ("tf32",): "TF32",
    ("replicas",): "the number of processes",
    ("side_by_side",): "the number of seeds in one program",
    ("cuda", "driver"): "the NVIDIA driver",
    ("cuda", "cuda_found"): "CUDA",
    ("cuda", "cudnn_found"): "cuDNN",
}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect a result."""
    return {
        "python": platform.python_version(),
        "cifar-trainer": __version__,
        **{name: version(name) for name in ("tensorflow", "keras", "numpy")},
    }


def describe_environment(device: Device) -> dict[str, Any]:
    """The content of environment.json, as JSON types."""
    import tensorflow as tf

    return {
        "started_at": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        # Not sys.argv: in a notebook or script, that is another program's command and may contain secrets.
        "command_line": process.command_line,
        "commit": _commit(),
        "versions": versions(),
        "platform": platform.platform(),
        "processor": {
            "name": machine.processor(),
            "usable_cores": machine.usable_cores(),
            "instruction_sets": machine.instruction_sets(),
        },
        "device": {
            "kind": device.kind,
            "description": device.description,
            "count": device.count,
        },
        "threads": threads(),
        "onednn": onednn_enabled(),
        "tf32": device.kind == "gpu" and bool(tf.config.experimental.tensor_float_32_execution_enabled()),
        "cuda": _cuda(device),
    }


def compare_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences that can change the result, such as `TensorFlow was 2.21.0 and is 2.21.1`."""
    differences = []
    for keys, title in _AFFECTS_RESULT.items():
        was, is_ = _look_up(before, keys), _look_up(now, keys)
        if was != is_:
            differences.append(f"{title} was {_shown(was)} and is {_shown(is_)}")
    return differences


def onednn_enabled() -> bool:
    """Whether TensorFlow uses oneDNN's kernels (TF_ENABLE_ONEDNN_OPTS)."""
    # TensorFlow has no public function for this; its own tests use this one.
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def _cuda(device: Device) -> dict[str, Any]:
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    built = {"cuda_built": build.get("cuda_version"), "cudnn_built": build.get("cudnn_version")}
    if device.kind == "cpu":
        return {**built, "driver": None, "cuda_found": None, "cudnn_found": None}
    installed = cuda.inspect(build, listed=True)
    return {
        **built,
        "driver": installed.driver,
        "cuda_found": installed.cuda_found,
        "cudnn_found": installed.cudnn_found,
    }


def _commit() -> str | None:
    """The git commit of this package, if it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _look_up(record: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "unknown"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else str(value)
