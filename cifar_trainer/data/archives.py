"""A zip, a tar of any compression or a 7z as a source that is read in memory; all told apart by content."""

import bz2
import contextlib
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from cifar_trainer.data.sources import (
    LARGE_SUFFIXES,
    MAX_MEMBER_BYTES,
    MAX_TOTAL_BYTES,
    FolderSource,
    Source,
    check_name,
    check_size,
    copied,
    kind_of,
    list_members,
    normal,
    refused,
    total_limit,
)
from cifar_trainer.errors import DataError, printable

#: What reading a damaged archive raises.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError,
    ValueError, MemoryError,
)  # fmt: skip
#: Files that are no archives and are read as they are, by how they begin.
_TABLES = (b"PAR1", b"ARROW1", b"MATLAB 5.0", b"\x93NUMPY", b"\x89HDF")
_EXPECTED = (
    "Expected a folder, a .zip, a .tar[.gz|.bz2|.xz|.zst] or a .7z, or arrays in .npz, .npy, .mat, .parquet, "
    ".arrow or .tfrecord files."
)


def open_source(path: Path, known_sizes: Mapping[str, int] | None = None) -> Source:
    """Open a folder, an archive, or a single file that holds arrays.

    Args:
        path: the folder or file.
        known_sizes: how many bytes archives have whose first member lies in the folder so named, to say how
            much of one is missing.

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
    if head.startswith(b"7z\xbc\xaf\x27\x1c"):
        return SevenZipSource(path)
    if head.startswith(_TABLES) or ".tfrecord" in path.name or path.suffix == ".csv":
        return FolderSource(path.parent, [path.name])
    opener = _decompressor(path, head)
    if opener is not None or _is_tar(head):
        return TarSource(path, opener or (lambda: open(path, "rb")), known_sizes or {})
    raise DataError(f"{path} is no archive: {_describe(head)}. {_EXPECTED}")


def _decompressor(path: Path, head: bytes) -> Callable[[], Any] | None:
    """What opens a compressed file, by how it begins."""
    if head.startswith(b"\x1f\x8b"):
        return lambda: gzip.open(path)
    if head.startswith(b"BZh"):
        return lambda: bz2.open(path)
    if head.startswith(b"\xfd7zXZ\0"):
        return lambda: lzma.open(path)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return lambda: _open_zstandard(path)
    return None


def _open_zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{path} is compressed with Zstandard, for which the package zstandard is missing. "
            f"Install it with: pip install zstandard; or unpack {path.name} and name the folder."
        ) from None
    # A larger window would have megabytes allocated by a file of a few bytes.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return decompressor.stream_reader(open(path, "rb"), closefd=True, read_across_frames=True)


class TarSource:
    """A tar file, compressed or not."""

    def __init__(self, path: Path, opener: Callable[[], Any], known_sizes: Mapping[str, int]) -> None:
        self.path = path
        self._opener = opener
        self._known_sizes = known_sizes
        with self._opened() as infos:
            entries = ((info.name, info.size) for _, info in infos if info.isreg())
            self.members = list_members(path, entries, total_limit(path))

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content, in the order in which they are stored."""
        with self._opened() as infos:
            for tar, info in infos:
                if info.isreg() and normal(info.name) in names:
                    yield normal(info.name), cast(BinaryIO, tar.extractfile(info)).read()

    @contextlib.contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """A copy of the member."""
        with contextlib.ExitStack() as stack:
            with self._opened() as infos:
                for tar, info in infos:
                    if info.isreg() and normal(info.name) == name:
                        copy = stack.enter_context(copied(cast(BinaryIO, tar.extractfile(info)), name))
            yield copy

    def describe(self, name: str) -> str:
        return f"{self.path}: {printable(name)}"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
        with self._opener() as file:
            stream = _Stream(file)
            try:
                yield self._walk(stream)
            except DataError:
                raise
            except Exception as error:
                # By its name, as the package is optional.
                if isinstance(error, _DAMAGE) or type(error).__name__ == "ZstdError":
                    raise DataError(self._damage(stream, error)) from error
                raise

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
        known = self._known_sizes.get(stream.member.split("/")[0])
        expected = f"expected {known:,} bytes, it has {actual:,}" if known else f"it has {actual:,} bytes"
        if known == actual:
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
        ahead = position - self._file.tell()
        if ahead > self._limit_ahead():
            raise ValueError(f"a header leads {ahead:,} bytes ahead")
        return self._file.seek(position)

    def _limit_ahead(self) -> int:
        # The size of a member that is to be copied to the disk has been checked.
        large = self.member.lower().endswith(LARGE_SUFFIXES)
        return 2 * (MAX_TOTAL_BYTES if large else MAX_MEMBER_BYTES)

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
    # tarfile.data_filter takes a link that stays inside, and makes absolute names relative: both are refused.
    check_name(path, info.name)
    if info.issym() or info.islnk():
        raise refused(path, info.name, f"is a link to {info.linkname}")
    if not (info.isreg() or info.isdir()) or info.issparse():
        kind = "device" if info.ischr() or info.isblk() else "FIFO" if info.isfifo() else "special file"
        raise refused(path, info.name, f"is a {kind}")
    check_size(path, info.name, info.size)


class ZipSource:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{path} cannot be read as a zip: {error}. {_zip_length(path)}") from error
        self.members = list_members(path, self._entries(), total_limit(path))
        self._infos = {_zip_name(info): info for info in self._zip.infolist()}

    def _entries(self) -> Iterator[tuple[str, int]]:
        for info in self._zip.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(self.path, info.filename, f"is a {kind_of(mode)}")
            if info.flag_bits & 1:
                raise refused(self.path, info.filename, "is encrypted")
            check_name(self.path, info.filename)
            if not (info.is_dir() or info.filename.endswith("\\")):
                yield _zip_name(info), info.file_size

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content."""
        for name in names:
            try:
                # zipfile reads no more than the listed size, and checks the CRC at its end.
                content = self._zip.read(self._infos[name])
            except _DAMAGE as error:
                raise self._damage(name, error) from error
            yield name, content

    @contextlib.contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """A copy of the member."""
        with contextlib.ExitStack() as stack:
            try:
                with self._zip.open(self._infos[name]) as file:
                    copy = stack.enter_context(copied(cast(BinaryIO, file), name))
            except _DAMAGE as error:
                raise self._damage(name, error) from error
            yield copy

    def describe(self, name: str) -> str:
        return f"{self.path}: {printable(name)}"

    def _damage(self, name: str, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: its member {printable(name)} is damaged: {error}. Fetch the archive again."
        )


def _zip_name(info: zipfile.ZipInfo) -> str:
    # Windows programs have written \ where the format asks for /.
    return normal(info.filename.replace("\\", "/"))


class SevenZipSource:
    """A 7z file, read by py7zr."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import py7zr
        except ImportError:
            raise DataError(
                f"{path} is a 7z archive, for which the package py7zr is missing. Install it with: "
                f"pip install py7zr; or unpack {path.name} and name the folder."
            ) from None
        self._py7zr = py7zr
        with self._opened() as archive:
            self.members = list_members(path, self._entries(archive), total_limit(path))

    def _entries(self, archive: Any) -> Iterator[tuple[str, int]]:
        if archive.needs_password():
            raise DataError(f"{self.path} is encrypted. Unpack it, and name the folder.")
        for info in archive.list():
            if info.is_symlink:
                raise refused(self.path, info.filename, "is a link")
            if not (info.is_file or info.is_directory):
                raise refused(self.path, info.filename, "is a special file")
            if not info.is_directory:
                yield info.filename, info.uncompressed

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self._py7zr.SevenZipFile(self.path) as archive:
                yield archive
        except DataError:
            raise
        except Exception as error:  # py7zr raises all sorts at damaged files.
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self.path} is truncated or damaged: {reason} (it has {self.path.stat().st_size:,} bytes). "
                "Fetch it again."
            ) from error

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content; all of them are unpacked at once, since 7z has no other way."""
        buffers = self._unpacked(names)
        for name in names:
            yield name, buffers.pop(name).getvalue()

    @contextlib.contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """A copy of the member."""
        with copied(self._unpacked([name])[name], name) as copy:
            yield copy

    def describe(self, name: str) -> str:
        return f"{self.path}: {printable(name)}"

    def _unpacked(self, names: Collection[str]) -> dict[str, io.BytesIO]:
        buffers: dict[str, io.BytesIO] = {}

        class Buffer(io.BytesIO):
            def size(self) -> int:
                return self.getbuffer().nbytes

            def close(self) -> None:
                """Kept until it has been read."""

        class Buffers:
            def create(self, filename: str) -> io.BytesIO:
                return buffers.setdefault(normal(filename), Buffer())

        limit = sum(self.members[name] for name in names)
        with self._opened() as archive:
            stored = [name for name in archive.getnames() if normal(name) in names]
            archive.extract(targets=stored, factory=Buffers())
        size = sum(buffer.getbuffer().nbytes for buffer in buffers.values())
        if size > limit or set(buffers) != set(names):
            raise DataError(
                f"{self.path} is damaged: it unpacks to {size:,} bytes, expected {limit:,}. Fetch it again."
            )
        return buffers


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
