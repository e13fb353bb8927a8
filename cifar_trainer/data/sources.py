"""Where data are read from: named members with their sizes, whether they lie in a folder or in an archive."""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from cifar_trainer.errors import DataError, printable
from cifar_trainer.images import is_leftover

#: Far more than any data set that is trained on here.
MAX_MEMBERS = 1_000_000
#: The largest member that is read into memory; the official batches have 31 MB.
MAX_MEMBER_BYTES = 64 << 20
#: An archive may always unpack to so much, beyond that to so many times its own size.
MAX_TOTAL_BYTES, MAX_RATIO = 1 << 30, 20
#: Members that are not read into memory but copied to the disk: arrays, tables, archives in the archive.
LARGE_SUFFIXES = (
    ".npy", ".npz", ".mat", ".parquet", ".arrow", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz",
    ".zst", ".zip", ".7z",
)  # fmt: skip
#: A folder is followed so deep, which suffices for the caches of Hugging Face and TensorFlow Datasets.
_MAX_DEPTH = 8
#: An absolute path, also of Windows, or one with `..` among its parts.
_LEADS_OUT = re.compile(r"^(?:[A-Za-z]:)?[/\\]|(?:^|[/\\])\.\.(?:$|[/\\])")


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

    def on_disk(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The member as a file, which may be a copy that lasts as long as the context."""
        ...

    def describe(self, name: str) -> str:
        """The member's name for messages: the source, and where it lies in it."""
        ...


class FolderSource:
    """A folder, or some files of one; links in it are followed, for they are the user's own."""

    def __init__(self, path: Path, names: Collection[str] | None = None) -> None:
        self.path = path
        found = self._walk(path, "") if names is None else self._sizes(names)
        self.members = list_members(path, found, None)

    def _sizes(self, names: Collection[str]) -> Iterator[tuple[str, int]]:
        for name in names:
            yield name, (self.path / name).stat().st_size

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{printable(str(folder))} cannot be read: {error.strerror}.") from error
        for entry in entries:
            name = prefix + entry.name
            if is_leftover(name):
                continue
            if entry.is_dir():
                if entry.is_symlink() and folder.resolve().is_relative_to((folder / entry.name).resolve()):
                    raise DataError(
                        f"{folder / printable(entry.name)} is a link to a folder that it lies in."
                    )
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
            check_size(self.path, name, self.members[name])
            try:
                with open(self.path / name, "rb") as file:
                    # One byte more than it had: a file that grows meanwhile is noticed, not followed.
                    yield name, file.read(self.members[name] + 1)
            except OSError as error:
                raise DataError(f"{self.path / printable(name)} cannot be read: {error.strerror}.") from error

    @contextlib.contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """The member's own file."""
        yield self.path / name

    def describe(self, name: str) -> str:
        return printable(str(self.path / name))


class JoinedSource:
    """Several sources as one; of two members of one name, the first source's counts."""

    def __init__(self, path: Path, parts: Sequence[Source]) -> None:
        self.path = path
        self._parts = parts
        self._owners = {name: part for part in reversed(parts) for name in part.members}
        self.members = {name: owner.members[name] for name, owner in self._owners.items()}

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content, source by source."""
        for part in self._parts:
            yield from part.read([name for name in names if self._owners[name] is part])

    def on_disk(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The member as a file."""
        return self._owners[name].on_disk(name)

    def describe(self, name: str) -> str:
        return self._owners[name].describe(name)


class RenamedSource:
    """Some members of another source, under other names."""

    def __init__(self, source: Source, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = names
        self.path = source.path
        self.members = {name: source.members[stored] for name, stored in names.items()}

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each of `names` with its content, in the order in which they are stored."""
        wanted = {self._names[name]: name for name in names}
        for stored, content in self._source.read(wanted):
            yield wanted[stored], content

    def on_disk(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The member as a file."""
        return self._source.on_disk(self._names[name])

    def describe(self, name: str) -> str:
        return self._source.describe(self._names[name])


def list_members(path: Path, entries: Iterable[tuple[str, int]], max_total: int | None) -> dict[str, int]:
    """The size of each member by its name, checked one by one as they come; leftovers are left out.

    Args:
        path: the source, for messages.
        entries: names as they are stored, and sizes in bytes.
        max_total: bytes that all of them may have together; None is no limit, and none for a single one.

    Raises:
        DataError: a name leads out or is doubled, or there is more than any data set has.
    """
    count: Counter[str] = Counter()
    members: dict[str, int] = {}
    total = 0
    for stored, size in entries:
        if max_total is not None:
            check_name(path, stored)
            check_size(path, stored, size)
        name = normal(stored)
        total += size
        count[name] += 1
        members[name] = size
        if (max_total is not None and total > max_total) or len(members) > MAX_MEMBERS:
            limit = f"{max_total:,} bytes or " if max_total is not None else ""
            raise DataError(
                f"{path} is refused: it holds more than {limit}{MAX_MEMBERS:,} members, "
                "far more than a data set of images has."
            )
    doubled = [name for name, times in count.items() if times > 1]
    if doubled:
        raise DataError(f"{path} is refused: it holds more than once {abridged(doubled)}.")
    return {name: size for name, size in members.items() if not is_leftover(name)}


def total_limit(path: Path) -> int:
    """Bytes that the archive `path` may unpack to."""
    return max(MAX_TOTAL_BYTES, MAX_RATIO * path.stat().st_size)


def abridged(names: Iterable[str], limit: int = 8) -> str:
    """A list of names for a message: the first few, and how many more."""
    every = sorted(names)
    first = ", ".join(map(printable, every[:limit]))
    return first if len(every) <= limit else f"{first} and {len(every) - limit:,} more"


def normal(name: str) -> str:
    """A member's name without the `./` that some archivers put before it."""
    return name[2:] if name.startswith("./") else name


def check_name(path: Path, name: str) -> None:
    """Raise DataError where a member's name leads out of the archive."""
    if not name:
        raise refused(path, name, "has no name")
    if _LEADS_OUT.search(name):
        raise refused(path, name, "leads out of the archive")


def check_size(path: Path, name: str, size: int) -> None:
    """Raise DataError where a member is larger than what is read or copied."""
    limit = MAX_TOTAL_BYTES if name.lower().endswith(LARGE_SUFFIXES) else MAX_MEMBER_BYTES
    if size > limit:
        raise refused(path, name, f"declares {size:,} bytes; expected at most {limit:,}")


def refused(path: Path, name: str, why: str) -> DataError:
    """The error for an archive that holds what an archive of images has no use for."""
    return DataError(
        f"{path} is refused: its member {printable(name)} {why}. "
        "An archive of images holds plain files and folders only."
    )


@contextlib.contextmanager
def copied(file: BinaryIO, name: str) -> Iterator[Path]:
    """A temporary copy of what `file` holds; it has the suffix of `name`."""
    with tempfile.TemporaryDirectory(prefix="cifar-trainer-") as folder:
        target = Path(folder, f"member{''.join(Path(name).suffixes[-2:])}")
        with open(target, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        yield target


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
