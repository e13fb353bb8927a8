"""Writes that a reader never sees half done."""

import os
import threading
from pathlib import Path

import pytest

from cifar_trainer import files


def test_a_folder_is_swapped_in_one_step(tmp_path: Path) -> None:
    """Who looks all the time while it is replaced two hundred times finds it whole each time."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    if not files._exchange(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this system cannot swap two names in one step")
    target = tmp_path / "report"
    with files.atomic_folder(target) as folder:
        (folder / "number").write_text("0")
    found: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                folder = os.open(target, os.O_RDONLY)
            except FileNotFoundError:
                found.append("no folder")
                continue
            try:
                with open(os.open("number", os.O_RDONLY, dir_fd=folder)) as file:
                    found.append(file.read())
            except FileNotFoundError:
                # Opened before a swap and emptied after it: by then the new one has the name.
                pass
            finally:
                os.close(folder)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(1, 201):
            with files.atomic_folder(target, replace=True) as folder:
                (folder / "number").write_text(str(number))
    finally:
        done.set()
        reader.join()
    assert found
    assert [text for text in found if not text.isdecimal()] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial-")] == []


def test_a_folder_is_swapped_in_two_steps_where_the_system_knows_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    target = tmp_path / "report"
    for text in ("old", "new"):
        with files.atomic_folder(target, replace=True) as folder:
            (folder / "number").write_text(text)
    assert (target / "number").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_umask_decides_who_may_read_a_result_and_is_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the whole process: another thread's file would get other permissions."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", pytest.fail)
            files.write_text(tmp_path / "file", "text")
            with files.atomic_folder(tmp_path / "folder"):
                pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("one_step", [True, False])
def test_if_one_of_a_group_cannot_be_renamed_the_others_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool
) -> None:
    if not one_step:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    (tmp_path / "a.onnx").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("old")
    put_in_place = files._put_in_place

    def fail_at_the_last(partial: Path, path: Path, *, replace: bool) -> None:
        if path.name == "d":
            raise OSError("no more")
        put_in_place(partial, path, replace=replace)

    monkeypatch.setattr(files, "_put_in_place", fail_at_the_last)
    with (
        pytest.raises(OSError, match="no more"),
        files.atomic_group(tmp_path, replace=("a.onnx", "b")) as folder,
    ):
        (folder / "b").mkdir()
        for name in ("a.onnx", "b/new", "c", "d"):
            (folder / name).write_text("new")
    assert (tmp_path / "a.onnx").read_text() == "old"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["precious"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b"]


def test_a_group_replaces_only_the_names_that_it_may(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError), files.atomic_group(tmp_path) as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, ""),
        (True, "true"),
        (-3, "-3"),
        (1 / 3, "0.333333"),
        ("a,b", '"a,b"'),
        ("=1+1.png", "'=1+1.png"),
        ("-x.png", "'-x.png"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1", "-1"),
        ("\t=1", r"\t=1"),
        ("a\nb\udce9.png", r"a\nb\udce9.png"),
    ],
)
def test_a_field_of_a_csv_table_is_one_line_and_never_a_formula(value: object, field: str) -> None:
    rows = [{"split": "test", "file": value, "other": 1}]
    assert files.format_csv(["split", "file"], rows) == f"split,file\ntest,{field}\n"
