"""One start of TensorFlow for every command, whatever other projects have set."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from command_line import run_python

import cifar_trainer
from cifar_trainer import devices
from cifar_trainer.benchmarking import benchmark
from cifar_trainer.devices import compare_environments, cuda, machine, start
from cifar_trainer.devices.start import choose_device, xla_flags
from cifar_trainer.devices.survey import FLOPS
from cifar_trainer.errors import DeviceError, UsageError
from cifar_trainer.settings import Settings

start_module = sys.modules["cifar_trainer.devices.start"]
CONFIG = Settings("tutorial", "synthetic", 1, 32, 0.001, device="cpu")


def test_importing_the_environment_imports_no_tensorflow() -> None:
    code = "import cifar_trainer.devices, sys; print('tensorflow' in sys.modules)"
    assert run_python(["-c", code], own_process=True).stdout == "False\n"


def test_starting_twice_gives_the_same_device() -> None:
    assert start(CONFIG) == start(CONFIG)


@pytest.mark.parametrize(
    ("precision", "enabled"), [("float32", False), ("tf32", True), ("bfloat16", False), ("float32", False)]
)
def test_tf32_is_on_only_where_it_was_asked_for(precision: str, enabled: bool) -> None:
    start(Settings("tutorial", "synthetic", 1, 32, 0.001, device="cpu", precision=precision))
    assert tf.config.experimental.tensor_float_32_execution_enabled() is enabled


def test_tensorflow_merges_no_additions_whose_order_would_depend_on_timing() -> None:
    start(CONFIG)
    assert tf.config.optimizer.get_experimental_options()["arithmetic_optimization"] is False


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "0", "mps"])
def test_the_names_of_other_frameworks_for_a_gpu_get_a_hint(name: str) -> None:
    with pytest.raises(UsageError, match="Did you mean 'gpu'"):
        Settings("tutorial", "synthetic", 1, 32, 0.001, device=name)


@pytest.mark.parametrize("train", [True, False])
def test_benchmarks_give_the_same_hint_for_a_gpu(train: bool) -> None:
    with pytest.raises(UsageError, match="Did you mean 'gpu'"):
        benchmark(train=train, device="cuda")


def test_keras_with_another_backend_in_this_process_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(DeviceError, match="backend 'torch'"):
        start(CONFIG)


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


@pytest.mark.parametrize(
    ("own", "wanted", "used"), [("0", True, "0"), ("1", False, "1"), (None, False, "0"), (None, True, "1")]
)
def test_onednn_is_used_as_the_run_says_unless_the_user_has_set_the_variable(
    monkeypatch: pytest.MonkeyPatch, own: str | None, wanted: bool, used: str
) -> None:
    if own is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    else:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", own)
    start(CONFIG, onednn=wanted)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == used


def test_a_resumed_run_keeps_the_kernels_that_it_began_with(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that oneDNN was off: the run continues without it."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    record = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**record, "onednn": False}))
    asked = []

    def stop(config: Settings, *, onednn: bool | None, **options: object) -> None:
        asked.append(onednn)
        raise DeviceError("that is enough")

    monkeypatch.setattr(devices, "start", stop)
    with pytest.raises(DeviceError, match="that is enough"):
        cifar_trainer.resume(run, epochs=3)
    assert asked == [False]


class Gpu:
    """Stands in for a process of TensorFlow on a machine with a GPU.

    Attributes:
        started: whether TensorFlow has computed something, after which its devices are fixed.
        visible: the GPUs that TensorFlow uses.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = False
        self.visible: list[str] = ["GPU:0"]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: self.visible)
        monkeypatch.setattr(tf.config, "set_visible_devices", self.set_visible)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, enable: None)
        monkeypatch.setattr(start_module, "describe_gpu", lambda index: "NVIDIA H100")
        monkeypatch.setattr(cuda, "bus_id", lambda index: None)
        self.missing: tuple[cuda.Missing, ...] = ()
        monkeypatch.setattr(cuda, "inspect", self.inspect)

    def set_visible(self, gpus: list[str], kind: str) -> None:
        if self.started:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = list(gpus)

    def inspect(self, build: object, *, listed: bool) -> cuda.Cuda:
        return cuda.Cuda(True, None, None, None, None, None, None, self.missing)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.mark.parametrize("name", ["auto", "gpu"])
def test_a_gpu_that_is_there_is_chosen(gpu: Gpu, name: str) -> None:
    assert choose_device(name).kind == "gpu"


def test_a_gpu_is_hidden_where_the_cpu_is_chosen(gpu: Gpu) -> None:
    assert choose_device("cpu").kind == "cpu"
    assert gpu.visible == []


def test_a_hidden_gpu_is_used_again_where_nothing_was_computed(gpu: Gpu) -> None:
    choose_device("cpu")
    assert choose_device("gpu").kind == "gpu"
    assert gpu.visible == ["GPU:0"]


def test_the_cpu_after_the_gpu_keeps_the_gpu_and_says_so(gpu: Gpu) -> None:
    gpu.started = True
    device = choose_device("cpu")
    assert device.kind == "gpu"
    assert "already uses the GPU" in device.warning


def test_any_device_after_the_cpu_keeps_the_cpu_and_says_so(gpu: Gpu) -> None:
    gpu.visible, gpu.started = [], True
    device = choose_device("auto")
    assert device.kind == "cpu"
    assert "already uses the CPU" in device.warning


def test_the_gpu_after_the_cpu_is_refused(gpu: Gpu) -> None:
    gpu.visible, gpu.started = [], True
    with pytest.raises(DeviceError, match="use another process"):
        choose_device("gpu")


def test_a_gpu_that_cannot_work_is_left_to_the_cpu_with_the_reason(gpu: Gpu) -> None:
    gpu.missing = (cuda.Missing("ptxas cannot be found", "Install it"),)
    device = choose_device("auto")
    assert device.kind == "cpu"
    assert "ptxas cannot be found. Install it" in device.warning


def test_a_gpu_that_may_fail_is_used_with_a_warning(gpu: Gpu) -> None:
    gpu.missing = (cuda.Missing("cuDNN 9.5.1 is older", "Update it", blocks=False),)
    device = choose_device("auto")
    assert device.kind == "gpu"
    assert "cuDNN 9.5.1 is older. Update it" in device.warning


def test_a_gpu_that_cannot_work_is_refused_where_it_was_asked_for(gpu: Gpu) -> None:
    gpu.missing = (cuda.Missing("ptxas cannot be found", "Install it"),)
    with pytest.raises(DeviceError, match="ptxas cannot be found"):
        choose_device("gpu")


def test_determinism_can_be_switched_on_by_a_later_start() -> None:
    code = (
        "from dataclasses import replace; from cifar_trainer.settings import Settings\n"
        "from cifar_trainer.devices import start\n"
        "config = Settings('tutorial', 'synthetic', 1, 32, 0.001, device='cpu')\n"
        "start(config); import tensorflow as tf; tf.ones(1) + 1; start(replace(config, deterministic=True))\n"
        "from tensorflow.python.framework.config import is_op_determinism_enabled as on; print(on())"
    )
    assert run_python(["-c", code]).stdout == "True\n"


def test_the_threads_of_a_process_that_computes_stay_as_they_are() -> None:
    code = (
        "from dataclasses import replace; from cifar_trainer.settings import Settings\n"
        "from cifar_trainer.devices import start; from cifar_trainer.devices.start import threads\n"
        "config = Settings('tutorial', 'synthetic', 1, 32, 0.001, device='cpu')\n"
        "start(config); import tensorflow as tf; tf.ones(1) + 1; before = threads()\n"
        "start(replace(config, recipe='regularized')); print(threads() == before)"
    )
    assert run_python(["-c", code]).stdout == "True\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_xla_has_measured_is_kept_in_the_users_cache_folder(cache: Path) -> None:
    folder = cache / "cifar-trainer" / "xla"
    assert f"--xla_gpu_per_fusion_autotune_cache_dir={folder}" in xla_flags("").split()
    assert folder.is_dir()


def test_the_users_own_flags_for_xla_win(cache: Path) -> None:
    flags = xla_flags("--xla_gpu_enable_triton_gemm=true --xla_dump_to=d").split()
    assert [flag for flag in flags if "triton" in flag or "dump" in flag] == [
        "--xla_gpu_enable_triton_gemm=true",
        "--xla_dump_to=d",
    ]


def test_a_flag_whose_name_only_begins_alike_replaces_none_of_ours(cache: Path) -> None:
    assert "--xla_gpu_enable_triton_gemm=false" in xla_flags("--xla_gpu_enable_triton_gemm_any=true").split()


def test_a_file_of_flags_for_xla_stays_as_it_is(cache: Path) -> None:
    assert xla_flags("flags.txt") == "flags.txt"


def test_a_cache_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cache_dir" not in xla_flags("")


def test_a_resume_with_another_tf32_names_it() -> None:
    assert compare_environments({"tf32": True}, {"tf32": False}) == ["TF32 was on and is off"]
