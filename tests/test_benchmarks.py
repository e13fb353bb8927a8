"""The benchmarks run, in small and without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_python

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_the_gpu_check_carries_out_each_step_on_a_cpu_in_small(data_dir: Path, tmp_path: Path) -> None:
    command = [BENCHMARKS / "gpu_check.py", "--device", "cpu", "--tiny", "--dataset", "synthetic"]
    done = run_python([*command, "--data-dir", data_dir, "--output", tmp_path])
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [name for name, result in results.items() if "error" in result] == []
    assert results["deterministic"]["same_bits"]
    assert results["kill and resume"]["same_bits"]
    assert "| float32 |" in (tmp_path / "gpu-check.md").read_text()


def test_a_contestant_that_fails_is_a_row_and_the_others_are_kept(data_dir: Path, tmp_path: Path) -> None:
    command = [BENCHMARKS / "against_listing.py", "--data-dir", data_dir, "--dataset", "synthetic"]
    kept = tmp_path / "kept.json"
    options = ["--device", "cpu", "--epochs", 1, "--repeats", 1, "--limit", 320, "--output", kept]
    done = run_python([*command, *options, "--precisions", "float32", "float128"])
    assert done.returncode == 0, done.stderr
    assert "| float128 | failed: " in done.stdout
    assert len(json.loads(kept.read_text())["runs"]["float32"]) == 1


def test_the_training_loop_can_be_lowered_without_a_gpu(tmp_path: Path) -> None:
    hlo = tmp_path / "step.hlo.txt"
    done = run_python([BENCHMARKS / "gpu_program.py", "--images", 640, "--lower-only", hlo])
    assert done.returncode == 0, done.stderr
    assert hlo.read_text().startswith("HloModule")


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None, reason="JAX's XLA for CUDA is not installed"
)
def test_documents_step_is_one_cuda_graph_of_at_most_51_thunks() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_program.py", "--images", "640", "--json"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["thunks_in_the_loop_body"] <= 51
    assert counted["one_cuda_graph_could_hold_the_loop"]
    assert counted["known_trip_count"]
