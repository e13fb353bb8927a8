"""Check free space and write permission, and explain failed writes."""

import errno
import os
import shutil
from pathlib import Path

from cifar_trainer import files
from cifar_trainer.errors import DataError


def check_target(data_dir: Path, folder: Path, marker: str) -> None:
    """Check that `data_dir` is writable, and that no foreign files would be overwritten; create `data_dir`.

    The file `marker` identifies folders that `prepare` wrote.
    """
    try:
        for path in (data_dir, folder):
            if path.is_symlink() and not path.exists():
                raise DataError(f"{path} is a broken link. Remove it, or choose another --data-dir.")
            if path.exists() and not path.is_dir():
                raise DataError(f"{path} is a file, expected a folder. Choose another --data-dir.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
            raise DataError(
                f"{folder} contains files that were not prepared by cifar-trainer. Move it away, "
                "or choose another --data-dir."
            )
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f"{files.PARTIAL_PREFIX}probe-{os.getpid()}"
        probe.touch()
        # Another prepare may have deleted it.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The data folder {data_dir} cannot be written: {reason(error)}. Choose another --data-dir."
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise DataError if the disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(_room_message(folder, needed, free))


def write_error(path: Path, needed: int, error: OSError) -> DataError:
    """The error for a failed write, flush, close or rename of `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(_room_message(path.parent, needed, shutil.disk_usage(path.parent).free))
    return DataError(f"{path} could not be written: {reason(error)}. The previous files are untouched.")


def reason(error: OSError) -> str:
    """The system's message, without error number and path."""
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))


def _room_message(folder: Path, needed: int, free: int) -> str:
    return (
        f"The disk of {folder} is full: {needed:,} bytes are needed, {free:,} are free. "
        "Free some space, or choose another --data-dir."
    )
