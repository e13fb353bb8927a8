"""`train --seeds`: several runs in one command, and what they give together."""

import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifar_trainer.errors import UsageError
from cifar_trainer.training.api import mean_accuracy, parse_seeds

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def group(
    run_cli: RunCli, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a group of two seeds, and what `train --json` printed."""
    folder = tmp_path_factory.mktemp("groups") / "two"
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320, "--device", "cpu"]
    done = run_cli(["train", *data, "--epochs", 1, "--seeds", "3,5", "--run-dir", folder, "--json"])
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_each_seed_is_a_run_of_its_own_below_the_groups_folder(group: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = group
    assert [run["run_dir"] for run in printed["runs"]] == [str(folder / "seed-3"), str(folder / "seed-5")]


def test_the_json_of_a_group_has_the_documented_keys(group: tuple[Path, dict[str, Any]]) -> None:
    _, printed = group
    assert list(printed) == ["group_dir", "runs", "accuracy"]
    assert list(printed["accuracy"]) == ["mean", "standard_deviation", "n", "interval"]


def test_the_mean_is_that_of_the_runs(group: tuple[Path, dict[str, Any]]) -> None:
    _, printed = group
    accuracies = [run["validation"]["accuracy"] for run in printed["runs"]]
    assert printed["accuracy"]["mean"] == pytest.approx(statistics.fmean(accuracies))


def test_a_seed_of_a_group_gives_the_weights_that_it_gives_alone(
    run_cli: RunCli, data_dir: Path, tmp_path: Path, group: tuple[Path, dict[str, Any]]
) -> None:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320, "--device", "cpu"]
    alone = run_cli(["train", *data, "--epochs", 1, "--seed", 5, "--run-dir", tmp_path / "alone", "--json"])
    assert json.loads(alone.stdout)["weights_sha256"] == group[1]["runs"][1]["weights_sha256"]


def test_a_group_that_was_stopped_goes_on_with_what_is_missing(
    run_cli: RunCli, data_dir: Path, tmp_path: Path, group: tuple[Path, dict[str, Any]]
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    settings = {
        "dataset": "synthetic", "data_dir": str(data_dir), "limit": 320, "device": "cpu", "epochs": 1,
    }  # fmt: skip
    (folder / "group.json").write_text(json.dumps({"seeds": [3, 5], "settings": settings}))
    (folder / "seed-3").symlink_to(group[0] / "seed-3")
    done = run_cli(["train", "--resume", folder, "--json"])
    assert done.returncode == 0, done.stderr
    hashes = [run["weights_sha256"] for run in json.loads(done.stdout)["runs"]]
    assert hashes == [run["weights_sha256"] for run in group[1]["runs"]]


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,1", "1,,2", "1.5", "1,99999999999"])
def test_seeds_that_are_no_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seeds(text)


def test_a_number_of_seeds_counts_from_zero() -> None:
    assert parse_seeds("3") == (0, 1, 2)


def test_the_interval_of_the_mean_is_students() -> None:
    """By hand: 0.70 and 0.72 have the deviation 0.01414; t(0.975, 1) is 12.706; over the root of 2."""
    found = mean_accuracy([0.70, 0.72])
    assert found.interval == pytest.approx((0.71 - 12.7062 * 0.01, 0.71 + 12.7062 * 0.01), abs=1e-5)


def test_one_run_has_no_interval() -> None:
    assert mean_accuracy([0.7]).interval is None


def test_the_list_of_runs_names_those_of_a_group(run_cli: RunCli, group: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = group
    done = run_cli(["runs", folder.parent, "--json"])
    assert {run["path"] for run in json.loads(done.stdout)["runs"]} == {
        str(folder / "seed-3"), str(folder / "seed-5"),
    }  # fmt: skip
