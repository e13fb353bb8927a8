"""Locks between processes: taken for as long as a process lives, and looked at without being taken.

A lock is flock(2) on a file, so the kernel lets go when its holder ends, however it ends.
Only who holds a lock may delete its file. Some file systems have no such locks (Lustre and NFS without their
lock service, some FUSE). There a second file beside it, made in one step and named after
its holder, stands in; one that a dead process of the same machine has left counts no more.
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

from cifar_trainer import UNSUPPORTED

try:
    import fcntl
except ImportError as error:
    raise ImportError(UNSUPPORTED) from error

log = logging.getLogger(__name__)

#: What flock says where the file system has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
#: Seconds between two tries.
_PAUSE = 0.02


class LockedError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: what is known of it, such as `process 1234 on host`; empty if nothing is.
    """

    def __init__(self, holder: str = "") -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: the lock's file; it is made where it is missing, and stays.
        on_wait: called once if another process holds the lock, which is then waited for. None does
            not wait.

    Raises:
        LockedError: another process holds it, and `on_wait` is None.
        OSError: the file cannot be made or written.
    """
    descriptor, stand_in = _acquire(path, on_wait)
    try:
        yield
    finally:
        if stand_in is not None:
            stand_in.unlink(missing_ok=True)
        os.close(descriptor)


def try_lock(descriptor: int) -> None:
    """Lock an open file until it is closed, where nobody else does and the file system can."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`; looking keeps nobody from taking it.

    Where that cannot be told, as in a folder that may not be read, the answer is False.
    """
    free = _looks_free(path)
    return _living_holder(_stand_in(path)) is not None if free is None else not free


def is_abandoned(path: Path) -> bool:
    """Whether whoever locked the file or folder `path` by `try_lock` has ended.

    Where the file system has no locks that cannot be told, and the answer is False.
    """
    return _looks_free(path) is True


def _looks_free(path: Path) -> bool | None:
    """Whether nobody holds an exclusive lock on `path`; None where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # A shared lock: `_take` waits for those who look, and two of them do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[], None] | None) -> tuple[int, Path | None]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            stand_in = _take(descriptor, path)
            # The holder before may have deleted the file that was opened here: its lock keeps nobody out.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, stand_in
            os.close(descriptor)
        except BaseException as error:
            os.close(descriptor)
            if not isinstance(error, LockedError) or on_wait is None:
                raise
            on_wait()
            on_wait = _nothing
            time.sleep(_PAUSE)


def _nothing() -> None:
    pass


def _take(descriptor: int, path: Path) -> Path | None:
    """Take the lock, or raise LockedError; the file that stands in for it, where one does."""
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
        # Somebody only looks, and is done in a moment.
        time.sleep(_PAUSE / 10)


def _is_held(descriptor: int) -> bool:
    """Whether an exclusive lock is in the way, and not the shared one of somebody who looks."""
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
    """Delete what a dead process has left. Of two that find it at once, neither deletes the other's."""
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(file, aside)
        if _living_holder(aside) is not None:
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()


def _living_holder(file: Path) -> str | None:
    """Who holds a lock by `file`; None if nobody does, or a process of this machine that is dead."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
        host, process = str(holder["host"]), int(holder["pid"])
    except (ValueError, KeyError, TypeError):
        # It is being written at this moment, or it is not ours: nobody's to take.
        return f"the owner of {file}"
    if host == socket.gethostname():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    return f"process {process} on {host}"
