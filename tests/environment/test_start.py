"""One start of TensorFlow for every command, whatever other projects have set."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from command_line import run_python

from cifar_trainer.config import TrainConfig
from cifar_trainer.environment import machine, start
from cifar_trainer.environment.survey import FLOPS
from cifar_trainer.errors import DeviceError, UsageError

RunCli = Callable[..., subprocess.CompletedProcess[str]]
CONFIG = TrainConfig("document", "synthetic", 1, 32, 0.001, device="cpu")


def test_importing_the_environment_imports_no_tensorflow() -> None:
    code = "import cifar_trainer.environment, sys; print('tensorflow' in sys.modules)"
    assert run_python(["-c", code]).stdout == "False\n"


def test_starting_twice_gives_the_same_device() -> None:
    assert start(CONFIG) == start(CONFIG)


@pytest.mark.parametrize(
    ("precision", "enabled"), [("float32", False), ("tf32", True), ("bfloat16", False), ("float32", False)]
)
def test_tf32_is_on_only_where_it_was_asked_for(precision: str, enabled: bool) -> None:
    start(TrainConfig("document", "synthetic", 1, 32, 0.001, device="cpu", precision=precision))
    assert tf.config.experimental.tensor_float_32_execution_enabled() is enabled


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "0", "mps"])
def test_the_names_of_other_frameworks_for_a_gpu_get_a_hint(name: str) -> None:
    with pytest.raises(UsageError, match="Did you mean 'gpu'"):
        TrainConfig("document", "synthetic", 1, 32, 0.001, device=name)


def test_keras_with_another_backend_in_this_process_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(DeviceError, match="backend 'torch'"):
        start(CONFIG)


def test_env_works_whatever_backend_and_keras_other_projects_use() -> None:
    env = {"KERAS_BACKEND": "torch", "TF_USE_LEGACY_KERAS": "1"}
    done = run_python(["-m", "cifar_trainer", "env", "--json"], env=env, own_process=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"][0]["error"] is None


def test_the_convolution_of_env_counts_the_outputs_that_it_has() -> None:
    output = tf.nn.conv2d(tf.ones([32, 32, 32, 64]), tf.ones([3, 3, 64, 64]), 1, "VALID")
    assert int(tf.size(output)) * 2 * 3 * 3 * 64 == FLOPS


@pytest.mark.parametrize(
    ("flags", "gains"),
    [("fpu avx avx2 fma", True), ("fpu avx2 avx512_vnni", None), ("fpu sse2", None), ("", None)],
    ids=["Zen 3", "with VNNI", "before AVX2", "unknown"],
)
def test_onednn_is_turned_on_where_tensorflow_leaves_it_off_though_it_is_faster(
    flags: str, gains: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.gains_from_onednn() is gains


@pytest.mark.parametrize("own", ["0", "1"])
def test_the_users_own_variable_for_onednn_wins(own: str) -> None:
    code = (
        "import os; from cifar_trainer.environment import start; start(onednn=True);"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    )
    assert run_python(["-c", code], env={"TF_ENABLE_ONEDNN_OPTS": own}).stdout == f"{own}\n"


def test_a_resumed_run_keeps_the_kernels_that_it_began_with(
    run_cli: RunCli, trained_run: Path, tmp_path: Path
) -> None:
    """The record says that oneDNN was off: the run goes on without it, and no difference is named."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    record = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**record, "onednn": False}))
    done = run_cli(["train", "--resume", run, "--epochs", 3], own_process=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "environment.json").read_text())["onednn"] is False
