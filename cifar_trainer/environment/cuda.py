"""What TensorFlow needs for an NVIDIA GPU, what of it is here, and what to install for the rest.

Reads the system and loads libraries by name; never imports TensorFlow.
"""

import ctypes
import dataclasses
import os
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What TensorFlow 2.21 asks the system for on a GPU, and the package that brings it, a part of
#: tensorflow[and-cuda]. The number in a library's name is its binary interface.
LIBRARIES = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
}

_EXTRA = "pip install 'cifar-trainer[gpu]'"
_DRIVER_VERSION_FILE = Path("/proc/driver/nvidia/version")


@dataclasses.dataclass(frozen=True)
class Missing:
    """One thing that keeps TensorFlow from a GPU.

    Attributes:
        what: the exact file, library or setting, and what the system says of it.
        remedy: what to install or change.
    """

    what: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Cuda:
    """CUDA as TensorFlow was built for it, and as it is here.

    Attributes:
        gpu_present: the kernel shows an NVIDIA GPU, usable or not.
        driver: the driver's version, such as `550.54.14`.
        driver_cuda: the newest CUDA that the driver runs, such as `12.4`.
        cuda_built: the CUDA version that TensorFlow was built with; None without CUDA.
        cudnn_built: likewise of cuDNN.
        cuda_found: the version of the CUDA runtime library that is here.
        cudnn_found: likewise of cuDNN.
        missing: what stands between TensorFlow and a GPU, in the order to mend it.
    """

    gpu_present: bool
    driver: str | None
    driver_cuda: str | None
    cuda_built: str | None
    cudnn_built: str | None
    cuda_found: str | None
    cudnn_found: str | None
    missing: tuple[Missing, ...]

    def advice(self) -> str:
        """What is missing and what to do about it, as sentences."""
        if not self.missing:
            return (
                "Driver and libraries are all here, so TensorFlow itself turns the GPU down; "
                "`cifar-trainer env -v` shows what it says."
            )
        return " ".join(f"{missing.what}. {missing.remedy}." for missing in self.missing)


def inspect(build: Mapping[str, Any]) -> Cuda:
    """Look at driver and libraries.

    Args:
        build: `tf.sysconfig.get_build_info()`.
    """
    present = _gpu_present()
    missing: list[Missing] = []
    if not build.get("is_cuda_build"):
        missing.append(
            Missing("This TensorFlow was built without CUDA", f"Install one with it, on Linux: {_EXTRA}")
        )
    cuda_built = build.get("cuda_version")
    driver_cuda = _check_driver(present, cuda_built, missing)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        missing.append(Missing(f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "Unset it"))
    libraries = {name: _load(name) for name in LIBRARIES}
    lacking = [name for name, library in libraries.items() if isinstance(library, OSError)]
    if lacking:
        packages = ", ".join(sorted({LIBRARIES[name] for name in lacking}))
        what = f"{', '.join(lacking)} cannot be loaded"
        missing.append(Missing(what, f"Install {packages}, all of it at once: {_EXTRA}"))
    return Cuda(
        gpu_present=present,
        driver=_driver_version(),
        driver_cuda=driver_cuda,
        cuda_built=cuda_built,
        cudnn_built=build.get("cudnn_version"),
        cuda_found=_cuda_version(libraries["libcudart.so.12"]),
        cudnn_found=_cudnn_version(libraries["libcudnn.so.9"]),
        missing=tuple(missing),
    )


def bus_id(index: int) -> str | None:
    """The place on the bus, such as `0000:65:00.0`, of a GPU by CUDA's number; None if there is none.

    CUDA's numbers follow CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER; those of NVML, which
    reads power and utilisation, do not.
    """
    driver = _load("libcuda.so.1")
    if isinstance(driver, OSError):
        return None
    device, place = ctypes.c_int(), ctypes.create_string_buffer(32)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    if driver.cuDeviceGetPCIBusId(place, len(place), device):
        return None
    return place.value.decode()


def _gpu_present() -> bool:
    # /dev/dxg is the GPU of Windows inside its Linux subsystem.
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _check_driver(present: bool, cuda_built: str | None, missing: list[Missing]) -> str | None:
    """Add what is wrong with the driver to `missing`; the newest CUDA that it runs."""
    driver = _load("libcuda.so.1")
    if isinstance(driver, OSError):
        node = "" if present else "there is no /dev/nvidia0, and "
        missing.append(
            Missing(
                f"No NVIDIA driver: {node}libcuda.so.1 cannot be loaded",
                "Install NVIDIA's driver for the GPU (in a container: start it with --gpus all)",
            )
        )
        return None
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    runs = _dotted(number.value)
    if cuda_built and number.value // 1000 < int(cuda_built.split(".")[0]):
        missing.append(
            Missing(
                f"The NVIDIA driver {_driver_version() or ''} is too old: it runs CUDA up to {runs}, "
                f"TensorFlow was built with {cuda_built}",
                "Install a newer driver",
            )
        )
    elif (code := driver.cuInit(0)) != 0:
        missing.append(
            Missing(
                f"The NVIDIA driver does not start: cuInit says {_error_name(driver, code)}",
                "Check that nvidia-smi lists a GPU; after an update of the driver, restart the machine",
            )
        )
    return runs


def _load(name: str) -> ctypes.CDLL | OSError:
    """Load a library as TensorFlow does: from NVIDIA's packages, else from the system."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    for place in [*map(str, packages.glob(f"*/lib/{name}")), name]:
        try:
            return ctypes.CDLL(place)
        except OSError as error:
            failure = error
    return failure


def _driver_version() -> str | None:
    try:
        text = _DRIVER_VERSION_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def _cuda_version(library: ctypes.CDLL | OSError) -> str | None:
    if isinstance(library, OSError):
        return None
    number = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(number))
    return _dotted(number.value)


def _cudnn_version(library: ctypes.CDLL | OSError) -> str | None:
    if isinstance(library, OSError):
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    # cuDNN 9 counts 10000, 100, 1; those before it 1000, 100, 1.
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _dotted(number: int) -> str:
    """CUDA's 12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _error_name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {code}"
