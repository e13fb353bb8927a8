"""Who trains together: TF_CONFIG and Slurm's variables, read and refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from command_line import RunCli

from cifar_trainer.cli import main
from cifar_trainer.errors import DeviceError, UsageError
from cifar_trainer.training import distributed
from cifar_trainer.training.distributed import Cluster, choose_gpus, find_cluster, tasks_per_node, tf_config

TWO = ("a:1", "b:2")


def test_without_a_variable_a_process_is_alone() -> None:
    assert find_cluster({}) is None


def test_a_cluster_of_one_process_is_none() -> None:
    assert find_cluster({"TF_CONFIG": tf_config(("a:1",), 0)}) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_tf_config_names_the_processes_and_which_one_this_is(rank: int) -> None:
    assert find_cluster({"TF_CONFIG": tf_config(TWO, rank)}) == Cluster(TWO, rank)


def test_a_chief_comes_before_the_workers() -> None:
    config = {"cluster": {"worker": ["b:2"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    assert find_cluster({"TF_CONFIG": json.dumps(config)}) == Cluster(TWO, 1)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ({"cluster": {"worker": list(TWO)}, "task": {"type": "worker", "index": 2}}, "worker 2"),
        ({"cluster": {"worker": list(TWO)}, "task": {"type": "chief", "index": 0}}, "chief 0"),
        ({"cluster": {"worker": list(TWO), "ps": ["c:3"]}, "task": {}}, "'ps'"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {}}, "an address twice"),
        ({"cluster": {"worker": ["a:1", "b"]}, "task": {}}, "'b', expected HOST:PORT"),
    ],
)
def test_a_tf_config_that_names_no_cluster_is_refused(config: object, named: str) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    with pytest.raises(UsageError, match=named):
        find_cluster({"TF_CONFIG": text})


def test_processes_of_one_host_count_among_themselves() -> None:
    addresses = ("a:1", "a:2", "b:1", "b:2")
    assert [Cluster(addresses, rank).local_rank for rank in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(("text", "counts"), [("2", [2]), ("2(x3),1", [2, 2, 2, 1]), ("1(x2)", [1, 1])])
def test_slurms_tasks_of_each_node_are_read(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Slurm's tool, which lists two nodes."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$3" = "node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def slurm(rank: int, node: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": str(rank), "SLURMD_NODENAME": node,
        "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2,1",
    }  # fmt: skip


@pytest.mark.usefixtures("scontrol")
def test_the_tasks_of_a_slurm_step_train_together() -> None:
    base = 20_000 + 7 * 64
    expected = Cluster((f"node1:{base}", f"node1:{base + 1}", f"node2:{base + 2}"), 2)
    assert find_cluster(slurm(2, "node2")) == expected


@pytest.mark.usefixtures("scontrol")
def test_tasks_that_do_not_follow_each_other_on_a_node_are_refused() -> None:
    with pytest.raises(UsageError, match="--distribution=block"):
        find_cluster(slurm(1, "node2"))


@pytest.mark.parametrize(
    "arguments", [("train", "--seeds", 2), ("sweep", "--name", "s", "--set", "batch_size=8,16"),
                  ("reproduce", "RUN")]
)  # fmt: skip
def test_what_trains_several_runs_is_refused_in_a_cluster(
    run_cli: RunCli, trained_run: Path, data_dir: Path, arguments: tuple[object, ...]
) -> None:
    words = [trained_run if word == "RUN" else word for word in arguments]
    done = run_cli([*words, "--data-dir", data_dir], env={"TF_CONFIG": tf_config(TWO, 0)})
    assert done.returncode == 2, done.stderr
    assert "2 processes" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"), [(["--batch-size", 1], "--batch-size 1"), (["--xla"], "--xla")]
)
def test_what_several_processes_cannot_do_is_refused(
    run_cli: RunCli, options: list[object], named: str
) -> None:
    done = run_cli(["train", *options], env={"TF_CONFIG": tf_config(TWO, 0)})
    assert done.returncode == 2, done.stderr
    assert named in done.stderr


def test_all_gpus_are_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1")
    assert choose_gpus("all", "auto") == ["3", "GPU-1"]
    assert choose_gpus("1", "gpu") == ["3"]


def test_more_gpus_than_there_are_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DeviceError, match="--gpus 4: this machine has 1 visible NVIDIA GPU"):
        choose_gpus("4", "auto")


@pytest.mark.parametrize(("wanted", "device"), [("0", "auto"), ("two", "auto"), ("2", "cpu")])
def test_a_number_of_gpus_that_cannot_be_is_refused(wanted: str, device: str) -> None:
    with pytest.raises(UsageError, match=f"--gpus '?{wanted}"):
        choose_gpus(wanted, device)


@pytest.mark.parametrize(
    ("arguments", "variables"), [(["--gpus", "2"], {}), ([], {"CIFAR_TRAINER_TRAIN_GPUS": "2"})]
)
def test_each_process_has_the_options_without_the_number_of_gpus(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str]
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        started.append((command, env))
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr(distributed.subprocess, "Popen", start)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    done = CliRunner().invoke(
        main, ["train", "--no-xla", *arguments, "--json", "--epochs", "3"], env=variables
    )
    assert done.exit_code == 0, done.output
    words = [command[command.index("cifar_trainer") + 1 :] for command, _ in started]
    assert words == [["train", "--no-xla", "--epochs", "3", "--json"]] * 2
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in started] == ["0", "1"]
    assert not any("CIFAR_TRAINER_TRAIN_GPUS" in env for _, env in started)
