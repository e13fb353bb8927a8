"""Locks between processes, also on file systems that have none."""

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import INTERPRETER

from cifar_trainer import files, locks
from cifar_trainer.locks import LockedError, is_locked, lock


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which flock fails, as on Lustre without its option, or NFS without its service."""

    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A lock that another process holds."""
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from cifar_trainer.locks import lock\n"
        "with lock(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [INTERPRETER, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield path
    process.communicate()


def test_a_lock_that_another_process_holds_is_refused(held: Path) -> None:
    with pytest.raises(LockedError), lock(held):
        pass


def test_a_lock_that_another_process_holds_is_seen(held: Path) -> None:
    assert is_locked(held)


def test_a_lock_that_is_free_again_is_seen_as_free(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"):
        pass
    assert not is_locked(tmp_path / "lock")


@pytest.mark.usefixtures("without_locks")
class TestWithoutLocks:
    """The holder's file stands in."""

    def test_a_second_holder_is_refused_and_the_first_is_named(self, tmp_path: Path) -> None:
        first, second = lock(tmp_path / "lock"), lock(tmp_path / "lock")
        with first, pytest.raises(LockedError, match=f"process {os.getpid()}"), second:
            pass

    def test_what_is_missing_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING), lock(tmp_path / "lock"):
            pass
        assert "has no locks" in caplog.text

    def test_the_lock_is_free_after_the_block(self, tmp_path: Path) -> None:
        with lock(tmp_path / "lock"):
            assert is_locked(tmp_path / "lock")
        assert not is_locked(tmp_path / "lock")

    def test_a_lock_whose_file_was_replaced_is_taken_again_and_not_refused_to_its_own_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process deletes and makes the lock's file at the moment at which it is taken."""
        path, same = tmp_path / "lock", iter([False])
        monkeypatch.setattr(os.path, "samestat", lambda one, other: next(same, True))
        with lock(path):
            assert is_locked(path)
        assert not (tmp_path / "lock.holder").exists()

    def test_a_dead_process_of_this_machine_holds_nothing(self, tmp_path: Path) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        holder = {"host": socket.gethostname(), "pid": dead.pid}
        (tmp_path / "lock.holder").write_text(json.dumps(holder))
        with lock(tmp_path / "lock"):
            pass
        assert not (tmp_path / "lock.holder").exists()

    def test_a_process_of_another_machine_is_believed_to_live(self, tmp_path: Path) -> None:
        (tmp_path / "lock.holder").write_text(json.dumps({"host": "another", "pid": 1}))
        with pytest.raises(LockedError, match="process 1 on another"), lock(tmp_path / "lock"):
            pass

    def test_unfinished_writes_of_others_are_left_alone(self, tmp_path: Path) -> None:
        """Nobody can tell there whether they are still going on."""
        other = tmp_path / ".partial-other"
        other.touch()
        os.utime(other, (1, 1))
        files.write_text(tmp_path / "file", "text")
        assert other.exists()


def test_what_a_killed_write_has_left_is_deleted_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / ".partial-report-x"
    left.mkdir()
    os.utime(left, (1, 1))
    files.write_text(tmp_path / "file", "text")
    assert not left.exists()


def test_a_write_that_is_still_going_on_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SECONDS_TO_LOCK", -1)
    with files.atomic_folder(tmp_path / "slow") as partial:
        (partial / "content").touch()
        files.write_text(tmp_path / "file", "text")
        assert (partial / "content").exists()


def test_a_loop_of_looks_keeps_nobody_from_taking_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    program = (
        "import sys, pathlib; from cifar_trainer.locks import is_locked\n"
        "path = pathlib.Path(sys.argv[1]); print(flush=True)\n"
        "while True: is_locked(path)"
    )
    with subprocess.Popen([INTERPRETER, "-c", program, path], stdout=subprocess.PIPE) as looking:
        assert looking.stdout is not None
        looking.stdout.readline()
        try:
            for _ in range(2000):
                with lock(path):
                    pass
        finally:
            looking.kill()


def test_who_waits_is_told_once_and_gets_the_lock(held: Path) -> None:
    waited: list[int] = []

    def wait() -> None:
        waited.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lock(held, wait):
        pass
    assert waited == [1]


def test_a_lock_whose_file_was_deleted_by_its_holder_keeps_nobody_out(tmp_path: Path) -> None:
    """Who opened the file before it was deleted holds nothing: the next one makes a new file."""
    path = tmp_path / "lock"
    old = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(old, fcntl.LOCK_EX)
    path.unlink()
    with lock(path):
        assert is_locked(path)
    os.close(old)
    assert locks.is_abandoned(path)
