"""The disk, the folder, another process or a SIGKILL in the way of `prepare`: what was there before stays."""

import errno
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import builders
import pytest
from builders import Refuse, RunCli
from command_line import run_python, start_command

from cifar_trainer import files, locks
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError


@pytest.mark.parametrize("which", ["data_dir", "folder"])
@pytest.mark.parametrize("obstacle", ["file", "dangling", "looping"])
def test_target_that_is_no_folder(run_cli: RunCli, tmp_path: Path, which: str, obstacle: str) -> None:
    data_dir = tmp_path / "data"
    target = data_dir if which == "data_dir" else data_dir / "cifar10"
    target.parent.mkdir(exist_ok=True)
    if obstacle == "file":
        target.write_bytes(b"mine")
    else:
        target.symlink_to(target if obstacle == "looping" else tmp_path / "nowhere")
    done = run_cli(["prepare", "--data-dir", data_dir])
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"{target} is a {'file' if obstacle == 'file' else 'broken link'}" in done.stderr
    assert target.read_bytes() == b"mine" if obstacle == "file" else target.is_symlink()


def test_foreign_folder_is_left_alone(run_cli: RunCli, tmp_path: Path, small_source: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/thesis.txt").write_text("mine")
    done = run_cli(["prepare", "--data-dir", tmp_path, "--source", small_source, "--force"])
    assert done.returncode == 3 and "were not prepared by cifar-trainer" in done.stderr
    assert (tmp_path / "cifar10/thesis.txt").read_text() == "mine"


def test_folder_that_cannot_be_written_is_noticed_before_any_download(
    run_cli: RunCli, mount: Callable[[str], Path], tmp_path: Path
) -> None:
    if os.getuid() == 0:  # For root, permissions do not count.
        folder, reason = mount("ro"), "Read-only file system"
    else:
        folder, reason = tmp_path / "locked", "Permission denied"
        folder.mkdir(mode=0o555)
    done = run_cli(["prepare", "--data-dir", folder / "data"])
    assert done.returncode == 3, done.stderr
    assert f"{folder / 'data'} cannot be written: {reason}" in done.stderr
    assert "Downloading" not in done.stderr and "Traceback" not in done.stderr


def test_full_disk_before_the_first_byte(run_cli: RunCli, mount: Callable[[str], Path]) -> None:
    """A real one, of one megabyte."""
    folder = mount("size=1m")
    done = run_cli(["prepare", "--dataset", "synthetic", "--data-dir", folder])
    assert done.returncode == 3, done.stderr
    message = re.search(r"is full: ([\d,]+) bytes are needed, ([\d,]+) are free", done.stderr)
    assert message is not None
    needed, free = (int(figure.replace(",", "")) for figure in message.groups())
    assert needed > 12_000 * 3073 and 0 < free <= 1 << 20
    assert builders.snapshot(folder) == {}


def test_full_disk_half_way(
    mount: Callable[[str], Path], tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk says that it has room, and has none when it comes to writing."""
    folder = mount("size=2m")
    shutil.copytree(prepared / "cifar10", folder / "cifar10")
    source = builders.write_zip(tmp_path / "large.zip", builders.class_folders(train=80))
    before = builders.snapshot(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    with pytest.raises(DataError, match=r"is full: [\d,]+ bytes are needed"):
        prepare("cifar10", folder, source=source, force=True)
    assert builders.snapshot(folder) == before


def test_write_that_fails(refuse: Refuse, tmp_path: Path) -> None:
    """No file may grow beyond 50 kB here."""

    source = builders.write_zip(tmp_path / "a.zip", builders.class_folders(train=4))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        refuse(source, "could not be written: File too large", "untouched")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_flush_or_rename_that_fails(
    prepared: Path, small_source: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = builders.snapshot(prepared)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DataError, match="could not be written: Input/output error"):
        prepare("cifar10", prepared, source=small_source, force=True)
    assert builders.snapshot(prepared) == before


def test_a_lock_that_cannot_be_written(run_cli: RunCli, tmp_path: Path, small_source: Path) -> None:
    (tmp_path / ".prepare.lock").mkdir()
    done = run_cli(["prepare", "--data-dir", tmp_path, "--source", small_source])
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert ".prepare.lock cannot be written" in done.stderr


@pytest.mark.parametrize("mirrors", ["example.org/x", "http://[::1", "https://"])
def test_mirrors_that_are_no_addresses(run_cli: RunCli, tmp_path: Path, mirrors: str) -> None:
    done = run_cli(["prepare", "--data-dir", tmp_path], env={"CIFAR_TRAINER_MIRRORS": mirrors})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert mirrors in done.stderr and "CIFAR_TRAINER_MIRRORS" in done.stderr


def test_second_prepare_waits_and_says_so(tmp_path: Path, small_source: Path) -> None:
    with locks.lock(tmp_path / ".prepare.lock"):
        second = start_command(["prepare", "--data-dir", tmp_path, "--source", small_source])
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        assert second.poll() is None and not (tmp_path / "cifar10").exists()
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert len(load_dataset(tmp_path, "cifar10").train) == 20


@pytest.mark.parametrize("instant", ["before dataset.json", "before the swap"])
def test_killed_while_it_writes(prepared: Path, tmp_path: Path, instant: str) -> None:
    """SIGKILL leaves the old set and a partial folder; the next prepare clears it away."""
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    patch = {
        "before dataset.json": "from cifar_trainer import files; files.write_json = lambda *a: " + kill,
        "before the swap": f"from cifar_trainer import files; files._put_in_place = lambda *a, **b: {kill}",
    }[instant]
    source = builders.write_zip(tmp_path / "a.zip", builders.class_folders(train=4))
    before = builders.snapshot(prepared / "cifar10")
    code = f"import os, signal\n{patch}\nfrom cifar_trainer.cli import main\nmain()"
    arguments = ["prepare", "--data-dir", prepared, "--source", source, "--force"]
    done = run_python(["-c", code, *arguments])
    assert done.returncode == -signal.SIGKILL
    assert builders.snapshot(prepared / "cifar10") == before
    assert len(list(prepared.glob(".partial-cifar10-*"))) == 1
    prepare("cifar10", prepared, source=source, force=True)
    assert list(prepared.glob(".partial-*")) == []
    assert len(load_dataset(prepared, "cifar10").train) == 40
