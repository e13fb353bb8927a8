"""Writing so that a reader finds the old file or the new one, never half of one.

Each write goes to a name beside the target, is flushed to the disk, and is
renamed over the target in one step; the folder is flushed last, so that the
rename itself survives a power cut.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: Names that start so are unfinished writes; whoever finds one may delete it.
PARTIAL_PREFIX = ".partial-"
#: Of fcntl.h and linux/fs.h: names are relative to the current folder; swap them.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an exception.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{PARTIAL_PREFIX}{path.name}-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # mkstemp makes files private; a result is as readable as the user's umask says.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a name beside `path`, of the same suffix, to a library that writes by name.

    What was written there is flushed and renamed to `path` when the block ends well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{path.stem}-", dir=path.parent))
    try:
        partial = folder / path.name
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    flush_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step."""
    with atomic_writer(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, as UTF-8, in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; NaN and infinity are refused, being no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a folder under a partial name; it becomes `path` when the block ends well.

    With `replace`, a folder that stands at `path` is swapped out whole. Without it
    the rename fails with FileExistsError, and what stood there is untouched. A link is
    followed: the folder that it leads to is swapped, on the disk where it lies.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{path.name}-", dir=path.parent))
    os.chmod(partial, 0o777 & ~_umask())
    try:
        yield partial
        flush_tree(partial)
        _put_in_place(partial, path, replace=replace)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    flush_folder(path.parent)


def _put_in_place(partial: Path, path: Path, *, replace: bool) -> None:
    if not os.path.lexists(path):
        os.rename(partial, path)
        return
    if not replace:
        raise FileExistsError(f"{path} exists already")
    if _exchange(partial, path):
        return
    # rename(2) does not replace a folder that holds something, so the old one steps aside first.
    aside = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}old-", dir=path.parent))
    try:
        os.rename(path, aside / "old")
        os.rename(partial, path)
    except BaseException:
        if not os.path.lexists(path):
            os.rename(aside / "old", path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2 of Linux); False where the system or the disk cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def remove_partials(folder: Path) -> None:
    """Delete what interrupted writes have left in `folder`. Only for a folder that we hold."""
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        flush_folder(Path(root))


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it is not lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """The regular files below a folder, sorted; links are passed over."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sha256_tree(folder: Path) -> str:
    """SHA-256 over a folder: each file's relative POSIX path and digest, sorted by path."""
    digest = hashlib.sha256()
    for path in files_below(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; one that goes meanwhile counts nothing."""
    total = 0
    for file in [path] if path.is_file() else files_below(path):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
