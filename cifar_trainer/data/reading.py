"""Which form a source has, and its images as arrays."""

import contextlib
from pathlib import Path

from cifar_trainer.data import DATASETS
from cifar_trainer.data.archives import open_source
from cifar_trainer.data.class_folders import (
    EXPECTED_LAYOUT,
    has_images,
    read_class_folders,
    read_table,
    tables_of,
)
from cifar_trainer.data.dataset import DatasetSpec, OnImages, RawDataset
from cifar_trainer.data.fingerprints import with_true_classes
from cifar_trainer.data.parts import Parts, ReadOptions, to_raw
from cifar_trainer.data.sources import JoinedSource, RenamedSource, Source, abridged
from cifar_trainer.data.tables import is_array, is_record_file, read_arrays, read_records
from cifar_trainer.errors import DataError, UsageError

_ARCHIVES = (
    ".zip", ".npz", ".7z", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst",
)  # fmt: skip
#: An archive in an archive is opened, one in that is not.
_MAX_NESTING = 2


def read_source(
    path: Path, spec: DatasetSpec | None, options: ReadOptions, on_images: OnImages
) -> RawDataset:
    """Read a data set from a folder, an archive or a file, in whatever form it is there.

    Args:
        path: the folder or file.
        spec: the data set that it should be; None for a user's own classes.
        options: how to read images that are in no official form.
        on_images: told how many images are read, and of how many.

    Raises:
        DataError: it is in no form that is read, or not what it should be.
        UsageError: an option does not go with what is there.
    """
    known_sizes = {
        top: archive.size
        for each in DATASETS.values()
        for archive in (*each.archives, *each.other_archives)
        for top in archive.folders
        if archive.size
    }
    with contextlib.ExitStack() as stack:
        source = open_source(path, known_sizes)
        if not source.members:
            raise DataError(f"{path} is empty. {expected(spec)}")
        raw = _read(source, spec, options, on_images, stack, 0)
    if spec is None:
        return raw
    raw = with_true_classes(raw, spec)
    if len(raw.classes) != len(spec.classes):
        raise DataError(
            f"{path} holds {len(raw.classes)} classes ({abridged(raw.classes)}), expected the "
            f"{len(spec.classes)} of {spec.title}. For classes of your own, choose a name: --dataset NAME."
        )
    return raw


def expected(spec: DatasetSpec | None) -> str:
    """What a source may be, for messages."""
    official = f"{spec.title} in one of its official forms; or images. " if spec and spec.forms else ""
    return f"Expected {official}{EXPECTED_LAYOUT.removeprefix('Expected ')}" if official else EXPECTED_LAYOUT


def _read(
    source: Source,
    spec: DatasetSpec | None,
    options: ReadOptions,
    on_images: OnImages,
    stack: contextlib.ExitStack,
    depth: int,
) -> RawDataset:
    official = _official(source, spec, options, on_images)
    if official is not None:
        return official
    nested = [name for name in source.members if name.lower().endswith(_ARCHIVES)]
    # What lies open is taken first.
    is_open = has_images(source) or any(map(is_record_file, source.members))
    if nested and not is_open and depth < _MAX_NESTING:
        opened = _opened(source, nested, spec, stack)
        return _read(opened, spec, options, on_images, stack, depth + 1)
    parts = _unofficial(source, options, on_images)
    if parts is None:
        raise DataError(
            f"{source.path} is no data set that is known here: it holds {abridged(source.members)}. "
            f"{expected(spec)}"
        )
    return to_raw(parts, options, str(source.path))


def _official(
    source: Source, spec: DatasetSpec | None, options: ReadOptions, on_images: OnImages
) -> RawDataset | None:
    """The source read in an official form of `spec`, if a folder in it has one."""
    for files in _files_by_folder(source):
        for each in DATASETS.values():
            for form in each.forms:
                if not form.recognizes(set(files)):
                    continue
                if spec is None or each.name != spec.name:
                    wanted = f"--dataset {spec.name} asks for {spec.title}" if spec else "it has a name here"
                    raise DataError(
                        f"{source.path} holds {each.title}, and {wanted}. "
                        f"Prepare it with: cifar-trainer prepare --dataset {each.name} --source {source.path}"
                    )
                if options.test_fraction is not None:
                    raise UsageError(
                        f"--test-fraction {options.test_fraction} is for a source without a test set; "
                        f"{source.path} is {each.title}, which has one. Leave the option out."
                    )
                return form.read(RenamedSource(source, files), on_images)
    return None


def _files_by_folder(source: Source) -> list[dict[str, str]]:
    """For each folder with files, the outermost first, the member behind each file's name."""
    found: dict[str, dict[str, str]] = {}
    for name in source.members:
        folder, slash, file = name.rpartition("/")
        found.setdefault(folder + slash, {})[file] = name
    return [files for _, files in sorted(found.items(), key=lambda item: (item[0].count("/"), item[0]))]


def _opened(
    source: Source, nested: list[str], spec: DatasetSpec | None, stack: contextlib.ExitStack
) -> Source:
    """The archives in a source, opened, beside what lies open in it."""
    official = {archive.name for archive in (*spec.archives, *spec.other_archives)} if spec else set()
    chosen = [name for name in nested if name.rsplit("/", 1)[-1] in official][:1] or nested
    parts: list[Source] = []
    for name in chosen:
        inner = open_source(stack.enter_context(source.on_disk(name)))
        top = name.rsplit("/", 1)[-1].split(".")[0]
        if len(chosen) > 1 and not all(member.startswith(f"{top}/") for member in inner.members):
            inner = RenamedSource(inner, {f"{top}/{member}": member for member in inner.members})
        parts.append(inner)
    rest = {name: name for name in source.members if name not in nested}
    return JoinedSource(source.path, [*parts, RenamedSource(source, rest)])


def _unofficial(source: Source, options: ReadOptions, on_images: OnImages) -> Parts | None:
    for table in tables_of(source) if has_images(source) else []:
        parts = read_table(source, table, options, on_images)
        if parts is not None:
            return parts
    if has_images(source):
        return read_class_folders(source, options, on_images)
    records = [name for name in source.members if is_record_file(name)]
    if records:
        return read_records(source, records, options, on_images)
    arrays = [name for name in source.members if is_array(name)]
    if arrays:
        return read_arrays(source, arrays, options, on_images)
    return None
