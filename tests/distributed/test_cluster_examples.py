"""The examples for clusters: run by a real Slurm, and checked against Kubernetes's own schema."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from command_line import environment, python
from slurm_server import running_slurm

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cluster"
#: The oldest Kubernetes for which the manifests are meant.
KUBERNETES = "1.30"


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_can_be_read_at_a_glance(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_takes(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_with_another_key_is_noticed() -> None:
    job = yaml.safe_load((EXAMPLES / "sweep_job.yaml").read_text())
    job["spec"]["completion"] = 4
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_no_argument_of_a_manifest_holds_the_password() -> None:
    job = yaml.safe_load((EXAMPLES / "sweep_job.yaml").read_text())
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    assert "$(" not in " ".join([*worker["command"], *worker["args"]])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a Slurm whose jobs find `cifar-trainer`."""
    programs = tmp_path_factory.mktemp("bin")
    (programs / "cifar-trainer").write_text(f'#!/bin/sh\nexec {python()} -m cifar_trainer "$@"\n')
    (programs / "cifar-trainer").chmod(0o755)
    with running_slurm() as variables:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        yield environment({**variables, "PATH": path, "CUDA_VISIBLE_DEVICES": "-1"})


def submit(slurm: dict[str, str], folder: Path, *words: object) -> str:
    """Run a job to its end; what it wrote."""
    output = ["--output", folder / "job-%a.out", "--wait", "--cpus-per-task=1", "--time=5"]
    done = subprocess.run(
        ["sbatch", *map(str, [*output, *words])],
        cwd=folder, env=slurm, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    written = "\n".join(path.read_text() for path in folder.glob("job-*.out"))
    assert done.returncode == 0, done.stderr + written
    return written


SMALL = ("--dataset", "synthetic", "--limit", "160", "--epochs", "1", "--device", "cpu")


def test_an_array_trains_a_run_for_each_seed(slurm: dict[str, str], small_data: Path, tmp_path: Path) -> None:
    submit(slurm, tmp_path, "--array=1-2", EXAMPLES / "seeds.sbatch", *SMALL, "--data-dir", small_data)
    runs = tmp_path / "runs" / "seeds"
    assert [json.loads((runs / f"seed-{i}" / "result.json").read_text())["seed"] for i in (1, 2)] == [1, 2]


def test_the_tasks_of_a_job_train_one_run(slurm: dict[str, str], small_data: Path, tmp_path: Path) -> None:
    tasks = ("--nodes=1", "--ntasks-per-node=2")
    example = EXAMPLES / "one_run.sbatch"
    written = submit(slurm, tmp_path, *tasks, example, "runs/large", *SMALL, "--data-dir", small_data)
    described = json.loads((tmp_path / "runs" / "large" / "environment.json").read_text())
    assert described["replicas"] == 2
    assert written.count("weights     ") == 1


def test_a_job_of_a_sweep_without_a_database_is_refused(slurm: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="CIFAR_TRAINER_SWEEP_STORAGE: expected the address"):
        submit(slurm, tmp_path, "--array=0", EXAMPLES / "sweep.sbatch", "--name", "rates")
