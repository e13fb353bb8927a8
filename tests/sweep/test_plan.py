"""What the commands of a sweep agree on, and what each worker is given."""

import os
from pathlib import Path

import pytest

from cifar_trainer.errors import CifarTrainerError
from cifar_trainer.sweeps.plan import differences, worker_environments
from cifar_trainer.sweeps.storage import check_installed, parse_storage

AGREED = {"format": 1, "space": {"a": "1,2"}, "settings": {"epochs": 3}, "data": "f"}


def test_a_study_of_the_same_settings_has_no_differences() -> None:
    assert differences(AGREED, dict(AGREED)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"space": {"a": "1,2,3"}}, "a was 1,2, now 1,2,3"),
        ({"settings": {}}, "epochs was 3, now not given"),
        ({"data": "g"}, "the training images were others"),
    ],
)
def test_what_differs_is_named(change: dict[str, object], says: str) -> None:
    assert differences(AGREED, {**AGREED, **change}) == [says]


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
def test_each_worker_has_a_gpu_of_its_own_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, visible: str, workers: int, device: str, expected: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = worker_environments(workers, device)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in found] == expected


def test_without_optuna_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CifarTrainerError, match=r"\[sweep\]"):
        check_installed()


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
