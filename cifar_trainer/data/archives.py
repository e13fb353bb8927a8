"""A folder, a zip or a tar as a list of members that are read in memory, told apart by content."""

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from cifar_trainer.data.members import check_name, kind_of, list_members, normal, refused
from cifar_trainer.data.tars import TarSource
from cifar_trainer.errors import DataError, spoken

#: A folder is followed so deep: top/train/class/picture, and one more to notice what is too deep.
_MAX_DEPTH = 5
#: What reading a member of a damaged zip raises.
_ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, ValueError,
)  # fmt: skip


class Source(Protocol):
    """Where members are read from.

    Attributes:
        path: the folder or file.
        members: the size in bytes of each member, by its name with `/` between its parts.
    """

    path: Path
    members: dict[str, int]

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content, in the order in which they are stored."""
        ...


def open_source(path: Path) -> Source:
    """Open a folder, a zip or a tar, plain or gzip.

    Raises:
        DataError: there is nothing, it is none of these, it is damaged, or it is refused.
    """
    try:
        if path.is_dir():
            return FolderSource(path)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DataError(f"{path} is a {kind_of(mode)}, expected a folder or an archive.")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. Name a folder or an archive with --source, "
            "or leave --source out to download CIFAR-10."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if head.startswith(b"PK"):
        return ZipSource(path)
    if head.startswith(b"\x1f\x8b"):
        return TarSource(path, compressed=True)
    if _is_tar(head):
        return TarSource(path, compressed=False)
    raise DataError(f"{path} is no archive: {_describe(head)}. Expected a folder, a .zip or a .tar[.gz].")


class FolderSource:
    """A folder; links in it are followed, for they are the user's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = list_members(path, self._walk(path, ""))

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir():
                    if name.count("/") < _MAX_DEPTH:
                        yield from self._walk(folder / entry.name, name + "/")
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    raise DataError(
                        f"{folder / spoken(entry.name)} cannot be read: {error.strerror}."
                    ) from error
                if not stat.S_ISREG(status.st_mode):
                    kind = kind_of(status.st_mode)
                    raise DataError(f"{folder / spoken(entry.name)} is a {kind}, expected a file.")
                yield name, status.st_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content."""
        for name in names:
            try:
                with open(self.path / name, "rb") as file:
                    # One byte more than it had: a file that grows meanwhile is noticed, not followed.
                    yield name, file.read(self.members[name] + 1)
            except OSError as error:
                raise DataError(f"{self.path / spoken(name)} cannot be read: {error.strerror}.") from error


class ZipSource:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{path} cannot be read as a zip: {error}. {_zip_length(path)}") from error
        self.members = list_members(path, self._entries())
        self._infos = {normal(info.filename): info for info in self._zip.infolist()}

    def _entries(self) -> Iterator[tuple[str, int]]:
        for info in self._zip.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(self.path, info.filename, f"is a {kind_of(mode)}")
            if info.flag_bits & 1:
                raise refused(self.path, info.filename, "is encrypted")
            check_name(self.path, info.filename)
            if not info.is_dir():
                yield info.filename, info.file_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content."""
        for name in names:
            try:
                # zipfile reads no more than the listed size, and checks the CRC at its end.
                yield name, self._zip.read(self._infos[name])
            except _ZIP_DAMAGE as error:
                raise DataError(
                    f"{self.path}: its member {spoken(name)} is damaged: {error}. Fetch the archive again."
                ) from error


def _is_tar(head: bytes) -> bool:
    # By the checksum of the first header: the oldest tars bear no other sign.
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return head[257:262] == b"ustar"


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    if is_html(head):
        return "it is an HTML page"
    return f"it begins with {head[:8]!r}"


def is_html(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml"))


def _zip_length(path: Path) -> str:
    """What the local headers say of the length, for a zip whose directory at the end is gone."""
    actual = path.stat().st_size
    end = 0
    with open(path, "rb") as file:
        while len(header := file.read(30)) == 30 and header.startswith(b"PK\x03\x04"):
            size, _, name, extra = struct.unpack("<IIHH", header[18:30])
            end += 30 + name + extra + size
            file.seek(end)
    if end > actual:
        return f"It is truncated: expected at least {end:,} bytes, it has {actual:,}. Fetch it again."
    return f"Its {actual:,} bytes lack the directory at the end: it is truncated or no zip. Fetch it again."
