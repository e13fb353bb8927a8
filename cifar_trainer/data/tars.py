"""A tar, plain or gzip, read from front to end; whether it is whole is checked, which tarfile leaves open."""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from cifar_trainer.data.members import MAX_MEMBER_BYTES, check_name, list_members, normal, refused
from cifar_trainer.errors import DataError

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
