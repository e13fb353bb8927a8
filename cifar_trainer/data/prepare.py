"""Preparing a data set: from a source, a download or a seed to the folder that training reads."""

import contextlib
import dataclasses
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer import files, locks
from cifar_trainer.data import DATASETS, disk, get_spec, store
from cifar_trainer.data.caches import find_cached
from cifar_trainer.data.dataset import Archive, DatasetSpec, RawDataset, SplitSummary
from cifar_trainer.data.download import (
    PrepareReporter,
    download,
    is_url,
    local_archive,
    mirrors,
    ways_out,
)
from cifar_trainer.data.parts import ReadOptions
from cifar_trainer.data.reading import read_source
from cifar_trainer.data.transport import printable_url
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError
from cifar_trainer.results import Result
from cifar_trainer.settings import check_seed

LOCK_NAME = ".prepare.lock"
DOWNLOADS = "downloads"
#: Pixels along each side of images of a user's own classes.
DEFAULT_SIZE = 32
_QUIET = PrepareReporter()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True)
class PreparedReport(Result):
    """What lies in a prepared folder.

    Attributes:
        dataset: its name, as in `--dataset`.
        data_dir: the data folder as it was given; the files are in `folder`.
        folder: DATA_DIR/dataset.
        source: what it was made from.
        verified: both fingerprints are those of the data set of this name.
        title: what to call it.
        classes: the names, by label.
        image_shape: height, width and channels.
        conversions: how many images were changed, by what (`images.CONVERSIONS`).
        notes: what there is to know about how the source was read, a sentence each.
        train, test: the splits in figures.
        already: it was there before, and nothing was done.
    """

    dataset: str
    data_dir: Path
    folder: Path
    source: str
    verified: bool
    title: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    conversions: dict[str, int]
    notes: tuple[str, ...]
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
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "conversions": self.conversions,
            "train": self.train.to_json(),
            "test": self.test.to_json(),
        }


def prepare(
    dataset: str = "cifar10",
    data_dir: str | Path = "data",
    *,
    source: str | Path | None = None,
    offline: bool = False,
    force: bool = False,
    verify: bool = False,
    size: int | None = None,
    resize: str = "stretch",
    test_fraction: float | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    reporter: PrepareReporter = _QUIET,
) -> PreparedReport:
    """Prepare `dataset` in `data_dir`, unless it is prepared already.

    Args:
        dataset: one of `DATASETS`, or with `source` any name for classes of your own.
        data_dir: the folder of the prepared data sets; it is made where it is missing.
        source: a path or a URL. None looks into the caches of other programs, then downloads.
        offline: never open a connection.
        force: prepare again, and swap the folder whole.
        verify: read back what is prepared, and check it against its record.
        size: pixels along each side, for classes of your own; None is 32.
        resize: how to bring images to that size: `stretch`, `crop` or `fit`.
        test_fraction: how much of each class becomes the test set, where the source has none.
        seed: decides which images that are.
        skip_unreadable: leave out images that cannot be decoded, and list them.
        reporter: told what happens meanwhile.

    Raises:
        UsageError: arguments that do not go together.
        DataNotFoundError: there is no source to be had.
        DataError: the source is not what it should be, or the folder cannot be written.
    """
    data_dir = Path(data_dir).expanduser()
    spec = DATASETS.get(dataset)
    where = None if source is None else _local_path(str(source))
    folder = data_dir / dataset
    if spec is None:
        _check_own(dataset, folder, where)
    elif size is not None:
        raise UsageError(
            f"--size {size} is for classes of your own; {spec.title} has {spec.image_shape[1]}×"
            f"{spec.image_shape[0]} pixels. Leave it out, or choose another name with --dataset."
        )
    options = _read_options(spec, size, resize, test_fraction, seed, skip_unreadable)
    if where is not None:
        _check_source(dataset, spec, where, offline)
    record = None if force else _existing(folder, reporter)
    already = record is not None
    if record is None:
        if where is None:
            # Before a folder is made in vain.
            _check_obtainable(spec or get_spec(dataset), data_dir / DOWNLOADS, offline)
        disk.check_target(data_dir, folder, store.RECORD_NAME)
        with _hold(data_dir, reporter):
            # Another process may have prepared it while this one waited.
            record = None if force else _existing(folder, _QUIET)
            already = record is not None
            if record is None:
                files.remove_partials(data_dir)
                raw, origin = _obtain(spec, data_dir, where, offline, options, reporter)
                for note in raw.notes:
                    reporter.note(note)
                record = _write(folder, dataset, raw, origin)
    elif where is not None and record.source != _named(where) and not record.verified:
        reporter.warn(
            f"{folder} was prepared from {record.source}, not from {_named(where)}. "
            "To prepare it again from there, add --force."
        )
    if verify:
        store.verify_dataset(data_dir, dataset)
    return PreparedReport(
        dataset=dataset,
        data_dir=data_dir,
        folder=folder,
        source=record.source,
        verified=record.verified,
        title=record.title,
        classes=record.classes,
        image_shape=_image_shape(folder),
        conversions=dict(record.conversions),
        notes=record.notes,
        train=record.train,
        test=record.test,
        already=already,
    )


def _image_shape(folder: Path) -> tuple[int, int, int]:
    height, width, channels = np.load(folder / "train_images.npy", mmap_mode="r", allow_pickle=False).shape[
        1:
    ]
    return height, width, channels


def _read_options(
    spec: DatasetSpec | None,
    size: int | None,
    resize: str,
    test_fraction: float | None,
    seed: int,
    skip_unreadable: bool,
) -> ReadOptions:
    check_seed(seed)
    side = DEFAULT_SIZE if size is None else size
    return ReadOptions(
        shape=spec.image_shape if spec else (side, side, 3),
        resize=resize,
        classes=spec.classes if spec else (),
        other_names=spec.other_names if spec else {},
        title=spec.title if spec else "the data set",
        test_fraction=test_fraction,
        seed=seed,
        skip_unreadable=skip_unreadable,
    )


def _check_own(name: str, folder: Path, source: str | None) -> None:
    """Raise UsageError unless `name` can be one for classes of the user's own, or is prepared already."""
    if not _NAME.fullmatch(name) or name == DOWNLOADS:
        raise UsageError(
            f"--dataset {name!r} cannot be the name of a folder. Expected letters, digits, '-', '_' and '.', "
            "beginning with a letter or a digit."
        )
    if source is None and not (folder / store.RECORD_NAME).is_file():
        get_spec(name)


def _local_path(source: str) -> str:
    """A `file://` address as a path; everything else as it is."""
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return source
    if parts.scheme.lower() != "file":
        return source
    if parts.netloc not in ("", "localhost"):
        raise UsageError(
            f"--source {source!r} names a file of the host {parts.netloc!r}. Expected file:///PATH."
        )
    return urllib.request.url2pathname(parts.path)


def _named(source: str) -> str:
    """A source as the record names it: without what an address may hold of a secret."""
    return printable_url(source) if is_url(source) else source


def _check_source(dataset: str, spec: DatasetSpec | None, source: str, offline: bool) -> None:
    if spec is not None and spec.draw is not None:
        raise UsageError(
            f"--source {printable_url(source)} does not go with --dataset {dataset}, which is drawn, and has "
            "no source."
        )
    if is_url(source) and offline:
        raise UsageError(
            f"--offline forbids to open --source {printable_url(source)}. Leave one of them out."
        )
    if is_url(source) and "@" in urllib.parse.urlsplit(source).netloc:
        raise UsageError(
            f"--source {printable_url(source)} comes with a user's name, which is not supported. "
            "Download it yourself, and name the file."
        )
    if "://" in source and not is_url(source) and not Path(source).exists():
        raise UsageError(
            f"--source {printable_url(source)} is no address known here. "
            "Expected a path, http, https or file."
        )


def _existing(folder: Path, reporter: PrepareReporter) -> store.Record | None:
    try:
        return store.read_record(folder) if folder.is_dir() else None
    except (DataNotFoundError, OSError):
        return None
    except DataError as error:
        reporter.note(f"{error}\nPreparing it again.")
        return None


def _obtain(
    spec: DatasetSpec | None,
    data_dir: Path,
    source: str | None,
    offline: bool,
    options: ReadOptions,
    reporter: PrepareReporter,
) -> tuple[RawDataset, str]:
    """The images, and where they came from, in words for the record."""
    if spec is not None and spec.draw is not None:
        disk.check_room(data_dir, store.bytes_needed(spec.images, spec.image_shape))
        reporter.note(f"Drawing {spec.images:,} images.")
        return spec.draw(), spec.origin
    if source is None:
        assert spec is not None
        return _obtain_official(spec, data_dir / DOWNLOADS, offline, options, reporter)
    if not is_url(source):
        return read_source(Path(source).expanduser(), spec, options, reporter.on_images), source
    # What an address gives may change: it is read once, and not kept.
    name = f"source-{files.sha256_bytes(source.encode())[:16]}"
    path = download(Archive(name), [source], data_dir / DOWNLOADS, reporter)
    try:
        return read_source(path, spec, options, reporter.on_images), printable_url(source)
    except DataError as error:
        raise DataError(f"What {printable_url(source)} gave cannot be used. {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _obtain_official(
    spec: DatasetSpec, folder: Path, offline: bool, options: ReadOptions, reporter: PrepareReporter
) -> tuple[RawDataset, str]:
    """The data set as its authors publish it: from an earlier download, from a cache, or downloaded now."""
    place = folder if len(spec.archives) == 1 else folder / spec.name
    path = local_archive((*spec.archives, *spec.other_archives), place) if len(spec.archives) == 1 else None
    if path is None:
        cached = _from_cache(spec, options, reporter)
        if cached is not None:
            return cached
        if offline and not all((place / archive.name).exists() for archive in spec.archives):
            _check_obtainable(spec, folder, offline)
        size = sum(archive.size or 0 for archive in spec.archives)
        disk.check_room(folder.parent, size + store.bytes_needed(spec.images, spec.image_shape))
        for archive in spec.archives:
            path = local_archive((archive,), place) or download(
                archive, mirrors(archive, spec.mirrors_variable), place, reporter, spec.mirrors_variable
            )
    else:
        reporter.note(f"Reading {path}.")
    if len(spec.archives) > 1:
        path = place
    assert path is not None
    return read_source(path, spec, options, reporter.on_images), path.name


def _from_cache(
    spec: DatasetSpec, options: ReadOptions, reporter: PrepareReporter
) -> tuple[RawDataset, str] | None:
    """The data set out of another program's cache, if its content proves that it is the whole of it."""
    if spec.fingerprints is None:
        return None
    for path in find_cached(spec.caches):
        try:
            raw = read_source(path, spec, options, reporter.on_images)
        except DataError as error:
            reporter.note(f"{path} is not used: {error}")
            continue
        summaries = [store.summarize(*raw.split(split), len(raw.classes)) for split in store.SPLITS]
        if spec.is_verified(*(summary.fingerprint for summary in summaries)):
            reporter.note(f"Found {spec.title} in {path}: nothing has to be downloaded.")
            return raw, str(path)
        reporter.note(f"{path} is not used: its images are not those of {spec.title}.")
    return None


def _check_obtainable(spec: DatasetSpec, folder: Path, offline: bool) -> None:
    """Raise DataNotFoundError where nothing may be downloaded and nothing is here."""
    if spec.draw is not None or not offline:
        return
    place = folder if len(spec.archives) == 1 else folder / spec.name
    with contextlib.suppress(OSError):
        if any((place / archive.name).exists() for archive in (*spec.archives, *spec.other_archives)):
            return
    if spec.fingerprints is not None and any(find_cached(spec.caches)):
        return
    raise DataNotFoundError(
        f"No {spec.title} is prepared, there is no {spec.archives[0].name} in {place}, and --offline forbids "
        f"to download it. {ways_out(spec.mirrors_variable)}"
    )


def _write(folder: Path, dataset: str, raw: RawDataset, origin: str) -> store.Record:
    needed = store.bytes_needed(len(raw.train_labels) + len(raw.test_labels), raw.image_shape)
    # A link is followed to the disk where the set lies.
    disk.check_room(folder.resolve().parent, needed)
    try:
        return store.write_dataset(folder, dataset, raw, origin)
    except OSError as error:
        raise disk.write_error(folder, needed, error) from error


@contextlib.contextmanager
def _hold(data_dir: Path, reporter: PrepareReporter) -> Iterator[None]:
    waiting = f"Another prepare is at work in {data_dir}; waiting until it is done."
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.lock(data_dir / LOCK_NAME, lambda: reporter.note(waiting)))
        except OSError as error:
            raise DataError(
                f"{data_dir / LOCK_NAME} cannot be written: {disk.reason(error)}. Choose another --data-dir."
            ) from error
        yield
