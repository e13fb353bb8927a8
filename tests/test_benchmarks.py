"""The benchmarks run, in small and without a GPU."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import INTERPRETER, all_commands, environment, load_script, run_python
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from cifar_trainer import locks
from cifar_trainer.devices import cuda
from cifar_trainer.run import LOCK_NAME
from cifar_trainer.training import convolutions

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def compared(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What against_listing.py printed and saved; one of its precisions does not exist."""
    kept = tmp_path_factory.mktemp("listing") / "kept.json"
    command = [BENCHMARKS / "against_listing.py", "--data-dir", small_data, "--dataset", "synthetic"]
    options = ["--device", "cpu", "--epochs", 1, "--repeats", 1, "--limit", 64, "--output", kept]
    done = run_python([*command, *options, "--precisions", "float32", "float128"])
    assert done.returncode == 0, done.stderr
    return done.stdout, kept


@pytest.fixture(scope="module")
def timed(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What time_to_94.py printed and saved."""
    kept = tmp_path_factory.mktemp("timed") / "runs.json"
    command = [BENCHMARKS / "time_to_94.py", "--device", "cpu", "--precision", "float32", "--runs", 2]
    small = ["--recipe", "tutorial", "--epochs", 2, "--images", 100, "--batch-size", 50]
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--output", kept]
    done = run_python([*command, *small, *data])
    assert done.returncode == 0, done.stderr
    return done.stdout, kept


def after(option: str, arguments: tuple[str, ...]) -> Path | None:
    """The path that follows an option."""
    return Path(arguments[arguments.index(option) + 1]) if option in arguments else None


def test_the_gpu_check_carries_out_each_step_on_a_cpu_in_small(
    small_data: Path,
    compared: tuple[str, Path],
    timed: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each kind of program runs once; steps that differ by an option share its output."""
    gpu_check = load_script(BENCHMARKS / "gpu_check.py")
    really_run, one_at_a_time = gpu_check.Check.run, threading.Lock()
    printed: dict[tuple[str, ...], tuple[str, Path | None]] = {}
    saved = {"against_listing.py": compared[1], "time_to_94.py": timed[1]}

    def run(check: Any, *arguments: str, flags: str = "") -> str:
        script, folder = Path(arguments[0]).name, after("--run-dir", arguments)
        if script in saved:
            shutil.copy(saved[script], after("--output", arguments) or "")
            return ""
        if script == "-m":
            all_commands()[arguments[3]].make_context(arguments[3], list(arguments[4:]))
        decisive = ("--seeds", "--profile", "--resume", "--deterministic")
        if killed := after("--resume", arguments):
            # The fork server kills a process a moment after its client was killed.
            with locks.lock(killed / LOCK_NAME, on_wait=lambda: None):
                pass
        kind = (script, *arguments[3:4], *(option for option in decisive if option in arguments))
        with one_at_a_time:
            if kind not in printed:
                printed[kind] = really_run(check, *arguments), folder
            text, made = printed[kind]
        if folder is not None and made is not None and not folder.exists():
            shutil.copytree(made, folder)
        return text

    monkeypatch.setattr(gpu_check.Check, "run", run)
    # As for other commands; with another one, each would import TensorFlow again.
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    options = ["--device", "cpu", "--tiny", "--dataset", "synthetic", "--data-dir", small_data]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *map(str, [*options, "--output", tmp_path])])
    gpu_check.main()
    results = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {name: result["error"] for name, result in results.items() if "error" in result} == {}
    assert results["kill and resume"]["same_bits"]
    assert results["kernels a step"]["profiled_steps"] > 0
    assert results["kernels a step"]["kernels_a_step"] is None
    assert "| float32 |" in (tmp_path / "gpu-check.md").read_text()


def test_a_contestant_that_fails_is_a_row_and_the_others_are_kept(compared: tuple[str, Path]) -> None:
    printed, kept = compared
    assert "| float128 | failed: " in printed
    assert len(json.loads(kept.read_text())["runs"]["float32"]) == 1


def test_gradients_of_kernels_are_timed_for_each_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = load_script(BENCHMARKS / "kernel_gradients.py")
    monkeypatch.setattr(script, "SHAPES", ((2, 3, 4, 5), (2, 9, 4, 5)))
    # The script changes it.
    monkeypatch.setattr(convolutions, "SMALL_AREA", convolutions.SMALL_AREA)
    monkeypatch.setattr(sys, "argv", ["kernel_gradients.py", "--repeats", "1"])
    script.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["| 2, 3×3, 4 to 5", "| 2, 9×9, 4 to 5"]
    assert all(float(number.strip(" |")) > 0 for row in rows for number in row[1:])


def test_kernels_of_a_trace_are_those_of_the_gpus_streams_by_its_marked_steps(tmp_path: Path) -> None:
    space = xplane_pb2.XSpace()
    host = space.planes.add(name="/host:CPU")
    host.event_metadata[1].name = "train"
    host.stat_metadata[2].name = "steps"
    mark = host.lines.add(name="python").events.add(metadata_id=1)
    mark.stats.add(metadata_id=2, int64_value=10)
    gpu = space.planes.add(name="/device:GPU:0")
    for name, kernels in (("Stream #14(Compute)", 500), ("Stream #15(MemcpyD2H)", 10), ("XLA Ops", 500)):
        line = gpu.lines.add(name=name)
        for _ in range(kernels):
            line.events.add(metadata_id=3)
    (tmp_path / "a.xplane.pb").write_bytes(space.SerializeToString())
    done = run_python([BENCHMARKS / "count_kernels.py", tmp_path / "a.xplane.pb"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"profiled_steps": 10, "kernels_a_step": 51.0}


@pytest.mark.gpu
@pytest.mark.skipif(not cuda.gpu_present(), reason="there is no NVIDIA GPU")
def test_the_gpu_check_carries_out_each_step_on_a_gpu_in_small(data_dir: Path, tmp_path: Path) -> None:
    command = [BENCHMARKS / "gpu_check.py", "--device", "gpu", "--tiny", "--dataset", "synthetic"]
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [INTERPRETER, *map(str, [*command, "--data-dir", data_dir, "--output", tmp_path])],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [name for name, result in results.items() if "error" in result] == []


def test_the_gpu_check_begins_no_step_after_its_time(tmp_path: Path) -> None:
    command = [BENCHMARKS / "gpu_check.py", "--device", "cpu", "--tiny", "--minutes", 0, "--output", tmp_path]
    assert run_python(command).returncode == 0
    results = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {result["error"] for result in results.values()} == {"not started: the 0 minutes were over"}


def test_a_peer_that_is_not_installed_is_a_row_and_the_others_are_measured(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    options = ["--seconds", 0.1, "--repeats", 1, "--output", kept, "--peers", "torch"]
    # An interpreter without PyTorch, whether or not it is installed here.
    program = f'#!/bin/sh\nexec {INTERPRETER} -S "$@"\n'
    (tmp_path / "python").write_text(program)
    (tmp_path / "python").chmod(0o755)
    options += ["--python", f"torch={tmp_path / 'python'}"]
    done = run_python([BENCHMARKS / "against_peers.py", *options])
    assert done.returncode == 0, done.stderr
    assert "| torch | failed: torch is not installed |" in done.stdout
    assert len(json.loads(kept.read_text())["images_per_second"]["cifar-trainer"]) == 1


def test_the_peers_network_is_that_of_document(tmp_path: Path) -> None:
    small = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import against_peers as peers"
    options = ["--child", "keras fit", "--seconds", 0.1, "--batch-size", 500]
    done = run_python(["-c", f"{small}; peers.IMAGES = 1000; peers.main()", *options])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images_per_second"] > 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_training_loop_can_be_lowered_without_a_gpu(seeds: int, tmp_path: Path) -> None:
    """With the values of all constants, which the text that TensorFlow prints leaves out."""
    hlo = tmp_path / "step.hlo.pb"
    options = ["--images", 640, "--seeds", seeds, "--lower-only", hlo]
    done = run_python([BENCHMARKS / "gpu_program.py", *options])
    assert done.returncode == 0, done.stderr
    module = hlo_pb2.HloModuleProto.FromString(hlo.read_bytes())
    literals = [
        instruction.literal
        for computation in module.computations
        for instruction in computation.instructions
        if instruction.opcode == "constant" and list(instruction.shape.dimensions) == [32]
    ]
    assert any(list(literal.s32s) == list(range(32)) for literal in literals), "of the batch's indices"


#: A loop within a loop's body, as jaxlib 0.9 writes it.
SEQUENCE = """
0: kCopy
1: kWhile
  condition:
    0: kKernel
  body:
    0: kGemm
    1: kWhile
      condition:
        0: kKernel
      body:
        0: kConvolution
    2: kKernel
2: kCopy
"""


@pytest.mark.parametrize("sequence", [SEQUENCE, re.sub(" +condition:", "condition:", SEQUENCE)])
def test_the_thunks_of_each_loops_body_are_counted_in_old_and_new_dumps(sequence: str) -> None:
    gpu_program = load_script(BENCHMARKS / "gpu_program.py")
    found = gpu_program.read_bodies(sequence)
    assert found == [["kGemm", "kWhile", "kKernel"], ["kConvolution"]]


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None, reason="JAX's XLA for CUDA is not installed"
)
def test_documents_step_is_one_cuda_graph_of_at_most_51_thunks() -> None:
    done = subprocess.run(
        [INTERPRETER, BENCHMARKS / "gpu_program.py", "--images", "640", "--json"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["thunks_in_the_loop_body"] <= 51
    assert counted["one_cuda_graph_could_hold_the_loop"]
    assert counted["known_trip_count"]


def test_whole_trainings_are_timed_from_new_weights_each(timed: tuple[str, Path]) -> None:
    printed, kept = timed
    runs = json.loads(kept.read_text())["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert "accuracy: mean" in printed
