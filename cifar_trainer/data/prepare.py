"""Preparing a dataset: from a source, a download or a seed to the folder that training reads."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from cifar_trainer import files
from cifar_trainer.config import DATASETS, check_choice
from cifar_trainer.data import store, synthetic
from cifar_trainer.data.dataset import RawDataset, title_of
from cifar_trainer.data.report import PreparedReport, Reporter
from cifar_trainer.data.sources import read_source
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError

LOCK_NAME = ".prepare.lock"
DOWNLOADS = "downloads"
_QUIET = Reporter()


def prepare(
    dataset: str,
    data_dir: Path,
    *,
    source: str | None = None,
    offline: bool = False,
    force: bool = False,
    verify: bool = False,
    reporter: Reporter = _QUIET,
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
    if dataset == "synthetic" and source is not None:
        raise UsageError(
            f"--source {source} is for cifar10; --dataset synthetic is drawn, and has no source."
        )
    folder = data_dir / dataset
    record = None if force else _existing(folder, reporter)
    already = record is not None
    if record is None:
        _check_target(data_dir, folder)
        with _hold(data_dir, reporter):
            # Another process may have prepared it while this one waited.
            record = None if force else _existing(folder, _QUIET)
            already = record is not None
            if record is None:
                files.remove_partials(data_dir)
                raw, origin = _obtain(dataset, data_dir, source, offline, reporter)
                record = _write(folder, dataset, raw, origin)
    elif source is not None and record.source != source and not record.verified:
        reporter.warn(
            f"{folder} was prepared from {record.source}, not from {source}. "
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


def _existing(folder: Path, reporter: Reporter) -> store.Record | None:
    try:
        return store.read_record(folder)
    except DataNotFoundError:
        return None
    except DataError as error:
        reporter.note(f"{error}\nPreparing it anew.")
        return None


def _obtain(
    dataset: str, data_dir: Path, source: str | None, offline: bool, reporter: Reporter
) -> tuple[RawDataset, str]:
    if dataset == "synthetic":
        _check_room(data_dir, store.bytes_needed(synthetic.TRAIN_IMAGES + synthetic.TEST_IMAGES))
        return synthetic.draw_dataset(), f"drawn from the seed {synthetic.SEED}"
    if source is not None:
        return read_source(Path(source), reporter.on_images), source
    raise DataNotFoundError("no download yet")


def _write(folder: Path, dataset: str, raw: RawDataset, origin: str) -> store.Record:
    needed = store.bytes_needed(len(raw.train_labels) + len(raw.test_labels))
    _check_room(folder.parent, needed)
    try:
        return store.write_dataset(folder, dataset, raw, origin)
    except OSError as error:
        raise _write_error(folder, needed, error) from error


def _check_target(data_dir: Path, folder: Path) -> None:
    """Make sure that the folder can be written, and that nothing of somebody else's is in the way."""
    for path in (data_dir, folder):
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link that leads nowhere. Remove it, or choose another --data-dir.")
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file, expected a folder. Choose another --data-dir.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / store.RECORD_NAME).exists():
        raise DataError(
            f"{folder} holds something that was not prepared by cifar-trainer. Move it away, "
            "or choose another --data-dir."
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        files.write_bytes(data_dir / ".partial-probe", b"")
        (data_dir / ".partial-probe").unlink()
    except OSError as error:
        raise DataError(
            f"The data folder {data_dir} cannot be written: {error.strerror}. Choose another --data-dir."
        ) from error


@contextlib.contextmanager
def _hold(data_dir: Path, reporter: Reporter) -> Iterator[None]:
    lock = filelock.FileLock(data_dir / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        reporter.note(f"Another prepare is at work in {data_dir}; waiting until it is done.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(_room_message(folder, needed, free))


def _write_error(folder: Path, needed: int, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder.parent).free
        return DataError(_room_message(folder.parent, needed, free))
    reason = error.strerror or os.strerror(error.errno or errno.EIO)
    return DataError(f"{folder} could not be written: {reason}. What was there before is untouched.")


def _room_message(folder: Path, needed: int, free: int) -> str:
    return (
        f"The disk of {folder} is full: {needed:,} bytes are needed, {free:,} are free. "
        "Make room, or choose another --data-dir."
    )
