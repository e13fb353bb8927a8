"""What is missing for a GPU is named, with what to install ; the libraries are stand-ins."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifar_trainer.devices import cuda

RunCli = Callable[..., subprocess.CompletedProcess[str]]
BUILD = {"is_cuda_build": True, "cuda_version": "12.5.1", "cudnn_version": "9"}


class Library:
    """A library that answers with numbers through pointers, as CUDA's do."""

    def __init__(self, **numbers: int) -> None:
        self._numbers = numbers

    def __getattr__(self, name: str) -> Any:
        number = self._numbers[name]

        def call(*arguments: Any) -> int:
            if arguments and hasattr(arguments[0], "_obj") and isinstance(arguments[0]._obj, ctypes.c_int):
                arguments[0]._obj.value = number
                return 0
            return number

        call.restype = None  # type: ignore[attr-defined]
        return call


DRIVER = Library(cuDriverGetVersion=12060, cuInit=0)
HERE: dict[str, Any] = {
    "libcuda.so.1": DRIVER,
    **{name: Library() for name in cuda.LIBRARIES},
    "libcudart.so.12": Library(cudaRuntimeGetVersion=12050),
    "libcudnn.so.9": Library(cudnnGetVersion=92400),
    "libcupti.so.12": Library(),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., cuda.Cuda]:
    """Looks at a machine with the libraries that are given; the others are not there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda, "gpu_present", lambda: True)
    monkeypatch.setattr(cuda, "_compute_capability", lambda driver: (9, 0))
    monkeypatch.setattr(cuda, "_find_ptxas", lambda: Path("/usr/local/cuda/bin/ptxas"))
    monkeypatch.setattr(cuda, "_find_libdevice", lambda: Path("/usr/local/cuda/libdevice.10.bc"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(cuda, "_driver_version", lambda: "550.54.14")

    def look(build: dict[str, Any] = BUILD, *, listed: bool = False, **changed: Any) -> cuda.Cuda:
        libraries = {**HERE, **{name.replace("_so_", ".so."): value for name, value in changed.items()}}
        monkeypatch.setattr(cuda, "_load", lambda name: libraries[name])
        return cuda.inspect(build, listed=listed)

    return look


def test_where_all_is_there_nothing_is_missing(machine: Callable[..., cuda.Cuda]) -> None:
    found = machine()
    assert found.missing == ()
    assert (found.driver, found.driver_cuda, found.cuda_found, found.cudnn_found) == (
        "550.54.14", "12.6", "12.5", "9.24.0",
    )  # fmt: skip
    assert "TensorFlow still does not list the GPU" in found.advice()


def test_a_driver_that_is_too_old_is_named_with_what_it_runs(machine: Callable[..., cuda.Cuda]) -> None:
    advice = machine(libcuda_so_1=Library(cuDriverGetVersion=11040, cuInit=0)).advice()
    assert (
        "driver 550.54.14 is too old: it supports CUDA up to 11.4, but TensorFlow was built with 12.5.1"
        in advice
    )
    assert "Install a newer driver" in advice


def test_a_library_that_is_missing_is_named_with_its_package(machine: Callable[..., cuda.Cuda]) -> None:
    advice = machine(libcudnn_so_9=OSError("not found")).advice()
    assert "libcudnn.so.9 cannot be loaded" in advice
    assert "nvidia-cudnn-cu12" in advice
    assert "[gpu]" in advice


def test_without_a_driver_that_comes_first(machine: Callable[..., cuda.Cuda]) -> None:
    found = machine(libcuda_so_1=OSError("not found"))
    assert found.missing[0].what.startswith("No NVIDIA driver")
    assert "--gpus all" in found.missing[0].remedy


def test_a_hidden_gpu_and_a_build_without_cuda_are_named(
    machine: Callable[..., cuda.Cuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = machine({"is_cuda_build": False})
    said = " ".join(missing.what for missing in found.missing)
    assert "built without CUDA" in said
    assert "CUDA_VISIBLE_DEVICES='-1' hides every GPU" in said


@pytest.mark.parametrize("listed", [False, True])
def test_an_older_cudnn_is_named_with_what_to_install(
    machine: Callable[..., cuda.Cuda], listed: bool
) -> None:
    found = machine(listed=listed, libcudnn_so_9=Library(cudnnGetVersion=90501))
    (missing,) = found.missing
    assert missing.what.startswith("cuDNN 9.5.1 is older than 9.24")
    assert "nvidia-cudnn-cu12>=9.24" in missing.remedy


def test_an_older_cudnn_is_no_reason_not_to_try(machine: Callable[..., cuda.Cuda]) -> None:
    assert machine(listed=True, libcudnn_so_9=Library(cudnnGetVersion=90501)).obstacles == ()


def test_a_driver_below_cuda_12_5_is_too_old_for_hopper(machine: Callable[..., cuda.Cuda]) -> None:
    found = machine(listed=True, libcuda_so_1=Library(cuDriverGetVersion=12040, cuInit=0))
    (obstacle,) = found.obstacles
    assert "supports CUDA up to 12.4" in obstacle.what
    assert "555" in obstacle.remedy


def test_the_same_driver_will_do_for_an_ampere(
    machine: Callable[..., cuda.Cuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_compute_capability", lambda driver: (8, 6))
    assert machine(listed=True, libcuda_so_1=Library(cuDriverGetVersion=12040, cuInit=0)).missing == ()


def test_a_gpu_that_is_newer_than_tensorflow_is_named(
    machine: Callable[..., cuda.Cuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_compute_capability", lambda driver: (12, 0))
    (obstacle,) = machine(listed=True).obstacles
    assert "compute capability 12.0" in obstacle.what


@pytest.mark.parametrize(
    ("function", "name"), [("_find_ptxas", "ptxas"), ("_find_libdevice", "libdevice.10.bc")]
)
def test_what_xla_compiles_with_is_named_where_it_is_missing(
    machine: Callable[..., cuda.Cuda], monkeypatch: pytest.MonkeyPatch, function: str, name: str
) -> None:
    monkeypatch.setattr(cuda, function, lambda: None)
    (obstacle,) = machine(listed=True).obstacles
    assert obstacle.what.startswith(f"{name} cannot be found")
    assert "nvidia-cuda-nvcc-cu12" in obstacle.remedy


def test_the_toolkit_that_xlas_flag_names_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ptxas = tmp_path / "bin" / "ptxas"
    ptxas.parent.mkdir()
    ptxas.touch()
    monkeypatch.setattr(cuda, "_packages", lambda: tmp_path / "none")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=d --xla_gpu_cuda_data_dir={tmp_path}")
    assert cuda._find_ptxas() == ptxas


def test_a_search_path_that_shadows_pips_libraries_is_named(
    machine: Callable[..., cuda.Cuda], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("packages/cudnn/lib", "module"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "libcudnn.so.9").touch()
    monkeypatch.setattr(cuda, "_packages", lambda: tmp_path / "packages")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path / 'module'}")
    (missing,) = machine(listed=True).missing
    assert str(tmp_path / "module") in missing.what
    assert not missing.blocks


def test_a_missing_profiler_library_keeps_only_the_profiler_from_working(
    machine: Callable[..., cuda.Cuda],
) -> None:
    (missing,) = machine(listed=True, libcupti_so_12=OSError("not found")).missing
    assert "--profile" in missing.what
    assert not missing.blocks


def test_env_shows_versions_devices_and_what_a_gpu_would_need(run_cli: RunCli) -> None:
    import json

    done = run_cli(["env", "--json"])
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert "tensorflow" in json.dumps(printed)
    shown = run_cli(["env"])
    assert shown.returncode == 0
    assert "NVIDIA driver" in shown.stdout
