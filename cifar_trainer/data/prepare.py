"""Prepare a data set: turn a source, a download or a drawing into the folder that `train` reads."""

import contextlib
import dataclasses
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cifar_trainer import files, locks
from cifar_trainer.data import disk, find_spec, get_spec, store
from cifar_trainer.data.caches import find_cached
from cifar_trainer.data.dataset import Archive, DatasetSpec, ImageSet
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.download import (
    PrepareReporter,
    download,
    is_url,
    local_archive,
    mirrors,
    printable_url,
    ways_out,
)
from cifar_trainer.data.fingerprints import fingerprint
from cifar_trainer.data.image_lists import read_image_list
from cifar_trainer.data.partition import correct_and_check, to_train_and_test
from cifar_trainer.data.readers import read_source
from cifar_trainer.errors import DataError, DataNotFoundError, UsageError
from cifar_trainer.results import Result
from cifar_trainer.settings import check_seed

LOCK_NAME = ".prepare.lock"
DOWNLOADS = "downloads"
_QUIET = PrepareReporter()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_JSON_KEYS = (
    "dataset", "data_dir", "source", "verified", "verified_by", "classes", "image_shape", "conversions",
    "corrections", "groups", "train", "test",
)  # fmt: skip

#: The images, and what they were made from.
_Found = tuple[ImageSet, str]


@dataclasses.dataclass(frozen=True)
class PreparedReport(Result):
    """The result of `prepare`.

    Attributes:
        data_dir: the data folder, as given.
        folder: DATA_DIR/dataset.
        record: its dataset.json.
        already: whether it was prepared before, so that nothing was done.
    """

    data_dir: Path
    folder: Path
    record: store.Record
    already: bool

    @property
    def title(self) -> str:
        """What to call it."""
        return self.record.title

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return store.image_shape(self.folder)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `prepare --json`."""
        values = dataclasses.asdict(self.record)
        values |= {"data_dir": str(self.data_dir), "image_shape": list(self.image_shape)}
        return {key: values[key] for key in _JSON_KEYS}


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
    relabel: str | Path | None = None,
    keep_groups: str | Path | None = None,
    reporter: PrepareReporter = _QUIET,
) -> PreparedReport:
    """Prepare `dataset` in `data_dir`, unless it is prepared already.

    Args:
        dataset: one of `DATASETS`, or with `source` any name for classes of your own.
        data_dir: the folder of all prepared data sets; created if it is missing.
        source: a path or a URL. None looks in the caches of other programs, then downloads.
        offline: never open a connection.
        force: prepare again, and replace the prepared data set.
        verify: read the prepared data set back and verify it.
        size: width and height in pixels, for classes of your own; by default 32, or the size of arrays.
        resize: how to resize images: `stretch`, `crop` or `fit`.
        test_fraction: the share of each class that becomes the test set, if the source has none.
        seed: decides which images become the test set.
        skip_unreadable: leave out images that cannot be decoded, and list them.
        relabel: a CSV file with the columns `file` (or `split` and `index`) and `label`, which is a class or
            `delete`.
        keep_groups: a CSV file with the columns `group` and `file`. All images of a group stay on the same
            side of each split.
        reporter: gets progress and notes.

    Raises:
        UsageError: an argument is invalid, or two of them exclude each other.
        DataNotFoundError: the data set cannot be found or downloaded.
        DataError: the source is damaged or is not this data set, or the folder cannot be written.
    """
    data_dir = Path(data_dir).expanduser()
    spec = find_spec(dataset)
    dataset = spec.name if spec else dataset
    where = None if source is None else _local_path(str(source))
    folder = data_dir / dataset
    if spec is None:
        _check_own(dataset, data_dir, where)
    check_seed(seed)
    options = ReadOptions(
        spec, size, resize, test_fraction, seed, skip_unreadable,
        corrections=read_image_list(relabel, "--relabel", "label", by_index=True),
        groups=read_image_list(keep_groups, "--keep-groups", "group", by_index=False),
        scratch=data_dir,
    )  # fmt: skip
    if where is not None:
        _check_source(spec, where, offline)
    elif spec is not None:
        options.refuse_test_fraction(spec.title)
    record = None if force else _existing(folder, reporter)
    if record is not None:
        already = True
        for difference in _differences(folder, record, where, options):
            reporter.warn(f"{folder} was prepared {difference}. To prepare it again, add --force.")
    else:
        if where is None:
            # Fail before a folder is created.
            _check_obtainable(spec or get_spec(dataset), data_dir / DOWNLOADS, offline)
        disk.check_target(data_dir, folder, store.RECORD_NAME)
        with _hold(data_dir, reporter):
            # Another process may have prepared it in the meantime.
            record = None if force else _existing(folder, _QUIET)
            already = record is not None
            if record is None:
                files.remove_partials(data_dir)
                found, origin = _obtain(data_dir, where, offline, options, reporter)
                found = correct_and_check(found, options, origin)
                for note in found.notes:
                    warning = note.removeprefix("Warning: ")
                    (reporter.note if warning == note else reporter.warn)(warning)
                record = _write(folder, dataset, found, origin)
    if verify:
        store.verify_dataset(data_dir, dataset)
    return PreparedReport(data_dir, folder, record, already)


def _differences(
    folder: Path, record: store.Record, source: str | None, options: ReadOptions
) -> Iterator[str]:
    """How the prepared data set differs from what these options ask for."""
    if source is not None and Path(record.source) != Path(_named(source)) and not record.verified:
        yield f"from {record.source}, not from {_named(source)}"
    height, width, _ = store.image_shape(folder)
    if options.size is not None and (height, width) != (options.size, options.size):
        yield f"with images of {width}×{height} pixels, not with --size {options.size}"
    if source is not None and record.preprocessing and record.preprocessing.resize != options.resize:
        yield f"with --resize {record.preprocessing.resize}, not {options.resize}"
    split, wanted = (record.test_fraction, record.seed), (options.fraction, options.seed)
    if source is not None and record.test_fraction is not None and split != wanted:
        old, new = (f"--test-fraction {fraction:g} and --seed {seed}" for fraction, seed in (split, wanted))
        yield f"with {old}, not {new}"
    for option, was, now in (
        ("--relabel", record.corrections, options.corrections),
        ("--keep-groups", record.groups, options.groups),
    ):
        # Without a source, a data set of your own cannot be prepared again.
        if (source or options.spec or now) and (was and was.sha256) != (now and now.sha256):
            old = f"with {option} {was.file} (SHA-256 {was.sha256[:16]}…)" if was else f"without {option}"
            new = f"with {now.path} (SHA-256 {now.sha256[:16]}…)" if now else "without it"
            yield f"{old}, not {new}"


def _check_own(name: str, data_dir: Path, source: str | None) -> None:
    """Raise UsageError unless `name` is valid for your own classes, with a source or prepared already."""
    if name == DOWNLOADS:
        raise UsageError(f"--dataset {name} is the name of the folder for downloads. Choose another name.")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--dataset {name!r} is not a valid name. Expected letters, digits, '-', '_' and '.', "
            "starting with a letter or a digit."
        )
    if source is None and not (data_dir / name / store.RECORD_NAME).is_file():
        get_spec(name, prepared=store.list_prepared(data_dir))


def _local_path(source: str) -> str:
    """A `file://` URL as a path; everything else unchanged."""
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return source
    if parts.scheme.lower() != "file":
        return source
    if parts.netloc not in ("", "localhost"):
        raise UsageError(
            f"--source {source!r} names a file on the host {parts.netloc!r}. Expected file:///PATH."
        )
    return urllib.request.url2pathname(parts.path)


def _named(source: str) -> str:
    """A source as dataset.json records it: a URL without its secrets."""
    return printable_url(source) if is_url(source) else source


def _check_source(spec: DatasetSpec | None, source: str, offline: bool) -> None:
    shown = printable_url(source)
    if spec is not None and spec.draw is not None:
        raise UsageError(
            f"--source {shown} cannot be used with --dataset {spec.name}, which is drawn and has no source."
        )
    if is_url(source) and offline:
        raise UsageError(f"--offline forbids opening --source {shown}. Leave one of them out.")
    if is_url(source) and "@" in urllib.parse.urlsplit(source).netloc:
        raise UsageError(
            f"--source {shown} contains a user name, which is not supported. Download the file yourself, and "
            "pass its path."
        )
    if "://" in source and not is_url(source) and not Path(source).exists():
        raise UsageError(f"--source {shown} is not supported. Expected a path, http, https or file.")


def _existing(folder: Path, reporter: PrepareReporter) -> store.Record | None:
    try:
        return store.read_record(folder) if folder.is_dir() else None
    except (DataNotFoundError, OSError):
        return None
    except DataError as error:
        reporter.note(f"{error}\nPreparing it again.")
        return None


def _obtain(
    data_dir: Path, source: str | None, offline: bool, options: ReadOptions, reporter: PrepareReporter
) -> _Found:
    spec = options.spec
    if spec is not None and spec.draw is not None:
        disk.check_room(data_dir, store.bytes_needed(spec.images, spec.image_shape))
        reporter.note(f"Drawing {spec.images:,} images.")
        drawn = dataclasses.replace(spec.draw(), preprocessing=options.preprocessing)
        return to_train_and_test(drawn, options, spec.origin), spec.origin
    if source is None:
        assert spec is not None
        return _obtain_published(spec, data_dir, offline, options, reporter)
    if not is_url(source):
        path = Path(source).expanduser()
        return read_source(path, options, reporter.on_images), source
    # Read once and not kept, because the content of a URL may change. Its name may contain the split.
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", urllib.parse.urlsplit(source).path.rpartition("/")[2])[-80:]
    folder = data_dir / DOWNLOADS / f"source-{files.sha256_bytes(source.encode())[:16]}"
    path = download(Archive(name.lstrip(".") or "source"), [source], folder, reporter)
    try:
        return read_source(path, options, reporter.on_images), printable_url(source)
    except DataError as error:
        raise DataError(f"The file from {printable_url(source)} cannot be used. {error}") from error
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _obtain_published(
    spec: DatasetSpec, data_dir: Path, offline: bool, options: ReadOptions, reporter: PrepareReporter
) -> _Found:
    """The published data set, from an earlier download, a cache, or a new download."""
    place = _downloads(spec, data_dir / DOWNLOADS)
    paths = [local_archive((archive, *spec.other_archives), place, reporter) for archive in spec.archives]
    missing = [archive for archive, path in zip(spec.archives, paths, strict=True) if path is None]
    if missing:
        cached = _from_cache(spec, options, reporter)
        if cached is not None:
            return cached
        if offline:
            raise _not_obtainable(spec, place)
        size = sum(archive.size or 0 for archive in missing)
        disk.check_room(data_dir, size + store.bytes_needed(spec.images, spec.image_shape))
        variable = spec.mirrors_variable
        paths = [
            download(archive, mirrors(archive, variable), place, reporter, variable) for archive in missing
        ]
    path = place if len(spec.archives) > 1 else paths[0]
    assert path is not None
    reporter.note(f"Reading {path}.")
    return read_source(path, options, reporter.on_images), path.name


def _downloads(spec: DatasetSpec, folder: Path) -> Path:
    """The folder of a data set's archives. Several archives have a folder of their own."""
    return folder if len(spec.archives) == 1 else folder / spec.name


def _from_cache(spec: DatasetSpec, options: ReadOptions, reporter: PrepareReporter) -> _Found | None:
    """The data set from another program's cache, if its fingerprints are right."""
    if spec.fingerprints is None:
        return None
    for path in find_cached(spec.caches):
        try:
            found = read_source(path, options, reporter.on_images)
        except DataError as error:
            reporter.note(f"{path} is not used: {error}")
            continue
        splits = [found.splits[name] for name in store.SPLITS]
        if spec.has_fingerprints(*(fingerprint(split.images, split.labels) for split in splits)):
            reporter.note(f"Found {spec.title} in {path}: no download is needed.")
            return found, str(path)
        reporter.note(f"{path} is not used: its images are not those of {spec.title}.")
    return None


def _check_obtainable(spec: DatasetSpec, folder: Path, offline: bool) -> None:
    """Raise DataNotFoundError with --offline if no archive or cache is found."""
    if spec.draw is not None or not offline:
        return
    place = _downloads(spec, folder)
    with contextlib.suppress(OSError):
        if any((place / archive.name).exists() for archive in (*spec.archives, *spec.other_archives)):
            return
    if spec.fingerprints is not None and any(find_cached(spec.caches)):
        return
    raise _not_obtainable(spec, place)


def _not_obtainable(spec: DatasetSpec, place: Path) -> DataNotFoundError:
    missing = [archive.name for archive in spec.archives if not (place / archive.name).exists()]
    return DataNotFoundError(
        f"{spec.title} is not prepared, {', '.join(missing)} is not in {place}, and --offline forbids "
        f"downloading it. {ways_out(spec.mirrors_variable)}"
    )


def _write(folder: Path, dataset: str, found: ImageSet, origin: str) -> store.Record:
    needed = store.bytes_needed(sum(map(len, found.splits.values())), found.image_shape)
    # If the folder is a link, the disk that counts is that of its target.
    disk.check_room(folder.resolve().parent, needed)
    try:
        return store.write_dataset(folder, dataset, found, origin)
    except OSError as error:
        raise disk.write_error(folder, needed, error) from error


@contextlib.contextmanager
def _hold(data_dir: Path, reporter: PrepareReporter) -> Iterator[None]:
    waiting = f"Another prepare is running in {data_dir}; waiting for it."
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.lock(data_dir / LOCK_NAME, lambda: reporter.note(waiting)))
        except OSError as error:
            raise DataError(
                f"{data_dir / LOCK_NAME} cannot be written: {disk.reason(error)}. Choose another --data-dir."
            ) from error
        yield
