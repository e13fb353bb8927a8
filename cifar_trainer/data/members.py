"""The list of a source's members: what is refused from the listing alone, before one is read.

Nothing is ever extracted. What could harm is refused all the same, for an archive of
pictures has no use for it: names that lead out of the archive, links, devices, doubled
names, sizes beyond any data set of this shape.
"""

import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from cifar_trainer.errors import DataError, spoken

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
    shown = ", ".join(map(spoken, sorted(names)[:limit]))
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
        f"{path} is refused: its member {spoken(name)} {why}. "
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
