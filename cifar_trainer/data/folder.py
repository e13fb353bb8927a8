"""The files of a source by name: those of a folder, or what an archive unpacks to."""

import contextlib
import functools
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cifar_trainer.data import formats
from cifar_trainer.errors import DataError, printable
from cifar_trainer.images import MAX_BYTES, SUFFIXES, is_leftover

#: Far more than any data set that this package trains on.
MAX_FILES = 1_000_000
#: Deep enough for the caches of Hugging Face and TensorFlow Datasets.
_MAX_DEPTH = 8

#: A path on the disk, or the start and size of a small file in the file that holds them all.
Place = str | tuple[int, int]


class Folder:
    """Files by name.

    Attributes:
        path: what the user named, for messages.
        files: where each file is, by its name with `/` between the parts.
        store: the descriptor of the file with the small files, and the folder of the others.
    """

    def __init__(self, path: Path, files: Mapping[str, Place], store: tuple[int, Path] | None = None) -> None:
        self.path = path
        self.files = files
        self.store = store
        self._formats: dict[str, str] = {}

    def read(self, name: str, most: int = MAX_BYTES + 1) -> bytes:
        """The content of a file, at most `most` bytes: one more than any image may have."""
        place = self.files[name]
        if isinstance(place, tuple):
            assert self.store is not None
            return os.pread(self.store[0], min(place[1], most), place[0])
        with open(place, "rb") as file:
            return file.read(most)

    def local(self, name: str) -> Path:
        """The path of a file on the disk; a small unpacked file is written out first."""
        place = self.files[name]
        if isinstance(place, str):
            return Path(place)
        assert self.store is not None
        descriptor, path = tempfile.mkstemp(dir=self.store[1])
        with open(descriptor, "wb") as file:
            file.write(self.read(name))
        return Path(path)

    def format(self, name: str) -> str:
        """The format of a file (`data.formats`). Files with an image's suffix are not opened."""
        if name.lower().endswith(SUFFIXES):
            return "image"
        if name not in self._formats:
            self._formats[name] = ""
            with contextlib.suppress(OSError):
                self._formats[name] = formats.format_of(self.read(name, formats.HEAD_BYTES))
        return self._formats[name]

    def of_format(self, *names: str) -> list[str]:
        """The files of these formats."""
        return [file for file in self.files if self.format(file) in names]

    @property
    def has_images(self) -> bool:
        """Whether a file is an image by its suffix."""
        return any(name.lower().endswith(SUFFIXES) for name in self.files)

    def describe(self, name: str) -> str:
        """A file's name for messages."""
        inside = str(self.path / name)
        if self.files.get(name) == inside:
            return printable(inside)
        return f"{self.path}: {printable(name)}"

    def inside(self, prefix: str) -> "Folder":
        """The files directly in the folder `prefix`, by their own names."""
        names = {name.removeprefix(prefix): self.files[name] for name in self.by_folder[prefix]}
        return Folder(self.path / prefix, names, self.store)

    @functools.cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """The files of each folder, by the prefix of their names; the outermost folder first."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(name[: name.rfind("/") + 1], []).append(name)
        return dict(sorted(found.items(), key=lambda item: (item[0].count("/"), item[0])))


def list_folder(path: Path) -> Folder:
    """The files of a folder. Links are followed, hidden files and leftovers are skipped.

    Raises:
        DataError: a folder cannot be read, or holds a FIFO, a device, or more files than any data set.
    """
    files: dict[str, Place] = {}
    for name, place in _walk(path, ""):
        files[name] = place
        if len(files) > MAX_FILES:
            raise DataError(
                f"{path} holds more than {MAX_FILES:,} files, far more than a data set of images."
            )
    return Folder(path, files)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = prefix + entry.name
        if entry.name.startswith(".") or is_leftover(name):
            continue
        if entry.is_dir():
            if entry.is_symlink() and folder.resolve().is_relative_to((folder / entry.name).resolve()):
                raise DataError(f"{folder / printable(entry.name)} is a link to a folder that it lies in.")
            if name.count("/") < _MAX_DEPTH:
                yield from _walk(folder / entry.name, name + "/")
        # A broken link is reported with the images that cannot be read.
        elif entry.is_file() or not os.path.exists(entry.path):
            yield name, entry.path
        else:
            kind = kind_of(entry.stat().st_mode)
            raise DataError(f"{folder / printable(entry.name)} is a {kind}, expected a file.")


def abridged(names: Iterable[str], limit: int = 8) -> str:
    """A list of names for a message: the first few, and how many more."""
    every = sorted(names)
    first = ", ".join(map(printable, every[:limit]))
    return first if len(every) <= limit else f"{first} and {len(every) - limit:,} more"


def kind_of(mode: int) -> str:
    """The kind of a file by its mode, in a word."""
    kinds = {"l": "link", "p": "FIFO", "s": "socket", "b": "device", "c": "device", "d": "folder"}
    return kinds.get(stat.filemode(mode)[0], "special file")
