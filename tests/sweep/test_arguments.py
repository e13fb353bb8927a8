"""What the commands of a sweep agree on, the options of its trials, and what each worker gets."""

import dataclasses
import inspect
import os
import re
import sys
from pathlib import Path

import pytest

import cifar_trainer
from cifar_trainer.cli.sweep import command
from cifar_trainer.errors import CifarTrainerError, RunError, UsageError
from cifar_trainer.settings import Settings, declared
from cifar_trainer.sweeps.plan import RUNTIME_ARGUMENTS
from cifar_trainer.sweeps.storage import parse_storage
from cifar_trainer.sweeps.study import differences, worker_environments
from cifar_trainer.sweeps.sweep import sweep

AGREED = {
    "format": 1,
    "space": {"a": "1,2"},
    "settings": {"epochs": 3},
    "recipes": {"./r.py": "1"},
    "data": "f",
}


def test_a_study_of_the_same_settings_has_no_differences() -> None:
    assert differences(AGREED, dict(AGREED)) == []


def test_a_study_of_a_version_that_did_not_record_the_recipes_is_resumed() -> None:
    earlier = {name: value for name, value in AGREED.items() if name != "recipes"}
    assert differences(earlier, AGREED) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"space": {"a": "1,2,3"}}, "a was 1,2, now 1,2,3"),
        ({"settings": {}}, "epochs was 3, now not given"),
        ({"recipes": {"./r.py": "2"}}, "the file ./r.py was different"),
        ({"data": "g"}, "the training images were different"),
    ],
)
def test_what_differs_is_named(change: dict[str, object], says: str) -> None:
    assert differences(AGREED, {**AGREED, **change}) == [says]


def test_each_option_of_the_command_is_an_argument_of_the_function_or_of_a_trial() -> None:
    of_sweep = inspect.signature(sweep).parameters
    of_trials = {field.name for field in dataclasses.fields(Settings)} | {*RUNTIME_ARGUMENTS, "validation"}
    shown = ("as_json", "quiet", "verbose")
    names = {option.name for option in command.params} - {*shown}
    assert names - {*of_sweep} - of_trials == set()


def test_the_docs_list_the_settings_that_may_vary() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    listed = page.split("can vary: ")[1].split(".")[0]
    varied = [name for name, declaration in declared(Settings).items() if declaration.vary]
    assert re.findall(r"`(\w+)`", listed) == sorted(varied)


def test_the_defaults_of_the_command_are_those_of_the_function() -> None:
    of_function = {name: each.default for name, each in inspect.signature(sweep).parameters.items()}
    of_command = command.make_context("sweep", ["--name", "x"]).params
    shared = [name for name in of_command if name in of_function and name != "name"]
    assert len(shared) == 12
    assert {name: of_command[name] for name in shared} == {name: of_function[name] for name in shared}


@pytest.mark.parametrize(
    ("visible", "workers", "device", "expected"),
    [
        ("0,1", 2, "auto", ["0", "1"]),
        ("3, 5 ,7", 2, "gpu", ["3", "5", "7"]),
        ("0,1", 1, "auto", [None]),
        ("0,1", 2, "cpu", [None]),
        ("0", 2, "auto", [None]),
        ("-1", 2, "auto", [None]),
        ("", 2, "auto", [None]),
    ],
)
def test_each_worker_has_its_own_gpu_if_there_are_several(
    monkeypatch: pytest.MonkeyPatch, visible: str, workers: int, device: str, expected: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = worker_environments(workers, device)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in found] == expected


def test_a_default_batch_size_larger_than_the_data_is_not_an_error(data_dir: Path, tmp_path: Path) -> None:
    """What stops this sweep comes later."""
    arguments = {
        "name": "x",
        "set": ["epochs=1,2"],
        "dataset": "synthetic",
        "data_dir": data_dir,
        "limit": 20,
    }
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file cannot be written"):
        cifar_trainer.sweep(**arguments, run_dir=tmp_path / "file")
    with pytest.raises(UsageError, match="--batch-size 32 is more than the 20"):
        cifar_trainer.sweep(**arguments, run_dir=tmp_path / "file", batch_size=32)


def test_settings_that_vary_are_checked_with_each_other(
    data_dir: Path, trained_run: Path, tmp_path: Path
) -> None:
    """`unfreeze_after` needs `freeze`, and a warm-up needs epochs. What stops the first sweep comes later."""
    arguments = {"name": "x", "dataset": "synthetic", "data_dir": data_dir, "run_dir": tmp_path / "file"}
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file cannot be written"):
        sweep(**arguments, set=["freeze=1,2", "unfreeze_after=1,2"], weights=trained_run, epochs=3)
    with pytest.raises(UsageError, match=r"--warmup 2\.0 is out of range"):
        sweep(**arguments, set=["epochs=2,1", "warmup=0,2"])


def test_an_argument_that_sweep_does_not_have_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"sweep\(\) has no argument 'epoch'\. Did you mean 'epochs'\?"):
        sweep(name="x", set=["batch_size=32,64"], epoch=1)


def test_without_optuna_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CifarTrainerError, match=r"\[sweep\]"):
        sweep(name="x", set=["epochs=1,2"])


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://me:secret@h/d", "postgresql://me:***@h/d"),
        ("postgres://me@h:1/d?password=secret", "postgresql://me@h:1/d?password=%2A%2A%2A"),
        ("postgresql+psycopg://h/d?sslpassword=secret", "postgresql+psycopg://h/d?sslpassword=%2A%2A%2A"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
    ],
)
def test_the_label_of_a_storage_has_no_password(url: str, label: str) -> None:
    storage = parse_storage(url, Path("unused"))
    assert (storage.label, "secret" in repr(storage)) == (label, False)


def test_a_postgresql_is_reached_through_psycopg() -> None:
    storage = parse_storage("postgresql://me:secret@h/d", Path("unused"))
    assert storage.url == "postgresql+psycopg://me:secret@h/d"


def test_the_default_is_a_file_in_the_sweeps_folder(tmp_path: Path) -> None:
    assert parse_storage(None, tmp_path).file == tmp_path / "optuna.db"
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_sweep_whose_weights_do_not_exist_is_refused_before_it_starts(
    small_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(UsageError, match=r"--weights .*missing does not exist"):
        sweep(
            name="x", set=[f"weights={tmp_path / 'missing'}"], dataset="synthetic", data_dir=small_data,
            run_dir=folder,
        )  # fmt: skip
    assert not folder.exists()
