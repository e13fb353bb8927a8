"""A folder, a zip or a tar as a list of members, read in memory: nothing is ever extracted.

What could harm is refused from the listing alone, before a member is read: names
that lead out of the archive, links, devices, doubled names, sizes beyond any
data set of this shape.
"""

import gzip
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from cifar_trainer.errors import DataError

#: CIFAR-10 has 60,000 images; three times as many is still a data set of this shape.
MAX_MEMBERS = 200_000
#: The largest member of any accepted source is an official batch, 31 MB.
MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 1 << 30
#: A folder is followed so deep: top/train/class/picture, and one more to notice what is too deep.
_MAX_DEPTH = 5
#: What file managers leave behind; it says nothing about the data.
_DROPPINGS = re.compile(r"(^|/)(__MACOSX(/|$)|\.DS_Store$|\._[^/]*$|Thumbs\.db$|desktop\.ini$)")


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
    """Open a folder, a zip or a tar (plain or gzip), told apart by content.

    Raises:
        DataError: there is nothing, it is none of these, it is damaged, or it is refused.
    """
    try:
        if path.is_dir():
            return FolderSource(path)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DataError(f"{path} is a {_kind(mode)}, expected a folder or an archive.")
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
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return TarSource(path, compressed=head.startswith(b"\x1f\x8b"))
    raise DataError(f"{path} is no archive: {_describe(head)}. Expected a folder, a .zip or a .tar[.gz].")


class FolderSource:
    """A folder; links in it are followed, for they are the user's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = _listed(path, self._walk(path, ""))

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
                    raise DataError(f"{folder / entry.name} cannot be read: {error.strerror}.") from error
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{folder / entry.name} is a {_kind(status.st_mode)}, expected a file.")
                yield name, status.st_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                with open(self.path / name, "rb") as file:
                    yield name, file.read(self.members[name] + 1)
            except OSError as error:
                raise DataError(f"{self.path / name} cannot be read: {error.strerror}.") from error


class ZipSource:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a zip: {error}. {_zip_length(path)}") from error
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self.members = _listed(path, self._entries())

    def _entries(self) -> Iterator[tuple[str, int]]:
        for info in self._zip.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(self.path, info.filename, f"is a {_kind(mode)}")
            if info.flag_bits & 1:
                raise _refused(self.path, info.filename, "is encrypted")
            _check_name(self.path, info.filename)
            if not info.is_dir():
                yield info.filename, info.file_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                # zipfile reads no more than the listed size, and checks the CRC at its end.
                yield name, self._zip.read(self._infos[name])
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
                raise DataError(
                    f"{self.path}: member {name!r} is damaged: {error}. Fetch the archive again."
                ) from error


class TarSource:
    """A tar, plain or gzip, read from front to end."""

    def __init__(self, path: Path, *, compressed: bool) -> None:
        self.path = path
        self._compressed = compressed
        self.members = _listed(path, ((info.name, info.size) for _, info in self._walk() if info.isreg()))

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        for tar, info in self._walk():
            name = _normal(info.name)
            if info.isreg() and name in wanted:
                file = cast(BinaryIO, tar.extractfile(info))
                yield name, file.read()

    def _walk(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        opened = gzip.open(self.path, "rb") if self._compressed else open(self.path, "rb")
        with cast(BinaryIO, opened) as file:
            stream = _Stream(file)
            member = "the first header"
            try:
                with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                    for info in tar:
                        member = repr(info.name)
                        _check_tar_member(self.path, info)
                        yield tar, info
                stream.expect_end()
            except (EOFError, tarfile.ReadError) as error:
                raise DataError(
                    self._broken(f"ends or breaks off at {member}", stream.tell(), error)
                ) from error
            except (tarfile.TarError, zlib.error, OSError, ValueError) as error:
                raise DataError(self._broken(f"is damaged near {member}", stream.tell(), error)) from error

    def _broken(self, what: str, unpacked: int, error: Exception) -> str:
        top = next(iter(getattr(self, "members", {})), "")
        del top
        return (
            f"{self.path} {what}: {error}. It has {self.path.stat().st_size:,} bytes "
            f"({unpacked:,} unpacked until there). Fetch the archive again."
        )


class _Stream:
    """A file that tarfile reads, with a cap on what it may ask for and a memory of its last block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = b""

    def read(self, count: int = -1) -> bytes:
        # Headers of headers (pax, long names) declare their own size: tarfile would allocate it.
        if not 0 <= count <= MAX_MEMBER_BYTES:
            raise DataError(f"A header asks for {count:,} bytes, the limit is {MAX_MEMBER_BYTES:,}: refused.")
        content = self._file.read(count)
        self._last = content
        return content

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def expect_end(self) -> None:
        """Raise where no block of zeros ended the archive; read on, so that gzip checks its CRC."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"expected the {tarfile.BLOCKSIZE} zero bytes that end a tar")
        if len(self._file.read(MAX_MEMBER_BYTES)) == MAX_MEMBER_BYTES:
            raise ValueError(f"more than {MAX_MEMBER_BYTES:,} bytes follow its end")


def _listed(path: Path, entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The members by name, without what file managers leave; checked one by one as they come."""
    count: Counter[str] = Counter()
    members: dict[str, int] = {}
    total = 0
    for raw, size in entries:
        name = _normal(raw)
        if size > MAX_MEMBER_BYTES:
            raise _refused(path, name, f"declares {size:,} bytes; expected at most {MAX_MEMBER_BYTES:,}")
        total += size
        count[name] += 1
        members[name] = size
        if total > MAX_TOTAL_BYTES or len(members) > MAX_MEMBERS:
            raise DataError(
                f"{path} is refused: it holds more than {MAX_TOTAL_BYTES:,} bytes or {MAX_MEMBERS:,} members, "
                "far more than a data set of this shape."
            )
    doubled = [name for name, times in count.items() if times > 1]
    if doubled:
        raise DataError(f"{path} is refused: it holds more than once {some(doubled)}.")
    return {name: size for name, size in members.items() if not _DROPPINGS.search(name)}


def some(names: Collection[str], limit: int = 8) -> str:
    """A list of names for a message: the first few, and how many more."""
    shown = ", ".join(repr(name) for name in sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def _normal(name: str) -> str:
    return name[2:] if name.startswith("./") else name


def _check_name(path: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[/\\]", name):
        raise _refused(path, name, "leads out of the archive")


def _check_tar_member(path: Path, info: tarfile.TarInfo) -> None:
    _check_name(path, info.name)
    if info.issym() or info.islnk():
        raise _refused(path, info.name, f"is a link to {info.linkname!r}")
    if not (info.isreg() or info.isdir()) or info.issparse():
        kind = "device" if info.ischr() or info.isblk() else "FIFO" if info.isfifo() else "special file"
        raise _refused(path, info.name, f"is a {kind}")
    if info.size > MAX_MEMBER_BYTES:
        raise _refused(
            path, info.name, f"declares {info.size:,} bytes; expected at most {MAX_MEMBER_BYTES:,}"
        )


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{path} is refused: member {name!r} {why}. An archive of pictures holds plain files and folders only."
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "link",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFBLK: "device",
        stat.S_IFCHR: "device",
        stat.S_IFDIR: "folder",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


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
