"""Check what TensorFlow needs for an NVIDIA GPU, and how to install what is missing.

Inspects the system and loads libraries by name; never imports TensorFlow.
"""

import ctypes
import dataclasses
import importlib.util
import os
import re
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifar_trainer.extras import install_command

Version = tuple[int, ...]

#: Libraries that TensorFlow 2.21 loads for a GPU, and the packages of tensorflow[and-cuda] that contain them.
#: The number in a library's name is its ABI version.
LIBRARIES = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
}

#: With older versions, XLA's convolution with bias fails, as reported for T4, A10G and L4
#: (aws/deep-learning-containers#6417, #6418); 9.24 reportedly fixes it.
CUDNN_NEEDED = (9, 24)
#: For compute capability 9.0, TensorFlow 2.21 has elementwise kernels as PTX 8.5, which the driver compiles
#: at first use; drivers support it since CUDA 12.5 (R555). Above 9.0 the wheel has no kernels.
PTX_CUDA_NEEDED, LAST_CAPABILITY = (12, 5), (9, 0)
#: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_DRIVER_VERSION_FILE = Path("/proc/driver/nvidia/version")


@dataclasses.dataclass(frozen=True)
class Missing:
    """One reason why TensorFlow cannot use a GPU, or not fully.

    Attributes:
        what: the problem: the exact file, library or setting, and the system's message.
        remedy: what to install or change.
        blocks: whether the GPU cannot be used at all; otherwise only some operations fail.
    """

    what: str
    remedy: str
    blocks: bool = True


@dataclasses.dataclass(frozen=True)
class Cuda:
    """The CUDA versions that TensorFlow was built with, and those that are installed.

    Attributes:
        gpu_present: whether the kernel shows an NVIDIA GPU, usable or not.
        driver: the driver's version, such as `550.54.14`.
        driver_cuda: the newest CUDA version that the driver supports, such as `12.4`.
        cuda_built, cudnn_built: versions that TensorFlow was built with; None without CUDA.
        cuda_found, cudnn_found: versions of the installed libraries.
        missing: why TensorFlow cannot use a GPU, in the order to fix it.
        capability: the compute capability of the first GPU, such as `9.0`.
    """

    gpu_present: bool
    driver: str | None
    driver_cuda: str | None
    cuda_built: str | None
    cudnn_built: str | None
    cuda_found: str | None
    cudnn_found: str | None
    missing: tuple[Missing, ...]
    capability: str | None = None

    @property
    def obstacles(self) -> tuple[Missing, ...]:
        """The entries of `missing` that make the GPU unusable."""
        return tuple(missing for missing in self.missing if missing.blocks)

    def advice(self) -> str:
        """The problems and their remedies, as sentences."""
        if not self.missing:
            return (
                "The driver and all libraries are installed, but TensorFlow still does not list the GPU; "
                "`cifar-trainer env -v` shows its messages."
            )
        return " ".join(f"{missing.what}. {missing.remedy}." for missing in self.missing)


def inspect(build: Mapping[str, Any], *, listed: bool = False) -> Cuda:
    """Inspect driver, libraries and compiler.

    Args:
        build: `tf.sysconfig.get_build_info()`.
        listed: whether TensorFlow lists a GPU, which means that it found the driver and its libraries.
    """
    present = gpu_present()
    missing: list[Missing] = []
    cuda_built = build.get("cuda_version")
    driver = _load("libcuda.so.1")
    libraries = {name: _load(name) for name in LIBRARIES}
    if not listed:
        missing += _keeps_from_listing(build, present, driver, libraries)
    capability = None if isinstance(driver, OSError) else _compute_capability(driver)
    runs = None if isinstance(driver, OSError) else _newest_cuda(driver)
    cudnn = _cudnn_version(libraries["libcudnn.so.9"])
    if present or listed:
        missing += [*_check_capability(capability, runs), *_check_compiler(), *_check_cudnn(cudnn)]
        missing += [*_check_search_path(), *_check_profiler()]
    return Cuda(
        gpu_present=present,
        driver=_driver_version(),
        driver_cuda=None if runs is None else _joined(runs),
        cuda_built=cuda_built,
        cudnn_built=build.get("cudnn_version"),
        cuda_found=_cuda_version(libraries["libcudart.so.12"]),
        cudnn_found=None if cudnn is None else _joined(cudnn),
        missing=tuple(missing),
        capability=None if capability is None else _joined(capability),
    )


def _keeps_from_listing(
    build: Mapping[str, Any],
    present: bool,
    driver: ctypes.CDLL | OSError,
    libraries: Mapping[str, ctypes.CDLL | OSError],
) -> Iterator[Missing]:
    """Why TensorFlow does not list a GPU at all."""
    if not build.get("is_cuda_build"):
        remedy = f"On Linux, install one with CUDA: {install_command('gpu')}"
        yield Missing("This TensorFlow was built without CUDA", remedy)
    yield from _check_driver(driver, present, build.get("cuda_version"))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        yield Missing(f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "Unset it")
    lacking = [name for name, library in libraries.items() if isinstance(library, OSError)]
    if lacking:
        packages = ", ".join(sorted({LIBRARIES[name] for name in lacking}))
        remedy = f"Install {packages}, all of them with: {install_command('gpu')}"
        yield Missing(f"{', '.join(lacking)} cannot be loaded", remedy)


def _check_capability(capability: Version | None, runs: Version | None) -> Iterator[Missing]:
    if capability is None:
        return
    if capability > LAST_CAPABILITY:
        yield Missing(
            f"TensorFlow 2.21 has no kernels for this GPU's compute capability {_joined(capability)}; the "
            f"newest supported is {_joined(LAST_CAPABILITY)} (Hopper)",
            "Use another GPU, or --device cpu",
        )
    if capability == LAST_CAPABILITY and runs is not None and runs < PTX_CUDA_NEEDED:
        yield Missing(
            f"The NVIDIA driver {_driver_version() or ''} supports CUDA up to {_joined(runs)}; TensorFlow's "
            f"kernels for compute capability {_joined(capability)} need {_joined(PTX_CUDA_NEEDED)}",
            "Install driver 555 or newer",
        )


def _check_compiler() -> Iterator[Missing]:
    """XLA calls ptxas and links libdevice; TensorFlow's wheel contains neither."""
    found = {"ptxas": _find_ptxas(), "libdevice.10.bc": _find_libdevice()}
    lacking = [name for name, path in found.items() if path is None]
    if lacking:
        yield Missing(
            f"{' and '.join(lacking)} cannot be found; XLA needs this to compile for the GPU",
            f"Install nvidia-cuda-nvcc-cu12: {install_command('gpu')}",
        )


def _check_cudnn(found: Version | None) -> Iterator[Missing]:
    if found is not None and found < CUDNN_NEEDED:
        yield Missing(
            f"cuDNN {_joined(found)} is older than {_joined(CUDNN_NEEDED)}; with it, XLA is known to fail on "
            "convolutions with a bias",
            f"pip install 'nvidia-cudnn-cu12>={_joined(CUDNN_NEEDED)},<10'",
            blocks=False,
        )


def _check_search_path() -> Iterator[Missing]:
    """Libraries in LD_LIBRARY_PATH are loaded before those of pip's packages."""
    names = {path.name for folder in _package_folders() for path in folder.glob("*.so*")}
    for folder in _search_path():
        if folder.is_dir() and any((folder / name).exists() for name in names & set(LIBRARIES)):
            yield Missing(
                f"LD_LIBRARY_PATH puts the CUDA libraries in {folder} before those installed by pip",
                f"Remove {folder} from LD_LIBRARY_PATH, or unload its module",
                blocks=False,
            )


def _check_profiler() -> Iterator[Missing]:
    if isinstance(_load("libcupti.so.12"), OSError):
        yield Missing(
            "libcupti.so.12 cannot be loaded, so --profile cannot trace the GPU",
            f"Install nvidia-cuda-cupti-cu12: {install_command('gpu')}",
            blocks=False,
        )


def _find_ptxas() -> Path | None:
    beside = [root / "bin" / "ptxas" for root in _toolkits()]
    on_path = shutil.which("ptxas")
    return next((path for path in beside if path.is_file()), Path(on_path) if on_path else None)


def _find_libdevice() -> Path | None:
    candidates = [root / "nvvm" / "libdevice" / "libdevice.10.bc" for root in _toolkits()]
    return next((path for path in candidates if path.is_file()), None)


def _toolkits() -> list[Path]:
    """The folders where XLA looks for a CUDA toolkit."""
    flag = re.search(r"--xla_gpu_cuda_data_dir=(\S+)", os.environ.get("XLA_FLAGS", ""))
    named = [Path(value) for name in ("CUDA_HOME", "CUDA_DIR") if (value := os.environ.get(name))]
    named += [Path(flag[1])] if flag else []
    return [_packages() / "cuda_nvcc", *named, *sorted(Path("/usr/local").glob("cuda*"), reverse=True)]


def _packages() -> Path:
    """The folder of NVIDIA's packages beside TensorFlow, which looks in `$ORIGIN/../nvidia`."""
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        return Path(sysconfig.get_path("purelib")) / "nvidia"
    return Path(found.origin).parent.parent / "nvidia"


def _package_folders() -> list[Path]:
    return sorted(_packages().glob("*/lib"))


def _search_path() -> list[Path]:
    return [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]


def visible_gpus() -> list[str]:
    """The GPUs that a new process would see, as CUDA_VISIBLE_DEVICES identifies them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() and each.strip() != "-1"]
    matches = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in matches if match), key=int)


def bus_id(index: int) -> str | None:
    """The PCI bus id, such as `0000:65:00.0`, of CUDA's GPU `index`; None if there is no such GPU.

    CUDA's numbering depends on CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER; that of NVML, which reads power
    and utilization, does not.
    """
    driver = _load("libcuda.so.1")
    if isinstance(driver, OSError):
        return None
    device, buffer = ctypes.c_int(), ctypes.create_string_buffer(32)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    if driver.cuDeviceGetPCIBusId(buffer, len(buffer), device):
        return None
    return buffer.value.decode()


def gpu_present() -> bool:
    """Whether the kernel shows an NVIDIA GPU, usable or not."""
    # /dev/dxg is the GPU inside WSL.
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _check_driver(driver: ctypes.CDLL | OSError, present: bool, cuda_built: str | None) -> Iterator[Missing]:
    if isinstance(driver, OSError):
        node = "" if present else "there is no /dev/nvidia0, and "
        yield Missing(
            f"No NVIDIA driver: {node}libcuda.so.1 cannot be loaded",
            "Install NVIDIA's driver for the GPU (in a container: start it with --gpus all)",
        )
        return
    runs = _newest_cuda(driver)
    if cuda_built and runs[0] < int(cuda_built.split(".")[0]):
        yield Missing(
            f"The NVIDIA driver {_driver_version() or ''} is too old: it supports CUDA up to "
            f"{_joined(runs)}, but TensorFlow was built with {cuda_built}",
            "Install a newer driver",
        )
    elif (code := driver.cuInit(0)) != 0:
        yield Missing(
            f"The NVIDIA driver does not start: cuInit returns {_error_name(driver, code)}",
            "Check that nvidia-smi lists a GPU; after an update of the driver, restart the machine",
        )


def _newest_cuda(driver: ctypes.CDLL) -> Version:
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _compute_capability(driver: ctypes.CDLL) -> Version | None:
    """The compute capability of the first GPU that CUDA lists; None if there is no GPU."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for value, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
    return major.value, minor.value


def _load(name: str) -> ctypes.CDLL | OSError:
    """Load a library as TensorFlow does: from LD_LIBRARY_PATH, NVIDIA's packages, or the system."""
    paths = [folder / name for folder in (*_search_path(), *_package_folders()) if (folder / name).exists()]
    for path in [*map(str, paths), name]:
        try:
            return ctypes.CDLL(path)
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
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _cudnn_version(library: ctypes.CDLL | OSError) -> Version | None:
    if isinstance(library, OSError):
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    # cuDNN 9 encodes versions as 10000, 100, 1; earlier ones as 1000, 100, 1.
    return number // 10000, number // 100 % 100, number % 100


def _joined(version: Version) -> str:
    return ".".join(map(str, version))


def _error_name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {code}"
