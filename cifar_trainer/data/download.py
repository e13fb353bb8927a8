"""Downloading an archive: one mirror after the other, until one gives the right bytes."""

import time
from collections.abc import Sequence
from pathlib import Path

from cifar_trainer import files
from cifar_trainer.data import disk
from cifar_trainer.data.mirrors import ENVIRONMENT_VARIABLE, Archive
from cifar_trainer.data.report import Reporter
from cifar_trainer.data.transfer import MAX_BYTES, FetchError, Part, Patience, fetch, shown
from cifar_trainer.errors import DataError, DataNotFoundError

PATIENCE = Patience()

#: An attempt that brought one part in so many was not in vain: the count of attempts begins again.
_PROGRESS = 100

WAYS_OUT = (
    "Prepare it from a copy that you have, or from another address: cifar-trainer prepare --source PATH|URL; "
    f"or name other mirrors in {ENVIRONMENT_VARIABLE}; or use drawn pictures instead: --dataset synthetic."
)


def download(archive: Archive, urls: Sequence[str], folder: Path, reporter: Reporter) -> Path:
    """Fetch `archive` into `folder`, from the first of `urls` that gives the right bytes.

    A part that an earlier call has left is gone on with. The file gets its name only
    when it is whole and, where its SHA-256 is known, right.

    Args:
        archive: what to fetch.
        urls: where from, in the order in which to try.
        folder: it is made where it is missing.
        reporter: told of progress, and of mirrors that failed.

    Returns:
        The file.

    Raises:
        DataNotFoundError: no address gave it; each is named with its reason.
        DataError: it could not be written.
    """
    target = folder / archive.name
    part = Part(folder / f"{archive.name}.part")
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, url in enumerate(urls, 1):
            try:
                least = PATIENCE.crawl if number == len(urls) else PATIENCE.slow
                _fetch_whole(url, part, archive, least, reporter)
                part.move(target)
                files.flush_folder(folder)
                return target
            except FetchError as error:
                failures.append(f"  {shown(url)}: {error}")
                if number < len(urls):
                    reporter.note(f"{shown(url)}: {error}. Trying the next mirror.")
    except OSError as error:
        raise disk.write_error(part.path, archive.size or part.size, error) from error
    raise DataNotFoundError(
        f"{archive.name} could not be downloaded:\n" + "\n".join(failures) + f"\n{WAYS_OUT}"
    )


def local_archive(archives: Sequence[Archive], folder: Path) -> Path | None:
    """The first of `archives` that lies whole in `folder`.

    Raises:
        DataError: one lies there under its name, but with other bytes.
    """
    for archive in archives:
        path = folder / archive.name
        if not path.exists():
            continue
        size, actual = path.stat().st_size, files.sha256_file(path)
        if actual != archive.sha256:
            raise DataError(
                f"{path} is not what its name says: it has {size:,} bytes and the SHA-256 {actual}, "
                f"expected {archive.size:,} bytes and {archive.sha256}. Remove it, and it is downloaded."
            )
        return path
    return None


def _fetch_whole(url: str, part: Part, archive: Archive, least_speed: int, reporter: Reporter) -> None:
    """Ask `url` until the part is whole and right, as long as that may help.

    Raises:
        FetchError: it did not help.
    """
    host = shown(url).split("/")[2]
    if not _is_right(part, archive):
        amount = f" ({archive.size:,} bytes)" if archive.size else ""
        going_on = f", going on after {part.size:,}" if part.size else ""
        reporter.note(f"Downloading {archive.name}{amount} from {host}{going_on}.")
    attempt = 1
    while not _is_right(part, archive):
        before = part.size
        if archive.size is not None and before >= archive.size:
            _set_aside(part, archive)
        try:
            fetch(
                url, part, archive, PATIENCE, least_speed,
                lambda done, total: reporter.on_download(done, total, host),
            )  # fmt: skip
            if archive.sha256 is None:
                return
            if not _is_right(part, archive):
                # Wrong bytes may be those of an earlier mirror: then this one may give all of them.
                raise FetchError(_set_aside(part, archive), again=before > 0, wait=0)
        except FetchError as error:
            brought = part.size - before
            attempt = 1 if brought > (archive.size or MAX_BYTES) // _PROGRESS else attempt + 1
            if not error.again or attempt > PATIENCE.attempts:
                raise
            pause = PATIENCE.pause * 2 ** (attempt - 2) if error.wait is None else error.wait
            reporter.note(f"{host}: {error}. Asking again.")
            time.sleep(pause)


def _is_right(part: Part, archive: Archive) -> bool:
    """Whether the part is the whole archive; without a known SHA-256 there is no telling."""
    return archive.size == part.size and files.sha256_file(part.path) == archive.sha256


def _set_aside(part: Part, archive: Archive) -> str:
    """Give wrong bytes another name, so that the next attempt begins anew; returns what is wrong."""
    actual = files.sha256_file(part.path)
    aside = part.path.with_name(f"{archive.name}.wrong")
    part.move(aside)
    return f"gave the SHA-256 {actual}, expected {archive.sha256} (set aside as {aside})"
