"""Preparing a dataset: from a source, a download or a seed to the folder that training reads."""

import contextlib
import dataclasses
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from cifar_trainer import files
from cifar_trainer.config import check_choice
from cifar_trainer.data import cifar10, class_folders, disk, store, synthetic
from cifar_trainer.data.archives import Source, open_source, some
from cifar_trainer.data.cifar10 import BINARY_VERSION, PYTHON_VERSION, Archive, is_url, mirrors
from cifar_trainer.data.dataset import RawDataset, SplitSummary, title_of
from cifar_trainer.data.download import WAYS_OUT, PrepareReporter, download, local_archive, shown
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError


@dataclasses.dataclass(frozen=True)
class PreparedReport:
    """What lies in a prepared folder.

    Attributes:
        dataset: its name, `cifar10` or `synthetic`.
        data_dir: the data folder as it was given; the files are in `folder`.
        folder: DATA_DIR/dataset.
        source: what it was made from.
        verified: both fingerprints are CIFAR-10's.
        title: what to call it.
        classes: the ten names, by label.
        already: it was there before, and nothing was done.
    """

    dataset: str
    data_dir: Path
    folder: Path
    source: str
    verified: bool
    title: str
    classes: tuple[str, ...]
    train: SplitSummary
    test: SplitSummary
    already: bool

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `prepare --json`."""
        return {
            "dataset": self.dataset,
            "data_dir": str(self.data_dir),
            "source": self.source,
            "verified": self.verified,
            "train": self.train.to_json(),
            "test": self.test.to_json(),
        }


def read_source(path: Path, on_images: Callable[[int, int], None]) -> RawDataset:
    """Read the official archives, their extracted folders, or class folders of pictures.

    Args:
        path: a folder, a zip or a tar, plain or gzip.
        on_images: told how many images are read, and of how many.

    Raises:
        DataError: it is none of these, or not what it should be.
    """
    source = open_source(path)
    if not source.members:
        raise DataError(f"{path} is empty. {_EXPECTED}")
    names = _without_top(source)
    first_parts = {name.split("/")[0] for name in names}
    if cifar10.is_cifar100(names):
        raise DataError(f"{path} holds CIFAR-100: a hundred classes. {_EXPECTED}")
    if cifar10.is_python_version(names):
        return cifar10.read_python_version(source, names, on_images)
    if cifar10.is_binary_version(names):
        return cifar10.read_binary_version(source, names, on_images)
    if first_parts & {"train", "test"}:
        return class_folders.read_class_folders(source, names, on_images)
    raise DataError(f"{path} is no data set that is known here: it holds {some(names)}. {_EXPECTED}")


_EXPECTED = (
    "Expected CIFAR-10's official Python or binary version, or pictures laid out as "
    "train/CLASS/*.png|jpg and test/CLASS/*.png|jpg."
)


def _without_top(source: Source) -> dict[str, str]:
    """The members' names by their names without the one folder that may lie around it all."""
    tops = {name.split("/")[0] for name in source.members}
    if len(tops) == 1 and all("/" in name for name in source.members) and not tops & {"train", "test"}:
        return {name.split("/", 1)[1]: name for name in source.members}
    return {name: name for name in source.members}


DATASETS = ("cifar10", "synthetic")
LOCK_NAME = ".prepare.lock"
DOWNLOADS = "downloads"
_QUIET = PrepareReporter()


def prepare(
    dataset: str,
    data_dir: Path,
    *,
    source: str | None = None,
    offline: bool = False,
    force: bool = False,
    verify: bool = False,
    reporter: PrepareReporter = _QUIET,
) -> PreparedReport:
    """Prepare `dataset` in `data_dir`, unless it is prepared already.

    Args:
        dataset: `cifar10` or `synthetic`.
        data_dir: the folder of the prepared datasets; it is made where it is missing.
        source: a path or a URL; None is the ordered list of mirrors.
        offline: never open a connection.
        force: prepare anew, and swap the folder whole.
        verify: read back what is prepared, and check it against its record.
        reporter: told what happens meanwhile.

    Raises:
        UsageError: arguments that do not go together.
        DataNotFoundError: there is no source to be had.
        DataError: the source is not what it should be, or the folder cannot be written.
    """
    check_choice("dataset", dataset, DATASETS)
    if source is not None:
        _check_source(dataset, source, offline)
    folder = data_dir / dataset
    record = None if force else _existing(folder, reporter)
    already = record is not None
    if record is None:
        if dataset == "cifar10" and source is None and offline:
            # Before a folder is made in vain.
            _check_archive_is_there(data_dir / DOWNLOADS)
        disk.check_target(data_dir, folder, store.RECORD_NAME)
        with _hold(data_dir, reporter):
            # Another process may have prepared it while this one waited.
            record = None if force else _existing(folder, _QUIET)
            already = record is not None
            if record is None:
                files.remove_partials(data_dir)
                raw, origin = _obtain(dataset, data_dir, source, offline, reporter)
                record = _write(folder, dataset, raw, origin)
    elif source is not None and record.source != _named(source) and not record.verified:
        reporter.warn(
            f"{folder} was prepared from {record.source}, not from {_named(source)}. "
            "To prepare it anew from there, add --force."
        )
    if verify:
        store.verify_dataset(data_dir, dataset)
    return PreparedReport(
        dataset=dataset,
        data_dir=data_dir,
        folder=folder,
        source=record.source,
        verified=record.verified,
        title=title_of(dataset, record.verified),
        classes=record.classes,
        train=record.train,
        test=record.test,
        already=already,
    )


def _named(source: str) -> str:
    """A source as the record names it: without what an address may hold of a secret."""
    return shown(source) if is_url(source) else source


def _check_source(dataset: str, source: str, offline: bool) -> None:
    if dataset == "synthetic":
        raise UsageError(f"--source {shown(source)} is for cifar10; synthetic is drawn, and has no source.")
    if is_url(source) and offline:
        raise UsageError(f"--offline forbids to open --source {shown(source)}. Leave one of them out.")
    if is_url(source) and "@" in urllib.parse.urlsplit(source).netloc:
        raise UsageError(
            f"--source {shown(source)} comes with a user's name, which is not supported. "
            "Download it yourself, and name the file."
        )
    if "://" in source and not is_url(source) and not os.path.exists(source):
        raise UsageError(
            f"--source {shown(source)} is no address known here. Expected a path, http or https."
        )


def _existing(folder: Path, reporter: PrepareReporter) -> store.Record | None:
    try:
        return store.read_record(folder) if folder.is_dir() else None
    except (DataNotFoundError, OSError):
        return None
    except DataError as error:
        reporter.note(f"{error}\nPreparing it anew.")
        return None


def _obtain(
    dataset: str, data_dir: Path, source: str | None, offline: bool, reporter: PrepareReporter
) -> tuple[RawDataset, str]:
    """The pictures, and where they came from, in words for the record."""
    if dataset == "synthetic":
        disk.check_room(data_dir, store.bytes_needed(synthetic.TRAIN_IMAGES + synthetic.TEST_IMAGES))
        reporter.note(f"Drawing {synthetic.TRAIN_IMAGES + synthetic.TEST_IMAGES:,} pictures.")
        return synthetic.draw_dataset(), f"drawn from the seed {synthetic.SEED}"
    if source is None:
        path = _official_archive(data_dir / DOWNLOADS, offline, reporter)
        return read_source(path, reporter.on_images), path.name
    if not is_url(source):
        return read_source(Path(source), reporter.on_images), source
    # What an address gives may change: it is read once, and not kept.
    name = f"source-{files.sha256_bytes(source.encode())[:16]}"
    path = download(Archive(name), [source], data_dir / DOWNLOADS, reporter)
    try:
        return read_source(path, reporter.on_images), shown(source)
    except DataError as error:
        raise DataError(f"What {shown(source)} gave cannot be used. {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _check_archive_is_there(folder: Path) -> None:
    # os.path's test, unlike pathlib's, answers for what cannot be read too.
    if not any(os.path.exists(folder / archive.name) for archive in (PYTHON_VERSION, BINARY_VERSION)):
        raise DataNotFoundError(
            f"No CIFAR-10 is prepared, there is no {PYTHON_VERSION.name} in {folder}, and --offline forbids "
            f"to download it. {WAYS_OUT}"
        )


def _official_archive(folder: Path, offline: bool, reporter: PrepareReporter) -> Path:
    path = local_archive((PYTHON_VERSION, BINARY_VERSION), folder)
    if path is not None:
        reporter.note(f"Reading {path}.")
        return path
    if offline:
        _check_archive_is_there(folder)
    disk.check_room(folder.parent, (PYTHON_VERSION.size or 0) + store.bytes_needed(60_000))
    return download(PYTHON_VERSION, mirrors(), folder, reporter)


def _write(folder: Path, dataset: str, raw: RawDataset, origin: str) -> store.Record:
    needed = store.bytes_needed(len(raw.train_labels) + len(raw.test_labels))
    # A link is followed to the disk where the set lies.
    disk.check_room(folder.resolve().parent, needed)
    try:
        return store.write_dataset(folder, dataset, raw, origin)
    except OSError as error:
        raise disk.write_error(folder, needed, error) from error


@contextlib.contextmanager
def _hold(data_dir: Path, reporter: PrepareReporter) -> Iterator[None]:
    lock = filelock.FileLock(data_dir / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        reporter.note(f"Another prepare is at work in {data_dir}; waiting until it is done.")
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"{data_dir / LOCK_NAME} cannot be written: {disk.reason(error)}. Choose another --data-dir."
        ) from error
    try:
        yield
    finally:
        lock.release()
