"""Unpack zip, tar, 7z and compressed files into a temporary folder.

All archives of a source, including nested ones, share one budget of bytes and files. Links, devices, absolute
names and names with `..` are refused.
"""

import bz2
import contextlib
import gzip
import lzma
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from cifar_trainer.data import disk, formats
from cifar_trainer.data.folder import MAX_FILES, Folder, Place, kind_of, list_folder
from cifar_trainer.errors import DataError, printable
from cifar_trainer.files import partial_folder
from cifar_trainer.images import is_leftover

#: Archives may unpack to MAX_BYTES, or to MAX_RATIO times their size if that is more.
MAX_BYTES, MAX_RATIO = 1 << 30, 20
#: Maximum size of a tar header, which tarfile reads into memory.
_MAX_HEADER = 8 << 20
#: Maximum padding after the end of a tar.
_MAX_PADDING = 64 << 20
#: Smaller files are stored in one file, because creating 60,000 files takes longer than reading them.
_SMALL = 1 << 20
_CHUNK = 1 << 20
#: Check the free disk space each time this many bytes have been written.
_ROOM = 64 << 20
#: An absolute path, also on Windows, or one with the part `..`.
_LEADS_OUT = re.compile(r"^(?:[A-Za-z]:)?[/\\]|(?:^|[/\\])\.\.(?:$|[/\\])")
#: Exceptions for damaged archives. Zstandard's, which is optional, is recognized by name.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError,
    ValueError, MemoryError,
)  # fmt: skip
_EXPECTED = (
    "Expected a folder, a .zip, a .tar[.gz|.bz2|.xz|.zst] or a .7z, or arrays in .npz, .npy, .mat, .parquet, "
    ".arrow or .tfrecord files."
)

#: The name in `Files` for the content of a compressed file that is not a tar.
_THE_FILE_ITSELF = ""
#: The place of each unpacked file by its name.
Files = dict[str, Place]


class Unpacker:
    """Opens sources, and unpacks archives into a folder that exists during the `with` block.

    Args:
        scratch: where to create that folder.
        known_sizes: the sizes of published archives by their top folder, to report how much is missing.
    """

    def __init__(self, scratch: Path, known_sizes: Mapping[str, int]) -> None:
        self._scratch = scratch
        self._known_sizes = known_sizes
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None
        self._bytes_left = self._files_left = 0
        self._room_left = self._small_bytes = 0
        #: Notes for the user about names in archives.
        self.notes: list[str] = []

    def __enter__(self) -> "Unpacker":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, path: Path) -> Folder:
        """Open a folder, an archive or a single file.

        Raises:
            DataError: it does not exist, is damaged or refused, or the disk is full.
        """
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                return list_folder(path)
            if not stat.S_ISREG(mode):
                raise DataError(f"{path} is a {kind_of(mode)}, expected a folder or an archive.")
            with open(path, "rb") as file:
                head = file.read(formats.HEAD_BYTES)
        except FileNotFoundError:
            raise DataError(
                f"{path} does not exist. Pass a folder or an archive with --source, "
                "or leave --source out to download CIFAR-10."
            ) from None
        kind = formats.format_of(head)
        if kind in ("", "html", "image"):
            raise DataError(f"{path} is not an archive: {formats.describe(head)}. {_EXPECTED}")
        folder = Folder(path.parent, {path.name: str(path)})
        return self.unpack(folder, [path.name]) if kind in formats.ARCHIVES else folder

    def unpack(self, folder: Folder, names: Collection[str]) -> Folder:
        """The files of a folder, with the archives `names` replaced by their content."""
        paths = {name: folder.local(name) for name in names}
        scratch = self._begin(sum(path.stat().st_size for path in paths.values()))
        files: Files = {name: place for name, place in folder.files.items() if name not in names}
        for name, path in paths.items():
            unpacked = self._unpack(path, folder.path / name)
            parent, slash, file = name.rpartition("/")
            top = f"{file.split('.')[0]}/"
            own_folder = len(paths) > 1 and not all(inner.startswith(top) for inner in unpacked)
            for inner, place in unpacked.items():
                if inner == _THE_FILE_ITSELF:
                    inner = file.rpartition(".")[0] or file
                elif own_folder:
                    inner = top + inner
                files.setdefault(f"{parent}{slash}{inner}", place)
            if path.is_relative_to(scratch):
                path.unlink()
        self._small.flush()
        title = folder.path / next(iter(paths)) if len(folder.files) == 1 else folder.path
        return Folder(title, files, (self._small.fileno(), scratch))

    def _begin(self, archive_bytes: int) -> Path:
        """The temporary folder; the first call creates it and sets the budget."""
        if self._folder is None:
            self._bytes_left, self._files_left = max(MAX_BYTES, MAX_RATIO * archive_bytes), MAX_FILES
            with self._writing():
                self._folder = self._stack.enter_context(partial_folder(self._scratch, "unpacked"))
                small = open(self._folder / "small", "w+b", buffering=_CHUNK)  # noqa: SIM115
                self._small = self._stack.enter_context(small)
        return self._folder

    def _unpack(self, path: Path, title: Path) -> Files:
        with open(path, "rb") as file:
            head = file.read(formats.HEAD_BYTES)
        match formats.format_of(head):
            case "zip":
                return self._unpack_zip(path, title)
            case "7z":
                return self._unpack_7z(path, title)
            case kind:
                return self._unpack_stream(path, title, kind)

    # Shared by all formats

    def _check(self, title: Path, files: Files, stored: str, size: int) -> str:
        """The name of a file in an archive; raises DataError for a duplicate, or beyond the budget."""
        name = stored.removeprefix("./")
        if name in files:
            raise DataError(f"{title} is refused: it contains {printable(name)} more than once.")
        self._files_left -= 1
        if size > self._bytes_left or self._files_left < 0:
            most = f"at most {self._bytes_left:,}, and {MAX_FILES:,} files in all"
            raise _refused(title, stored, f"declares {size:,} bytes; expected {most}")
        return name

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if size > self._room_left:
            disk.check_room(self._scratch, size + _ROOM)
            self._room_left = size + _ROOM
        self._room_left -= size

    def _keep(self, content: bytes) -> Place:
        """Store a small file."""
        self._spend(len(content))
        with self._writing():
            self._small.write(content)
        self._small_bytes += len(content)
        return self._small_bytes - len(content), len(content)

    def _copy(self, title: Path, source: BinaryIO) -> Place:
        """Store a file of any size."""
        first = source.read(_SMALL)
        if len(first) < _SMALL:
            return self._keep(first)
        with self._writing():
            descriptor, path = tempfile.mkstemp(dir=self._folder)
        with open(descriptor, "wb") as target:
            chunk = first
            while chunk:
                if len(chunk) > self._bytes_left:
                    raise DataError(f"{title} is refused: it unpacks to more than {MAX_BYTES:,} bytes.")
                self._spend(len(chunk))
                with self._writing():
                    target.write(chunk)
                chunk = source.read(_CHUNK)
        return path

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk.write_error(self._scratch / "unpacked", _ROOM, error) from error

    # A zip

    def _unpack_zip(self, path: Path, title: Path) -> Files:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(f"{title} cannot be read as a zip: {error}. {_zip_length(path)}") from error
        files: Files = {}
        with archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(title, info.filename, f"is a {kind_of(mode)}")
                if info.flag_bits & 1:
                    raise _refused(title, info.filename, "is encrypted")
                stored = self._zip_name(title, info)
                _check_name(title, stored)
                # Some Windows programs write \ instead of /.
                name = self._check(title, files, stored.replace("\\", "/"), info.file_size)
                if info.is_dir() or name.endswith("/") or is_leftover(name):
                    continue
                try:
                    # zipfile reads at most the declared size, and checks the CRC at the end.
                    if info.file_size < _SMALL:
                        files[name] = self._keep(archive.read(info))
                    else:
                        with archive.open(info) as file:
                            files[name] = self._copy(title, cast(BinaryIO, file))
                except DataError:
                    raise
                except _DAMAGE as error:
                    raise DataError(
                        f"{title}: its member {printable(name)} is damaged: {error}. Fetch the archive again."
                    ) from error
        return files

    def _zip_name(self, title: Path, info: zipfile.ZipInfo) -> str:
        """A file's name. Without the flag for UTF-8, its encoding is unknown."""
        if info.filename.isascii() or info.flag_bits & 0x800:
            return info.filename
        try:
            return info.orig_filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            note = f"{title} does not declare the encoding of its names, so class names may be unreadable."
            if note not in self.notes:
                self.notes.append(note)
            return info.filename

    # A 7z

    def _unpack_7z(self, path: Path, title: Path) -> Files:
        try:
            import py7zr
        except ImportError:
            raise DataError(
                f"{title} is a 7z archive, which needs the package py7zr. Install it with: "
                f"pip install py7zr; or unpack {title.name} and pass the folder."
            ) from None
        files: Files = {}
        with self._writing():
            target = Path(tempfile.mkdtemp(dir=self._folder))
        total = 0
        try:
            with py7zr.SevenZipFile(path) as archive:
                if archive.needs_password():
                    raise DataError(f"{title} is encrypted. Unpack it, and pass the folder.")
                for info in archive.list():
                    if info.is_symlink or not (info.is_file or info.is_directory):
                        raise _refused(title, info.filename, "is a link or a special file")
                    _check_name(title, info.filename)
                    name = self._check(title, files, info.filename, info.uncompressed)
                    if not info.is_directory:
                        self._spend(info.uncompressed)
                        total += info.uncompressed
                        files[name] = str(target / name)
                archive.extractall(target)
        except DataError:
            raise
        except Exception as error:  # py7zr raises all kinds of exceptions for damaged files.
            raise DataError(
                f"{title} is truncated or damaged: {str(error) or type(error).__name__} "
                f"(it has {path.stat().st_size:,} bytes). Fetch it again."
            ) from error
        size = sum(path.stat().st_size for path in map(Path, map(str, files.values())) if path.is_file())
        if size != total:
            raise DataError(
                f"{title} is damaged: it unpacks to {size:,} bytes, expected {total:,}. Fetch it again."
            )
        return {name: place for name, place in files.items() if not is_leftover(name)}

    # A tar, or a single compressed file

    def _unpack_stream(self, path: Path, title: Path, kind: str) -> Files:
        member, files = "", Files()
        try:
            with _decompressed(path, title, kind) as file:
                is_tar = formats.is_tar(file.read(tarfile.BLOCKSIZE))
            with _decompressed(path, title, kind) as file:
                if not is_tar:
                    return {_THE_FILE_ITSELF: self._copy(title, file)}
                stream = _TarStream(file)
                with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
                    for info in tar:
                        member = info.name
                        _check_tar_member(title, info)
                        name = self._check(title, files, member, info.size)
                        if info.isreg() and not is_leftover(name):
                            files[name] = self._copy(title, cast(BinaryIO, tar.extractfile(info)))
                        # tarfile keeps every header, but 60,000 of them are not needed.
                        tar.members = []  # type: ignore[attr-defined]
                stream.read_end()
        except DataError:
            raise
        except Exception as error:
            if not isinstance(error, _DAMAGE) and type(error).__name__ != "ZstdError":
                raise
            actual = path.stat().st_size
            known = self._known_sizes.get(member.split("/")[0])
            expected = (
                f"expected {known:,} bytes, but it has {actual:,}" if known else f"it has {actual:,} bytes"
            )
            where = f"at or after member {printable(member)}" if member else "at its beginning"
            raise DataError(
                f"{title} is truncated or damaged {where}: {error} ({expected}). Fetch it again."
            ) from error
        return files


class _TarStream:
    """The stream below tarfile. Limits reads and seeks, and detects a missing end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = b""
        self._position = 0

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MAX_HEADER:
            raise ValueError(f"a header declares {count:,} bytes, expected at most {_MAX_HEADER:,}")
        self._last = self._file.read(count)
        self._position += len(self._last)
        return self._last

    def seek(self, position: int) -> int:
        """Seek to `position`: tarfile skips padding and unread files."""
        ahead = position - self._position
        if not -_MAX_HEADER <= ahead <= 2 * MAX_BYTES:
            raise ValueError(f"a header points {ahead:,} bytes ahead")
        if ahead:
            self._file.seek(position)
            self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read_end(self) -> None:
        """Read to the end, so that gzip checks its CRC; raise an exception if the tar is cut off."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise EOFError(
                f"the unpacked archive ends after {self.tell():,} bytes "
                "without the block of zeros that ends a tar"
            )
        padding = 0
        while chunk := self._file.read(_CHUNK):
            padding += len(chunk)
            if padding > _MAX_PADDING:
                raise ValueError(f"more than {_MAX_PADDING:,} bytes follow its end")


def _decompressed(path: Path, title: Path, kind: str) -> BinaryIO:
    if kind != "zstandard":
        openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
        return cast(BinaryIO, openers.get(kind, open)(path, "rb"))
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{title} is compressed with Zstandard, which needs the package zstandard. "
            f"Install it with: pip install zstandard; or unpack {title.name} and pass the folder."
        ) from None
    # With a larger window, a file of a few bytes could allocate gigabytes.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    file = open(path, "rb")  # noqa: SIM115
    return cast(BinaryIO, decompressor.stream_reader(file, closefd=True, read_across_frames=True))


def _check_name(title: Path, name: str) -> None:
    if not name:
        raise _refused(title, name, "has no name")
    if _LEADS_OUT.search(name):
        raise _refused(title, name, "points outside the archive")


def _check_tar_member(title: Path, info: tarfile.TarInfo) -> None:
    # Stricter than tarfile.data_filter, which accepts links inside and makes absolute names relative.
    _check_name(title, info.name)
    if info.issym() or info.islnk():
        raise _refused(title, info.name, f"is a link to {printable(info.linkname)}")
    if not (info.isreg() or info.isdir()) or info.issparse():
        kind = "FIFO" if info.isfifo() else "device" if info.isdev() else "special file"
        raise _refused(title, info.name, f"is a {kind}")


def _refused(title: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{title} is refused: its member {printable(name)} {why}. Expected only plain files and folders."
    )


def _zip_length(path: Path) -> str:
    """Explain how a zip without its directory is truncated, from its local headers."""
    actual = path.stat().st_size
    end = 0
    with open(path, "rb") as file:
        while len(header := file.read(30)) == 30 and header.startswith(b"PK\x03\x04"):
            size, _, name, extra = struct.unpack("<IIHH", header[18:30])
            end += 30 + name + extra + size
            file.seek(end)
    if end > actual:
        return f"It is truncated: expected at least {end:,} bytes, but it has {actual:,}. Fetch it again."
    return (
        f"Its {actual:,} bytes lack the directory at the end: it is truncated or not a zip. Fetch it again."
    )
