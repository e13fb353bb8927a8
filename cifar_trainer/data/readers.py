"""Choose the reader for a source."""

import dataclasses
import tempfile
from pathlib import Path

from cifar_trainer.data import DATASETS, formats
from cifar_trainer.data.arrays import read_arrays
from cifar_trainer.data.class_folders import EXPECTED_LAYOUT, read_class_folders
from cifar_trainer.data.csv_labels import read_csv
from cifar_trainer.data.dataset import DatasetSpec, ImageSet, OfficialForm, OnImages
from cifar_trainer.data.decoding import ReadAgain, ReadOptions
from cifar_trainer.data.disk import reason
from cifar_trainer.data.download import is_archive
from cifar_trainer.data.fingerprints import with_true_classes
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.partition import to_train_and_test
from cifar_trainer.data.records import read_records
from cifar_trainer.data.unpack import Unpacker
from cifar_trainer.errors import DataError, printable

#: Readers of unofficial formats, in the order in which they are tried. Each returns None if the folder is not
#: in its format.
READERS = (read_csv, read_class_folders, read_records, read_arrays)
#: Maximum depth of archives inside archives.
_MAX_NESTING = 2


def read_source(path: Path, options: ReadOptions, on_images: OnImages) -> ImageSet:
    """Read a data set from a folder, an archive or a file.

    Raises:
        DataError: the format is unknown, or the source is damaged, cannot be read, or is another data set.
        UsageError: an option does not fit the source.
    """
    try:
        try:
            return _read_once(path, options, on_images)
        except ReadAgain as again:
            return _read_once(path, dataclasses.replace(options, grey_bits=again.bits), on_images)
    except OSError as error:
        raise DataError(
            f"{printable(str(error.filename or path))} cannot be read: {reason(error)}."
        ) from error


def _read_once(path: Path, options: ReadOptions, on_images: OnImages) -> ImageSet:
    known_sizes = {
        folder: archive.size
        for spec in DATASETS.values()
        for archive in (*spec.archives, *spec.other_archives)
        for folder in archive.folders
        if archive.size
    }
    spec = options.spec
    with Unpacker(options.scratch or Path(tempfile.gettempdir()), known_sizes) as unpacker:
        published = _published_archives(path, spec) if spec and not spec.fingerprints else []
        if published:
            folder = Folder(published[0].parent, {place.name: str(place) for place in published})
        else:
            folder = unpacker.open(path)
        if not folder.files:
            raise DataError(f"{path} is empty. {_expected(spec)}")
        found = to_train_and_test(_read(folder, options, on_images, unpacker, 0), options, str(folder.path))
        notes = (*unpacker.notes, *found.notes)
    found = dataclasses.replace(
        found, notes=notes, published=bool(published), preprocessing=options.preprocessing
    )
    if spec is None:
        return found
    found = with_true_classes(found, spec)
    if len(found.classes) != len(spec.classes):
        raise DataError(
            f"{path} contains {len(found.classes)} classes, expected the {len(spec.classes)} of "
            f"{spec.title}. Not among them: {abridged(set(found.classes) - set(spec.classes))}. "
            "For classes of your own, choose a name: --dataset NAME."
        )
    return found


def _published_archives(path: Path, spec: DatasetSpec) -> list[Path]:
    """The published archives of a data set at `path`, if all are complete by their SHA-256."""
    for archives in (spec.archives, *((archive,) for archive in spec.other_archives)):
        places = [path] if path.is_file() else [path / archive.name for archive in archives]
        if (
            len(places) == len(archives)
            and all(place.is_file() for place in places)
            and all(map(is_archive, places, archives))
        ):
            return places
    return []


def _expected(spec: DatasetSpec | None) -> str:
    if spec is None or not spec.forms:
        return EXPECTED_LAYOUT
    return f"Expected {spec.title} in one of its official forms, or images: {EXPECTED_LAYOUT}"


def _read(
    folder: Folder, options: ReadOptions, on_images: OnImages, unpacker: Unpacker, depth: int
) -> ImageSet:
    spec = options.spec
    if spec is not None and (official := _find_form(folder, spec)) is not None:
        options.refuse_test_fraction(f"{folder.path} is {spec.title}, which")
        prefix, form = official
        return form.read(folder.inside(prefix), on_images)
    archives = folder.of_format(*formats.ARCHIVES) if depth < _MAX_NESTING else []
    published = {archive.name for archive in (*spec.archives, *spec.other_archives)} if spec else set()
    chosen = [name for name in archives if name.rsplit("/", 1)[-1] in published]
    if chosen and spec is not None and len(spec.archives) == 1:
        return _read(unpacker.unpack(folder, chosen[:1]), options, on_images, unpacker, depth + 1)
    _refuse_other_sets(folder, spec)
    for reader in READERS:
        found = reader(folder, options, on_images)
        if found is not None:
            return found
    if archives:
        return _read(unpacker.unpack(folder, chosen or archives), options, on_images, unpacker, depth + 1)
    raise DataError(
        f"{folder.path} is not a data set in a known format: it contains {abridged(folder.files)}. "
        f"{_expected(spec)}"
    )


def _find_form(folder: Folder, spec: DatasetSpec, *, shared: bool = True) -> tuple[str, OfficialForm] | None:
    """The subfolder that has an official form of a data set, and that form."""
    for prefix, files in folder.by_folder.items():
        names = {name.removeprefix(prefix) for name in files}
        for form in spec.forms:
            if (shared or not form.shared) and form.recognizes(names):
                return prefix, form
    return None


def _refuse_other_sets(folder: Folder, spec: DatasetSpec | None) -> None:
    """Raise DataError if the source is a known data set, but not the requested one."""
    for other in DATASETS.values():
        if other is not spec and _find_form(folder, other, shared=False) is not None:
            wanted = f"--dataset {spec.name} asks for {spec.title}" if spec else "this data set is known"
            raise DataError(
                f"{folder.path} contains {other.title}, and {wanted}. Prepare it with: "
                f"cifar-trainer prepare --dataset {other.name} --source {folder.path}"
            )
