"""The files of a source by name, in a folder or unpacked from an archive."""

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

#: More than any data set for this package has.
MAX_FILES = 1_000_000
#: Deep enough for the caches of Hugging Face and TensorFlow Datasets.
_MAX_DEPTH = 8

#: A path on the disk, or the start and size of a small file within one file that contains all small ones.
Place = str | tuple[int, int]


class Folder:
    """Files by name.

    Attributes:
        path: the source as the user gave it, for messages.
        files: the place of each file by its name, with `/` as the separator.
        store: the descriptor of the file that contains the small files, and the folder of unpacked files.
    """

    def __init__(self, path: Path, files: Mapping[str, Place], store: tuple[int, Path] | None = None) -> None:
        self.path = path
        self.files = files
        self.store = store
        self._formats: dict[str, str] = {}

    def read(self, name: str, most: int = MAX_BYTES + 1) -> bytes:
        """The first `most` bytes of a file; by default one more than an image may have."""
        place = self.files[name]
        if isinstance(place, tuple):
            assert self.store is not None
            return os.pread(self.store[0], min(place[1], most), place[0])
        with open(place, "rb") as file:
            return file.read(most)

    def local(self, name: str) -> Path:
        """The path of a file on the disk; writes a small unpacked file to the disk first."""
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
        """Whether any file has the suffix of an image."""
        return any(name.lower().endswith(SUFFIXES) for name in self.files)

    def describe(self, name: str) -> str:
        """A file's name for messages."""
        inside = str(self.path / name)
        if self.files.get(name) == inside:
            return printable(inside)
        return f"{self.path}: {printable(name)}"

    def inside(self, prefix: str) -> "Folder":
        """The files directly in the subfolder `prefix`."""
        names = {name.removeprefix(prefix): self.files[name] for name in self.by_folder[prefix]}
        return Folder(self.path / prefix, names, self.store)

    @functools.cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """The files of each folder by the folder's prefix, outer folders first."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(name[: name.rfind("/") + 1], []).append(name)
        return dict(sorted(found.items(), key=lambda item: (item[0].count("/"), item[0])))


def list_folder(path: Path) -> Folder:
    """List a folder. Links are followed; hidden files and leftovers are skipped.

    Raises:
        DataError: it contains a FIFO, a device, a loop of links, or more than MAX_FILES files.
    """
    files: dict[str, Place] = {}
    for name, place in _walk(path, ""):
        files[name] = place
        if len(files) > MAX_FILES:
            raise DataError(
                f"{path} contains more than {MAX_FILES:,} files. Pass the folder of the data set."
            )
    return Folder(path, files)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = prefix + entry.name
        if entry.name.startswith(".") or is_leftover(name):
            continue
        if entry.is_dir():
            if entry.is_symlink() and folder.resolve().is_relative_to((folder / entry.name).resolve()):
                raise DataError(f"{folder / printable(entry.name)} is a link to a folder that contains it.")
            if name.count("/") < _MAX_DEPTH:
                yield from _walk(folder / entry.name, name + "/")
        # A broken link is reported with the images that cannot be read.
        elif entry.is_file() or not os.path.exists(entry.path):
            yield name, entry.path
        else:
            kind = kind_of(entry.stat().st_mode)
            raise DataError(f"{folder / printable(entry.name)} is a {kind}, expected a file.")


def abridged(names: Iterable[str], limit: int = 8) -> str:
    """The first few names for a message, and the number of the others."""
    every = sorted(names)
    first = ", ".join(map(printable, every[:limit]))
    return first if len(every) <= limit else f"{first} and {len(every) - limit:,} more"


def kind_of(mode: int) -> str:
    """The type of a file by its mode, such as `link`."""
    kinds = {"l": "link", "p": "FIFO", "s": "socket", "b": "device", "c": "device", "d": "folder"}
    return kinds.get(stat.filemode(mode)[0], "special file")
