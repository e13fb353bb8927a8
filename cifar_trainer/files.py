"""Atomic writes: a reader sees either the old file or the new one, never a partial one.

Each write goes to a temporary name beside the target, is flushed to the disk, and replaces the target with
one rename. The folder is flushed last, so that the rename survives a power failure. A writer locks its
unfinished file, so that the next writer can recognize and delete the leftovers of a killed process.
"""

import contextlib
import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from cifar_trainer import locks
from cifar_trainer.errors import CifarTrainerError, RunError, UsageError, printable

T = TypeVar("T")

#: Prefix of the names of unfinished writes.
PARTIAL_PREFIX = ".partial-"
#: Seconds after which a writer must have locked its unfinished file.
_SECONDS_TO_LOCK = 2.0
#: A spreadsheet runs text that starts with one of these as a formula, unless it is a number (OWASP, "CSV
#: Injection").
_FORMULA, _NUMBER = re.compile(r"[=+\-@]"), re.compile(r"[+-]?\d+([.,]\d+)*")
#: Constants from fcntl.h and linux/fs.h: resolve paths from the current folder; swap two paths.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Turn a failed write at or below `path` into an error whose message ends with `remedy`.

    Raises:
        RunError: a write failed. This module's functions then leave existing files untouched.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}. {remedy}") from error


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` if the block succeeds.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path.parent, path.name)
    # Not tempfile, which makes private files: the user's umask decides who may read a result.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            locks.try_lock(file.fileno())
            _remove_abandoned(path.parent)
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
    """A temporary path with the suffix of `path`, for a library that only writes to paths.

    If the block succeeds, the file is flushed and renamed to `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path.parent, path.stem) as folder:
        partial = folder / path.name
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    flush_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replace `path` with `content`."""
    with atomic_writer(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Atomically replace `path` with `text` as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Atomically replace `path` with `value` as indented JSON; ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def format_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV table that a spreadsheet can open safely.

    Fractions have six digits, booleans are `true` or `false`, and None is an empty field. Text has no line
    breaks or control characters, and starts with an apostrophe if a spreadsheet would run it as a formula.

    Args:
        columns: the header.
        rows: values by column; other keys are ignored.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_field(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    shown = printable(str(value))
    is_formula = isinstance(value, str) and _FORMULA.match(shown) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if is_formula else shown


def read_json(path: Path, kind: type[T], *, error: type[CifarTrainerError] = RunError, remedy: str = "") -> T:
    """Read a JSON file as a dataclass; unknown keys are ignored.

    Args:
        path: the file.
        kind: a dataclass, or another type that msgspec converts to.
        error: the class of the exceptions.
        remedy: a sentence that says what to do about it.

    Raises:
        CifarTrainerError: (of class `error`) the file cannot be read, is not JSON, or a value is missing or
            has the wrong type. The message names the file, the key, its value, and the expected type.
    """
    advice = f" {remedy}" if remedy else ""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}.{advice}") from cause
    except ValueError as cause:
        raise error(f"{path} is not JSON: {cause}.{advice}") from cause
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UsageError) as cause:
        reason = _describe_mismatch(cause, value)
        raise error(f"{path} is damaged or from another version: {reason}.{advice}") from cause


def _describe_mismatch(cause: Exception, value: Any) -> str:
    """What is wrong, such as `Expected `int`, got `str` at `epochs`, which is "2"`."""
    # Checks of settings name command-line options, but this is a file.
    reason, _, path = str(cause).removeprefix("--").rstrip(".").partition(" - at `$")
    if not path:
        return reason
    keys = re.findall(r"\.(\w+)|\[(\d+)\]", path)
    for key, index in keys:
        value = value[key] if key else value[int(index)]
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 80 else f"{shown[:76]} ..."
    return f"{reason} at `{path.rstrip('`').removeprefix('.') or 'the top'}`, which is {shown}"


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Create a folder under a temporary name; it becomes `path` if the block succeeds.

    With `replace`, an existing folder is swapped out in one step. Otherwise it is left unchanged, and
    FileExistsError is raised. If `path` is a link, the folder that it points to is replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path.parent, path.name) as partial:
        yield partial
        flush_tree(partial)
        _put_in_place(partial, path, replace=replace)
    flush_folder(path.parent)


@contextlib.contextmanager
def atomic_group(folder: Path, *, replace: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; if the block succeeds, move all of its content into `folder`, or nothing.

    Names in `replace` may be replaced. Any other name that exists raises FileExistsError.
    """
    with partial_folder(folder, "group") as partial:
        yield partial
        flush_tree(partial)
        _move_together(partial, folder, replace)
    flush_folder(folder)


def _move_together(partial: Path, folder: Path, replace: Collection[str]) -> None:
    moved = []
    try:
        for path in sorted(partial.iterdir()):
            target = folder / path.name
            existed = os.path.lexists(target)
            _put_in_place(path, target, replace=path.name in replace)
            moved.append((path, target, existed))
    except BaseException:
        for path, target, existed in reversed(moved):
            if existed:
                _put_in_place(path, target, replace=True)
            else:
                os.rename(target, path)
        raise


@contextlib.contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """Create a locked folder for an unfinished write, and delete it at the end if it still exists."""
    partial = _partial_name(parent, name)
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        locks.try_lock(descriptor)
        _remove_abandoned(parent)
        yield partial
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name(parent: Path, name: str) -> Path:
    return parent / f"{PARTIAL_PREFIX}{name}-{secrets.token_hex(4)}"


def _put_in_place(partial: Path, path: Path, *, replace: bool) -> None:
    """Rename `partial` to `path`. If something is replaced, it ends up at `partial`."""
    if not os.path.lexists(path):
        os.rename(partial, path)
        return
    if not replace:
        raise FileExistsError(errno.EEXIST, "it already exists", str(path))
    if _exchange(partial, path):
        return
    # rename(2) does not replace a non-empty folder, so move the old one aside first.
    aside = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}old-", dir=path.parent))
    try:
        os.rename(path, aside / "old")
        os.rename(partial, path)
        os.rename(aside / "old", partial)
    except BaseException:
        if not os.path.lexists(path):
            os.rename(aside / "old", path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux's renameat2); False if the system or disk does not support it."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def plain_link(path: Path) -> Iterator[Path]:
    """A symbolic link to a folder, with a plain ASCII path, for libraries that do not accept every path.

    TensorFlow treats `[`, `]`, `*` and `?` in a path as a pattern, and fails if a path is not UTF-8.
    """
    with tempfile.TemporaryDirectory(prefix="cifar-trainer-") as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.absolute())
        yield link


def remove_partials(folder: Path) -> None:
    """Delete all unfinished writes in `folder`. Call only while holding the folder's lock."""
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):
        _delete(leftover)


def _remove_abandoned(folder: Path) -> None:
    """Delete unfinished writes of killed processes in `folder`; keep those still in progress."""
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_abandoned(leftover):
                _delete(leftover)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(partial: Path) -> bool:
    # A write that has just started may not have its lock yet.
    if abs(time.time() - partial.lstat().st_mtime) < _SECONDS_TO_LOCK:
        return False
    return locks.is_abandoned(partial)


def flush_tree(folder: Path) -> None:
    """Flush a folder, and every file and folder below it, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        flush_folder(Path(root))


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems can only flush files.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
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
    """The regular files below a folder, sorted; links are skipped."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sha256_tree(folder: Path) -> str:
    """SHA-256 over a folder: each file's relative POSIX path and digest, sorted by path."""
    digest = hashlib.sha256()
    for path in files_below(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; files deleted in the meantime are skipped."""
    total = 0
    for file in [path] if path.is_file() else files_below(path):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
