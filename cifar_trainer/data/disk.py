"""Checks room and permission to write, and describes why a write failed."""

import errno
import os
import shutil
from pathlib import Path

from cifar_trainer import files
from cifar_trainer.errors import DataError


def check_target(data_dir: Path, folder: Path, marker: str) -> None:
    """Make sure that `data_dir` can be written, and that we would not overwrite anyone else's files.

    Creates `data_dir`. The file `marker` identifies our folders.
    """
    try:
        for path in (data_dir, folder):
            if path.is_symlink() and not path.exists():
                raise DataError(
                    f"{path} is a link that leads nowhere. Remove it, or choose another --data-dir."
                )
            if path.exists() and not path.is_dir():
                raise DataError(f"{path} is a file, expected a folder. Choose another --data-dir.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
            raise DataError(
                f"{folder} holds something that was not prepared by cifar-trainer. Move it away, "
                "or choose another --data-dir."
            )
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f"{files.PARTIAL_PREFIX}probe-{os.getpid()}"
        probe.touch()
        # Another prepare may have cleared it away.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The data folder {data_dir} cannot be written: {reason(error)}. Choose another --data-dir."
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise DataError, with both figures, if the disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(_room_message(folder, needed, free))


def write_error(path: Path, needed: int, error: OSError) -> DataError:
    """The error for a write, flush, close or rename of `path` that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(_room_message(path.parent, needed, shutil.disk_usage(path.parent).free))
    return DataError(f"{path} could not be written: {reason(error)}. What was there before is untouched.")


def reason(error: OSError) -> str:
    """The system's message, without Python's decoration."""
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))


def _room_message(folder: Path, needed: int, free: int) -> str:
    return (
        f"The disk of {folder} is full: {needed:,} bytes are needed, {free:,} are free. "
        "Make room, or choose another --data-dir."
    )
