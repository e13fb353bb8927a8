"""Locks between processes, released even if their holder is killed.

A lock is flock(2) on a file. Only a lock's holder may delete its file. Some file systems have no such
locks (Lustre and NFS without their lock service, some FUSE). On those, a second file beside it, created
atomically and naming its holder, stands in for the lock; a file left by a dead local process is ignored.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cifar_trainer.errors import UNSUPPORTED

try:
    import fcntl
except ImportError as error:
    raise ImportError(UNSUPPORTED) from error

log = logging.getLogger(__name__)

#: Errors of flock on a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
#: Seconds between attempts.
_PAUSE = 0.02


class LockedError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: such as `process 1234 on host`; empty if unknown.
    """

    def __init__(self, holder: str = "") -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: the lock's file; created if missing, and kept.
        on_wait: called once before waiting for another process to release the lock. None: do not wait.

    Raises:
        LockedError: another process holds the lock, and `on_wait` is None.
        OSError: the file cannot be created or written.
    """
    descriptor, stand_in = _acquire(path, on_wait)
    try:
        yield
    finally:
        _release(descriptor, stand_in)


def try_lock(descriptor: int) -> None:
    """Try to lock an open file until it is closed; do nothing if that is not possible."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`, without preventing others from taking it.

    False if unknown, for example in a folder that we cannot read.
    """
    free = _looks_free(path)
    return _living_holder(_stand_in(path)) is not None if free is None else not free


def is_abandoned(path: Path) -> bool:
    """Whether the process that locked the file or folder `path` by `try_lock` has ended.

    False on a file system without locks, where this is unknown.
    """
    return _looks_free(path) is True


def _looks_free(path: Path) -> bool | None:
    """Whether no process holds an exclusive lock on `path`; None if unknown."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # A shared lock: `_take` waits until it is released, and two such checks do not conflict.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # Another user's file: locking needs no write access, except on NFS.
        return os.open(path, os.O_RDONLY)


def _acquire(path: Path, on_wait: Callable[[], None] | None) -> tuple[int, Path | None]:
    while True:
        descriptor, stand_in = _open(path), None
        try:
            stand_in = _take(descriptor, path)
            # The previous holder may have deleted the file after we opened it, which makes our lock useless.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, stand_in
            _release(descriptor, stand_in)
        except BaseException as error:
            _release(descriptor, stand_in)
            if not isinstance(error, LockedError) or on_wait is None:
                raise
            on_wait()
            on_wait = _nothing
            time.sleep(_PAUSE)


def _nothing() -> None:
    pass


def _release(descriptor: int, stand_in: Path | None) -> None:
    if stand_in is not None:
        stand_in.unlink(missing_ok=True)
    os.close(descriptor)


def _take(descriptor: int, path: Path) -> Path | None:
    """Take the lock, or raise LockedError. Returns the file that stands in for it, if there is one."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            if _is_held(descriptor):
                raise LockedError from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return _take_stand_in(path)
        # Another process is only checking, which takes a moment.
        time.sleep(_PAUSE / 10)


def _is_held(descriptor: int) -> bool:
    """Whether the other lock is exclusive, rather than the shared lock of a process that only checks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _stand_in(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _take_stand_in(path: Path) -> Path:
    file = _stand_in(path)
    log.warning(
        "The file system of %s has no locks; %s stands in for one. If a process on another machine is "
        "killed, delete that file by hand.",
        path.parent,
        file.name,
    )
    me = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
    while True:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            holder = _living_holder(file)
            if holder is not None:
                raise LockedError(holder) from None
            _clear(file)
            continue
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(me)
        return file


def _clear(file: Path) -> None:
    """Delete a dead process's file, unless another process has already replaced it."""
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, aside)
        if _living_holder(aside) is not None:
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()


def _living_holder(file: Path) -> str | None:
    """The holder of the lock through `file`, unless it is a local process that has died."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
        host, process = str(holder["host"]), int(holder["pid"])
    except (ValueError, KeyError, TypeError):
        # It is still being written, or belongs to another program.
        return f"the owner of {file}"
    if host == socket.gethostname():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    return f"process {process} on {host}"
