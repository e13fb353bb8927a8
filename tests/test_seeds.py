"""`train --seeds`: several runs in one command, and what they give together."""

import json
import pydoc
import statistics
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cifar_trainer.cli.train import format_group
from cifar_trainer.errors import DeviceError, TrainingStopped, UsageError
from cifar_trainer.run import Run
from cifar_trainer.settings import RuntimeOptions, Settings, declared
from cifar_trainer.training.api import GroupResult, mean_accuracy, parse_seeds, resume, train

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def group(
    run_cli: RunCli, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a group of two seeds, and what `train --json` printed."""
    folder = tmp_path_factory.mktemp("groups") / "two"
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--limit", 320, "--device", "cpu"]
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
    run_cli: RunCli, small_data: Path, tmp_path: Path, group: tuple[Path, dict[str, Any]]
) -> None:
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--limit", 320, "--device", "cpu"]
    alone = run_cli(["train", *data, "--epochs", 1, "--seed", 5, "--run-dir", tmp_path / "alone", "--json"])
    assert json.loads(alone.stdout)["weights_sha256"] == group[1]["runs"][1]["weights_sha256"]


def test_a_group_that_was_stopped_goes_on_with_what_is_missing(
    run_cli: RunCli, small_data: Path, tmp_path: Path, group: tuple[Path, dict[str, Any]]
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    settings = {
        "dataset": "synthetic", "data_dir": str(small_data), "limit": 320, "device": "cpu", "epochs": 1,
    }  # fmt: skip
    (folder / "group.json").write_text(json.dumps({"seeds": [3, 5], "settings": settings}))
    (folder / "seed-3").symlink_to(group[0] / "seed-3")
    done = run_cli(["train", "--resume", folder, "--json"])
    assert done.returncode == 0, done.stderr
    hashes = [run["weights_sha256"] for run in json.loads(done.stdout)["runs"]]
    assert hashes == [run["weights_sha256"] for run in group[1]["runs"]]


def test_the_epochs_of_a_group_are_raised_for_all_seeds_or_for_none(
    tmp_path: Path, group: tuple[Path, dict[str, Any]]
) -> None:
    (tmp_path / "group.json").write_text(json.dumps({"seeds": [3, 5], "settings": {"epochs": 1}}))
    (tmp_path / "seed-3").symlink_to(group[0] / "seed-3")
    with pytest.raises(UsageError, match=r"seed 5 has not. Resume without --epochs first"):
        resume(tmp_path, epochs=2)


@pytest.mark.parametrize(
    "seeds", ["", "x", "0", "-1", "1,1", "1,,2", "1.5", "1,99999999999", 0, 1.5, [1, 1], [-1]]
)
def test_seeds_that_are_not_seeds_are_refused(seeds: Any) -> None:
    with pytest.raises(UsageError):
        parse_seeds(seeds)


@pytest.mark.parametrize("seeds", ["1000000000", 10**12])
def test_a_number_of_seeds_that_would_fill_the_memory_is_refused_before_it_does(seeds: Any) -> None:
    with pytest.raises(UsageError, match="Expected at most 10000 seeds"):
        parse_seeds(seeds)


def test_a_number_of_seeds_counts_from_zero_and_a_list_is_taken_as_it_is() -> None:
    assert parse_seeds("3") == parse_seeds(3) == parse_seeds([0, 1, 2]) == (0, 1, 2)


def test_the_interval_of_the_mean_is_students() -> None:
    """By hand: 0.70 and 0.72 have the deviation 0.01414; t(0.975, 1) is 12.706; over the root of 2."""
    found = mean_accuracy([0.70, 0.72])
    assert found.interval == pytest.approx((0.71 - 12.7062 * 0.01, 0.71 + 12.7062 * 0.01), abs=1e-5)


def test_an_interval_of_accuracies_ends_at_0_and_100_percent() -> None:
    assert mean_accuracy([0.10, 0.30]).interval == (0.0, 1.0)


def test_two_runs_are_told_without_an_interval(group: tuple[Path, dict[str, Any]]) -> None:
    _, printed = group
    result = msgspec.convert(printed, GroupResult)
    assert "two runs do not show how much runs vary" in format_group(result)
    assert "interval" not in format_group(result)


def test_one_run_has_no_interval() -> None:
    assert mean_accuracy([0.7]).interval is None


def test_the_list_of_runs_names_those_of_a_group(run_cli: RunCli, group: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = group
    done = run_cli(["runs", folder.parent, "--json"])
    assert {run["path"] for run in json.loads(done.stdout)["runs"]} == {
        str(folder / "seed-3"), str(folder / "seed-5"),
    }  # fmt: skip


SMALL: dict[str, Any] = {"dataset": "synthetic", "limit": 320, "device": "cpu", "epochs": 1}


def test_a_group_that_cannot_start_leaves_nothing_that_blocks_its_name(
    small_data: Path, tmp_path: Path
) -> None:
    """A fault that shows before a setting is checked, and one that shows after TensorFlow has started."""
    common = {**SMALL, "data_dir": small_data, "seeds": 2, "run_dir": tmp_path / "g"}
    for fault in ({"epochs": 0}, {"device": "gpu"}, {"limit": 10**9}):
        with pytest.raises((UsageError, DeviceError)):
            train(**{**common, **fault})
        assert not (tmp_path / "g").exists()


def test_an_empty_folder_of_the_users_is_kept_when_a_group_cannot_start(
    small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "g").mkdir()
    with pytest.raises(UsageError):
        train(**SMALL, data_dir=small_data, seeds=2, run_dir=tmp_path / "g", batch_size=10**6)
    assert list((tmp_path / "g").iterdir()) == []


@pytest.mark.parametrize("setting", [{"batch_size": 7}, {"learning_rate": 0.5}, {"precision": "bfloat16"}])
def test_a_finished_group_refuses_other_settings_by_name(
    group: tuple[Path, dict[str, Any]], setting: dict[str, Any]
) -> None:
    (name,) = setting
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} was .* for this run, got"):
        resume(group[0], epochs=2, **setting)


def test_a_group_is_reproduced(run_cli: RunCli, group: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    done = run_cli(["reproduce", group[0], "--run-dir", tmp_path / "again"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "again" / "seed-5" / "result.json").is_file()


@pytest.mark.usefixtures("small_runs")
def test_the_recipes_batch_size_is_lowered_to_the_training_images_with_a_note(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(**{**SMALL, "limit": 18}, data_dir=small_data, run_dir=tmp_path / "run")
    assert Run(tmp_path / "run").read_config().batch_size == 18
    assert "--batch-size is 18" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--batch-size 32 is more than the 18 training images"):
        train(**{**SMALL, "limit": 18}, data_dir=small_data, run_dir=tmp_path / "other", batch_size=32)
    assert result.epochs == 1


@pytest.mark.usefixtures("small_runs")
def test_a_group_whose_extension_was_stopped_goes_on_to_the_epochs_of_the_extension(
    small_data: Path, tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    """It was stopped in the first seed. The last one was then extended further by itself."""
    folder = tmp_path / "g"
    train(**{**SMALL, "limit": 32}, data_dir=small_data, seeds=3, run_dir=folder, stack="off")
    with pytest.raises(TrainingStopped):
        resume(folder, epochs=2, should_stop=stop_after(1))
    resume(folder / "seed-2", epochs=3)
    assert [run.epochs for run in resume(folder).runs] == [2, 2, 3]


def test_an_argument_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"train\(\) has no argument 'epoch'. Did you mean 'epochs'\?"):
        train(epoch=1)


def test_an_argument_of_another_type_is_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--epochs '3' is a string. Expected a whole number from 1 up"):
        train(epochs="3", run_dir=tmp_path / "run")


def test_the_help_of_train_has_each_argument_and_fits_on_two_screens() -> None:
    text = pydoc.render_doc(train, renderer=pydoc.plaintext)
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 100) or [""]]
    assert len(lines) <= 2 * 40
    for declaration in (*declared(Settings).values(), *declared(RuntimeOptions).values()):
        assert f"{declaration.name}: {declaration.help}"[:60] in text
