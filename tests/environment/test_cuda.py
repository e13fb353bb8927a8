"""What is missing for a GPU is named, with what to install (row 39); the libraries are stand-ins."""

import ctypes
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from cifar_trainer.environment import cuda

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


DRIVER = Library(cuDriverGetVersion=12040, cuInit=0)
HERE: dict[str, Any] = {
    "libcuda.so.1": DRIVER,
    **{name: Library() for name in cuda.LIBRARIES},
    "libcudart.so.12": Library(cudaRuntimeGetVersion=12050),
    "libcudnn.so.9": Library(cudnnGetVersion=90300),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., cuda.Cuda]:
    """Looks at a machine with the libraries that are given; the others are not there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda, "_gpu_present", lambda: True)
    monkeypatch.setattr(cuda, "_driver_version", lambda: "550.54.14")

    def look(build: dict[str, Any] = BUILD, **changed: Any) -> cuda.Cuda:
        libraries = {**HERE, **{name.replace("_so_", ".so."): value for name, value in changed.items()}}
        monkeypatch.setattr(cuda, "_load", lambda name: libraries[name])
        return cuda.inspect(build)

    return look


def test_where_all_is_there_nothing_is_missing(machine: Callable[..., cuda.Cuda]) -> None:
    found = machine()
    assert found.missing == ()
    assert (found.driver, found.driver_cuda, found.cuda_found, found.cudnn_found) == (
        "550.54.14", "12.4", "12.5", "9.3.0",
    )  # fmt: skip
    assert "TensorFlow itself turns the GPU down" in found.advice()


def test_a_driver_that_is_too_old_is_named_with_what_it_runs(machine: Callable[..., cuda.Cuda]) -> None:
    advice = machine(libcuda_so_1=Library(cuDriverGetVersion=11040, cuInit=0)).advice()
    assert "driver 550.54.14 is too old: it runs CUDA up to 11.4, TensorFlow was built with 12.5.1" in advice
    assert "Install a newer driver" in advice


def test_a_library_that_is_missing_is_named_with_its_package(machine: Callable[..., cuda.Cuda]) -> None:
    advice = machine(libcudnn_so_9=OSError("not found")).advice()
    assert "libcudnn.so.9 cannot be loaded" in advice
    assert "nvidia-cudnn-cu12" in advice
    assert "cifar-trainer[gpu]" in advice


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


def test_env_shows_versions_devices_and_what_a_gpu_would_need(run_cli: RunCli) -> None:
    import json

    done = run_cli(["env", "--json"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "tensorflow" in json.dumps(told)
    shown = run_cli(["env"])
    assert shown.returncode == 0
    assert "NVIDIA driver" in shown.stdout
