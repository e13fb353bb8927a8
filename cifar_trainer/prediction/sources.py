"""Where pictures come from: files, folders, FIFOs, standard input."""

import os
import stat
import sys
from pathlib import Path

from cifar_trainer.prediction.pictures import MAX_BYTES, PictureError

STANDARD_INPUT = "-"
#: What is taken for a picture in a folder, where nobody has named each file.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def expand(name: str) -> list[str]:
    """The pictures that `name` stands for: a folder gives those below it, sorted; the rest itself.

    Raises:
        PictureError: a folder holds no picture, or cannot be listed.
    """
    # os.path's test, unlike pathlib's, answers for a name that is too long.
    return _pictures_below(name) if name != STANDARD_INPUT and os.path.isdir(name) else [name]


def _pictures_below(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise PictureError(f"{error.filename} cannot be listed: {error.strerror}.") from error

    files = (Path(root, name) for root, _, names in os.walk(folder, onerror=refuse) for name in names)
    found = sorted(str(path) for path in files if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise PictureError(f"it is a folder without pictures ({', '.join(SUFFIXES)}).")
    return found


def read(name: str) -> bytes:
    """The bytes of a file, a FIFO up to its end, or standard input.

    Raises:
        PictureError: it is absent, unreadable, a device or socket, or larger than MAX_BYTES.
    """
    try:
        if name == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            mode = Path(name).stat().st_mode
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
                raise PictureError("it is a device or a socket; expected a file, a folder, a FIFO, or -.")
            with open(name, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(f"it cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise PictureError(f"it has more than {MAX_BYTES:,} bytes.")
    return content
