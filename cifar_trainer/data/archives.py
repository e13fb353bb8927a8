"""A folder, a zip or a tar as a list of members that are read in memory, told apart by content."""

import contextlib
import gzip
import lzma
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

from cifar_trainer.errors import DataError, printable

#: CIFAR-10 has 60,000 images; three times as many is still a data set of this shape.
MAX_MEMBERS = 200_000
#: The largest member of any accepted source is an official batch, 31 MB.
MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 1 << 30

#: What file managers leave behind; it says nothing about the data.
_DROPPINGS = re.compile(r"(^|/)(__MACOSX(/|$)|\.DS_Store$|\._[^/]*$|Thumbs\.db$|desktop\.ini$)")


def list_members(path: Path, entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The size of each member by its name, checked one by one as they come.

    Args:
        path: the source, for messages.
        entries: names as they are stored, and sizes in bytes.

    Raises:
        DataError: a name leads out or is doubled, or there is more than any data set of this shape has.
    """
    count: Counter[str] = Counter()
    members: dict[str, int] = {}
    total = 0
    for stored, size in entries:
        check_name(path, stored)
        name = normal(stored)
        if size > MAX_MEMBER_BYTES:
            raise refused(path, name, f"declares {size:,} bytes; expected at most {MAX_MEMBER_BYTES:,}")
        total += size
        count[name] += 1
        members[name] = size
        if total > MAX_TOTAL_BYTES or len(members) > MAX_MEMBERS:
            raise DataError(
                f"{path} is refused: it holds more than {MAX_TOTAL_BYTES:,} bytes or "
                f"{MAX_MEMBERS:,} members, "
                "far more than CIFAR-10 has."
            )
    doubled = [name for name, times in count.items() if times > 1]
    if doubled:
        raise DataError(f"{path} is refused: it holds more than once {some(doubled)}.")
    return {name: size for name, size in members.items() if not _DROPPINGS.search(name)}


def some(names: Collection[str], limit: int = 8) -> str:
    """A list of names for a message: the first few, and how many more."""
    shown = ", ".join(map(printable, sorted(names)[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def normal(name: str) -> str:
    """A member's name without the `./` that some archivers put before it."""
    return name[2:] if name.startswith("./") else name


def check_name(path: Path, name: str) -> None:
    """Raise DataError where a member's name leads out of the archive."""
    parts = re.split(r"[/\\]", name)
    if not name:
        raise refused(path, name, "has no name")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[/\\]", name):
        raise refused(path, name, "leads out of the archive")


def refused(path: Path, name: str, why: str) -> DataError:
    """The error for an archive that holds what an archive of pictures has no use for."""
    return DataError(
        f"{path} is refused: its member {printable(name)} {why}. "
        "An archive of pictures holds plain files and folders only."
    )


def kind_of(mode: int) -> str:
    """What a file's mode says it is, in a word."""
    kinds = {
        stat.S_IFLNK: "link",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFBLK: "device",
        stat.S_IFCHR: "device",
        stat.S_IFDIR: "folder",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


#: The size of the official archives, by the folder in them: to say how much of one is missing.
_OFFICIAL_BYTES = {"cifar-10-batches-py": 170_498_071, "cifar-10-batches-bin": 170_052_171}


class TarSource:
    """A tar file as a list of members.

    Attributes:
        path: the file.
        members: the size in bytes of each member, by its name.
    """

    def __init__(self, path: Path, *, compressed: bool) -> None:
        self.path = path
        self._compressed = compressed
        with self._opened() as infos:
            self.members = list_members(path, ((info.name, info.size) for _, info in infos if info.isreg()))

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content, in the order in which they are stored."""
        with self._opened() as infos:
            for tar, info in infos:
                if info.isreg() and normal(info.name) in names:
                    yield normal(info.name), cast(BinaryIO, tar.extractfile(info)).read()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
        with cast(BinaryIO, gzip.open(self.path) if self._compressed else open(self.path, "rb")) as file:
            stream = _Stream(file)
            try:
                yield self._walk(stream)
            except (EOFError, tarfile.TarError, zlib.error, OSError, ValueError) as error:
                raise DataError(self._damage(stream, error)) from error

    def _walk(self, stream: "_Stream") -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
            for info in tar:
                stream.member = info.name
                _check_member(self.path, info)
                yield tar, info
                # tarfile keeps every header that it has read; 60,000 of them are not needed.
                tar.members = []  # type: ignore[attr-defined]
        stream.read_end()

    def _damage(self, stream: "_Stream", error: Exception) -> str:
        actual = self.path.stat().st_size
        official = _OFFICIAL_BYTES.get(stream.member.split("/")[0])
        expected = (
            f"expected {official:,} bytes, it has {actual:,}" if official else f"it has {actual:,} bytes"
        )
        if official == actual:
            expected = "it has the expected size, but not the content"
        where = f"at or after member {stream.member}" if stream.member else "at its beginning"
        return f"{self.path} is truncated or damaged {where}: {error} ({expected}). Fetch it again."


class _Stream:
    """The file under tarfile: caps what it may ask for, and knows whether the end was an end.

    Attributes:
        member: the name of the member that was met last.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = b""
        self.member = ""

    def read(self, count: int) -> bytes:
        # Extended headers and long names declare their own size, and tarfile allocates it.
        if not 0 <= count <= MAX_MEMBER_BYTES:
            raise ValueError(f"a header declares {count:,} bytes, expected at most {MAX_MEMBER_BYTES:,}")
        self._last = self._file.read(count)
        return self._last

    def seek(self, position: int) -> int:
        if position - self._file.tell() > 2 * MAX_MEMBER_BYTES:
            raise ValueError(f"a header leads {position - self._file.tell():,} bytes ahead")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def read_end(self) -> None:
        """Read what follows the last member, so that gzip checks its CRC; raise unless it is an end."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise EOFError(
                f"the unpacked archive ends after {self.tell():,} bytes "
                "without the block of zeros that ends a tar"
            )
        if len(self._file.read(MAX_MEMBER_BYTES)) == MAX_MEMBER_BYTES:
            raise ValueError(f"more than {MAX_MEMBER_BYTES:,} bytes follow its end")


def _check_member(path: Path, info: tarfile.TarInfo) -> None:
    check_name(path, info.name)
    if info.issym() or info.islnk():
        raise refused(path, info.name, f"is a link to {info.linkname}")
    if not (info.isreg() or info.isdir()) or info.issparse():
        kind = "device" if info.ischr() or info.isblk() else "FIFO" if info.isfifo() else "special file"
        raise refused(path, info.name, f"is a {kind}")
    if info.size > MAX_MEMBER_BYTES:
        raise refused(path, info.name, f"declares {info.size:,} bytes; expected at most {MAX_MEMBER_BYTES:,}")


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
                        f"{folder / printable(entry.name)} cannot be read: {error.strerror}."
                    ) from error
                if not stat.S_ISREG(status.st_mode):
                    kind = kind_of(status.st_mode)
                    raise DataError(f"{folder / printable(entry.name)} is a {kind}, expected a file.")
                yield name, status.st_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content."""
        for name in names:
            try:
                with open(self.path / name, "rb") as file:
                    # One byte more than it had: a file that grows meanwhile is noticed, not followed.
                    yield name, file.read(self.members[name] + 1)
            except OSError as error:
                raise DataError(f"{self.path / printable(name)} cannot be read: {error.strerror}.") from error


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
                    f"{self.path}: its member {printable(name)} is damaged: {error}. Fetch the archive again."
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
