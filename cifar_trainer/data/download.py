"""Downloads: resumable, checked against a size and a SHA-256, from one mirror after another."""

import dataclasses
import os
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

from cifar_trainer import files
from cifar_trainer.data import disk, transport
from cifar_trainer.data.dataset import Archive
from cifar_trainer.data.transport import MAX_BYTES, FetchError, Part, printable_url
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError


def _ignore(*_: object) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class PrepareReporter:
    """Where `prepare` reports; every callback may be left out.

    Attributes:
        note: something in passing, a sentence.
        warn: something that the user should know.
        on_download: bytes that are there, bytes in all (None where unknown), host.
        on_images: images read, images in all.
    """

    note: Callable[[str], None] = _ignore
    warn: Callable[[str], None] = _ignore
    on_download: Callable[[int, int | None, str], None] = _ignore
    on_images: Callable[[int, int], None] = _ignore


def is_url(source: str) -> bool:
    """Whether `source` is an address that can be downloaded, and not a path."""
    try:
        parts = urllib.parse.urlsplit(source)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def mirrors(archive: Archive, variable: str) -> tuple[str, ...]:
    """The addresses of `archive` to try, in order: those of the environment variable, or the known ones.

    Raises:
        UsageError: the variable holds what is no address.
    """
    given = [url.strip() for url in os.environ.get(variable, "").split(",") if url.strip()]
    wrong = [url for url in given if not is_url(url)]
    if wrong:
        raise UsageError(
            f"{variable} holds {wrong[0]!r}, which is no address. "
            "Expected http://HOST/PATH or https://HOST/PATH, separated by commas."
        )
    return tuple(given) or archive.mirrors


def ways_out(variable: str = "") -> str:
    """What to do where a data set cannot be downloaded."""
    others = f"or name other mirrors in {variable}; " if variable else ""
    return (
        "Prepare it from a copy that you have, or from another address: cifar-trainer prepare "
        "--source PATH|URL; "
        f"{others}or use drawn images instead: --dataset synthetic."
    )


#: An attempt that brought one part in so many was not in vain: the count of attempts begins again.
_PROGRESS = 100


def download(
    archive: Archive, urls: Sequence[str], folder: Path, reporter: PrepareReporter, variable: str = ""
) -> Path:
    """Fetch `archive` into `folder`, from the first of `urls` that gives the right bytes.

    A part that an earlier call has left is gone on with. The file gets its name only
    when it is whole and, where its SHA-256 is known, right.

    Args:
        archive: what to fetch.
        urls: where from, in the order in which to try.
        folder: it is made where it is missing.
        reporter: told of progress, and of mirrors that failed.
        variable: the environment variable that names other mirrors, for the message.

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
                least = transport.PATIENCE.crawl if number == len(urls) else transport.PATIENCE.slow
                _fetch_whole(url, part, archive, least, reporter)
                part.move(target)
                files.flush_folder(folder)
                return target
            except FetchError as error:
                failures.append(f"  {printable_url(url)}: {error}")
                if number < len(urls):
                    reporter.note(f"{printable_url(url)}: {error}. Trying the next mirror.")
    except OSError as error:
        raise disk.write_error(part.path, archive.size or part.size, error) from error
    raise DataNotFoundError(
        f"{archive.name} could not be downloaded:\n" + "\n".join(failures) + f"\n{ways_out(variable)}"
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


def _fetch_whole(url: str, part: Part, archive: Archive, least_speed: int, reporter: PrepareReporter) -> None:
    """Ask `url` until the part is whole and right, as long as that may help.

    Raises:
        FetchError: it did not help.
    """
    host = printable_url(url).split("/")[2]
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
            transport.fetch(
                url, part, archive, least_speed, lambda done, total: reporter.on_download(done, total, host)
            )
            if archive.sha256 is None:
                return
            if not _is_right(part, archive):
                # Wrong bytes may be those of an earlier mirror: then this one may give all of them.
                raise FetchError(_set_aside(part, archive), again=before > 0, wait=0)
        except FetchError as error:
            brought = part.size - before
            attempt = 1 if brought > (archive.size or MAX_BYTES) // _PROGRESS else attempt + 1
            if not error.again or attempt > transport.PATIENCE.attempts:
                raise
            pause = transport.PATIENCE.pause * 2 ** (attempt - 2) if error.wait is None else error.wait
            reporter.note(f"{host}: {error}. Asking again.")
            time.sleep(pause)


def _is_right(part: Part, archive: Archive) -> bool:
    """Whether the part is the whole archive; without a known SHA-256 there is no telling."""
    return archive.size == part.size and files.sha256_file(part.path) == archive.sha256


def _set_aside(part: Part, archive: Archive) -> str:
    """Give wrong bytes another name, so that the next attempt begins again; returns what is wrong."""
    actual = files.sha256_file(part.path)
    aside = part.path.with_name(f"{archive.name}.wrong")
    part.move(aside)
    return f"gave the SHA-256 {actual}, expected {archive.sha256} (set aside as {aside})"
