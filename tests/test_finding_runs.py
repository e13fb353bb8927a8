"""Which run a command takes that is given none, and what a list of runs survives."""

import os
import shutil
from pathlib import Path

import pytest

from cifar_trainer.errors import RunError
from cifar_trainer.run import GROUP_FILE, SWEEP_FILE, Run, find_runs, list_runs, new_run, newest_run, open_run


def make(folder: Path, age: int, *, model: bool = True) -> Path:
    """A run's folder that is `age` seconds old."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if model:
        (folder / "model.keras").touch()
    os.utime(folder / "config.json", (1_000_000 - age, 1_000_000 - age))
    return folder


@pytest.mark.parametrize("marker", [GROUP_FILE, SWEEP_FILE])
def test_the_newest_run_may_be_one_of_a_group_or_a_sweep(tmp_path: Path, marker: str) -> None:
    """As `runs` lists it first."""
    make(tmp_path / "alone", age=10)
    newest = make(tmp_path / "several" / "seed-1", age=1)
    make(tmp_path / "several" / "seed-0", age=5)
    (tmp_path / "several" / marker).write_text("{}")
    assert newest_run(tmp_path).path == newest
    assert [Path(run.path).name for run in list_runs(tmp_path).runs] == ["seed-1", "seed-0", "alone"]


def test_a_command_that_needs_a_model_gets_the_newest_run_that_has_one(tmp_path: Path) -> None:
    trained = make(tmp_path / "trained", age=10)
    training = make(tmp_path / "training", age=1, model=False)
    assert newest_run(tmp_path, with_model=True).path == trained
    assert newest_run(tmp_path).path == training


def test_that_no_run_has_a_model_is_said_with_how_to_finish_one(tmp_path: Path) -> None:
    path = make(tmp_path / "training", age=1, model=False)
    with pytest.raises(RunError, match=f"model.keras.*--resume {path}"):
        newest_run(tmp_path, with_model=True)


def test_a_folder_below_runs_that_is_no_group_is_not_searched(tmp_path: Path) -> None:
    make(tmp_path / "other" / "run", age=1)
    assert find_runs(tmp_path) == []


def test_a_run_that_is_deleted_while_runs_are_listed_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it is looked at first is there, and gone at the next look."""
    make(tmp_path / "kept", age=1)
    deleted = make(tmp_path / "deleted", age=2)
    isfile, stat = os.path.isfile, Path.stat

    def vanishing_isfile(path: object) -> bool:
        answer = isfile(path)  # type: ignore[arg-type]
        if answer and deleted in Path(str(path)).parents:
            shutil.rmtree(deleted, ignore_errors=True)
        return answer

    def vanishing_stat(path: Path, **options: bool) -> os.stat_result:
        answer = stat(path, **options)
        if deleted in path.parents:
            shutil.rmtree(deleted, ignore_errors=True)
        return answer

    monkeypatch.setattr(os.path, "isfile", vanishing_isfile)
    monkeypatch.setattr(Path, "stat", vanishing_stat)
    states = {Path(run.path).name: run.state for run in list_runs(tmp_path).runs}
    assert "kept" in states
    assert states.get("deleted", "damaged") == "damaged"


def test_a_users_own_empty_folder_stays_where_a_run_does_not_begin(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(ZeroDivisionError), new_run(mine, "tutorial"):
        raise ZeroDivisionError
    assert list(mine.iterdir()) == []


def test_a_folder_that_was_made_for_a_run_goes_where_it_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_run(tmp_path / "new", "tutorial"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_is_opened_by_a_text_or_a_path(tmp_path: Path, kind: type) -> None:
    path = make(tmp_path / "run", age=1)
    assert open_run(kind(path)) == Run(path)
