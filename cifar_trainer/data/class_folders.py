"""Image files that lie in a folder for each class, or that a CSV file gives labels to."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from cifar_trainer.data.dataset import OnImages
from cifar_trainer.data.parts import Decoder, Parts, ReadOptions, stacked
from cifar_trainer.data.sources import Source, abridged
from cifar_trainer.errors import DataError, printable
from cifar_trainer.images import SUFFIXES

#: Names of folders that hold a part of the images.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
#: Files beside images that explain them.
_DOCUMENTS = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".ini",
    ".log", ".license", ".py", ".ipynb",
)  # fmt: skip
#: What people call the columns of a table of images.
_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "filepath", "id", "image_id")
_LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")

EXPECTED_LAYOUT = (
    "Expected train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE, or images and a CSV file with the "
    "columns file and label."
)
_KAGGLE = (
    "This is the training set of Kaggle's competition, which does not publish the labels of its test images."
)

#: A member, its split (`all` where there is none) and its class.
Labelled = tuple[str, str, str]


def has_images(source: Source) -> bool:
    """Whether a member is an image by its suffix."""
    return any(name.lower().endswith(SUFFIXES) for name in source.members)


def tables_of(source: Source) -> list[str]:
    """The CSV files that may say the labels of images, those of the outermost folder."""
    found = [name for name in source.members if name.lower().endswith(".csv") and name.count("/") < 2]
    # Kaggle's example of what to hand in has a label for each test image: always "cat".
    return [name for name in found if not name.lower().endswith("samplesubmission.csv")]


def read_class_folders(source: Source, options: ReadOptions, on_images: OnImages) -> Parts:
    """Read every image of a source whose classes are folders.

    The images of a part come in turn from each class, each class in the order of its names: the order
    does not depend on how an archive is packed, and the first N images hold all classes.

    Args:
        source: where they lie.
        options: how to read them.
        on_images: told how many are read, and of how many.

    Raises:
        DataError: an image lies where none is expected or cannot be read, or a class is missing.
    """
    return _read(source, _by_folder(source), options, on_images)


def read_table(source: Source, table: str, options: ReadOptions, on_images: OnImages) -> Parts | None:
    """Read the images that a CSV file names, with the labels that it gives them.

    Args:
        source: where the table and the images lie.
        table: the CSV file.
        options: how to read them.
        on_images: told how many are read, and of how many.

    Returns:
        None where the file is no table of images and labels.

    Raises:
        DataError: it names a file that is missing, or one that cannot be read.
    """
    rows = _rows(source, table)
    if rows is None:
        return None
    parts = _read(source, _resolved(source, table, rows), options, on_images)
    if table.rsplit("/", 1)[-1].lower() == "trainlabels.csv":
        return Parts(parts.classes, parts.images, parts.labels, parts.conversions, parts.notes, _KAGGLE)
    return parts


def _read(source: Source, labelled: list[Labelled], options: ReadOptions, on_images: OnImages) -> Parts:
    names, classes = class_names({label for _, _, label in labelled}, options)
    rows = _in_turn((name, split, names[label]) for name, split, label in labelled)
    decoder = Decoder(options)
    decoded: dict[str, np.ndarray] = {}
    for done, (name, content) in enumerate(source.read([name for name, _, _ in rows]), 1):
        image = decoder.decode(content, source.describe(name))
        if image is not None:
            decoded[name] = image
        if done % 500 == 0 or done == len(rows):
            on_images(done, len(rows))
    decoder.check()
    grey = not options.classes and decoder.all_grey
    images, labels = {}, {}
    for part in dict.fromkeys(split for _, split, _ in rows):
        kept = [
            (decoded.pop(name), label) for name, split, label in rows if split == part and name in decoded
        ]
        images[part] = stacked([image for image, _ in kept], options.shape, grey=grey)
        labels[part] = np.array([label for _, label in kept], np.int64)
    return Parts(classes, images, labels, decoder.conversions(kept_grey=grey), decoder.notes(kept_grey=grey))


def _in_turn(labelled: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """One image of each class after the other, part by part."""
    by_class: dict[tuple[str, int], list[str]] = {}
    for name, split, label in labelled:
        by_class.setdefault((split, label), []).append(name)
    ranked = sorted(
        (split, rank, label, name)
        for (split, label), names in by_class.items()
        for rank, name in enumerate(sorted(names))
    )
    return [(name, split, label) for split, _, label, name in ranked]


def class_names(found: set[str], options: ReadOptions) -> tuple[dict[str, int], tuple[str, ...]]:
    """The label of each name that was found, and the names by label.

    Names of a data set that is known, also written in another way (`Airplane`, `0_airplane`, `plane`),
    get its labels; all others are sorted, numbers in them by their value.
    """
    canonical = {name: _canonical(name, options) for name in found}
    known = set(options.classes)
    if known and set(canonical.values()) <= known and len(set(canonical.values())) == len(found):
        return {n: options.classes.index(c) for n, c in canonical.items()}, options.classes
    ordered = sorted(found, key=natural_key)
    # A class's name goes into files and onto screens, which hold text of one line.
    return {name: label for label, name in enumerate(ordered)}, tuple(map(printable, ordered))


def _canonical(name: str, options: ReadOptions) -> str:
    plain = re.sub(r"^\d+[\W_]+(?=\D)", "", name.strip()).lower()
    plain = re.sub(r"[\s-]+", "_", plain)
    return options.other_names.get(plain, plain)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts 2 before 10."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _by_folder(source: Source) -> list[Labelled]:
    top = _common_folder([name for name in source.members if name.lower().endswith(SUFFIXES)])
    placed: list[Labelled] = []
    misplaced: list[str] = []
    paths = {name: name.removeprefix(top).split("/") for name in source.members if name.startswith(top)}
    splits = any(len(path) == 3 and path[0].lower() in SPLITS for path in paths.values())
    for name, path in paths.items():
        if splits and len(path) == 3 and path[0].lower() in SPLITS:
            labelled = (name, SPLITS[path[0].lower()], path[1])
        elif not splits and len(path) == 2:
            labelled = (name, "all", path[0])
        else:
            if name.lower().endswith(SUFFIXES):
                misplaced.append(name)
            continue
        if not name.lower().endswith(_DOCUMENTS):
            placed.append(labelled)
    if misplaced or not placed:
        raise DataError(
            f"{source.path}: {_misplaced(misplaced, splits)} {EXPECTED_LAYOUT}"
            if misplaced
            else f"{source.path} holds no images in class folders: it holds {abridged(source.members)}. "
            f"{EXPECTED_LAYOUT}"
        )
    return placed


def _misplaced(names: list[str], splits: bool) -> str:
    others = (
        "others lie in train/CLASS/ or test/CLASS/" if splits else "there are no class folders around them"
    )
    return f"{len(names):,} images lie where none is expected ({abridged(names, 3)}), while {others}."


def _common_folder(names: list[str]) -> str:
    """The folders around all images, as a prefix; those of the parts and classes are not among them."""
    folders = [name.split("/")[:-1] for name in names]
    if not folders:
        return ""
    shortest = min(map(len, folders))
    common = []
    for level in range(shortest - 1):
        here = {folder[level] for folder in folders}
        if len(here) > 1 or next(iter(here)).lower() in SPLITS:
            break
        common.append(folders[0][level])
    return "".join(f"{part}/" for part in common)


def _rows(source: Source, table: str) -> list[tuple[str, str, str]] | None:
    """File, label and part of each row of a CSV file; None where it has no such columns."""
    _, content = next(iter(source.read([table])))
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source.describe(table)} is no CSV file: {error}.") from error
    lines = [line for line in lines if line]
    if not lines:
        return None
    heads = [head.strip().lower() for head in lines[0]]
    file = next((heads.index(name) for name in _FILE_COLUMNS if name in heads), None)
    label = next((heads.index(name) for name in _LABEL_COLUMNS if name in heads), None)
    split = next((heads.index(name) for name in _SPLIT_COLUMNS if name in heads), None)
    if file is None or label is None:
        # Without a line of heads: two columns, the first one of images.
        if len(lines[0]) != 2 or not lines[0][0].lower().endswith(SUFFIXES):
            return None
        file, label, split, body = 0, 1, None, lines
    else:
        body = lines[1:]
    rows = []
    for number, line in enumerate(body, len(lines) - len(body) + 1):
        if len(line) <= max(file, label, split or 0):
            raise DataError(
                f"{source.describe(table)}, line {number}: {len(line)} columns, expected {len(lines[0])}."
            )
        part = "all" if split is None else SPLITS.get(line[split].strip().lower(), "")
        if not part:
            raise DataError(
                f"{source.describe(table)}, line {number}: the part is {line[split or 0]!r:.80}, "
                "expected train, test or validation."
            )
        rows.append((line[file].strip(), line[label].strip(), part))
    return rows


def _resolved(source: Source, table: str, rows: list[tuple[str, str, str]]) -> list[Labelled]:
    """The member that each row names, by its path, its name or its name without a suffix."""
    folder = PurePosixPath(table).parent
    images = [name for name in source.members if name.lower().endswith(SUFFIXES)]
    in_training = table.rsplit("/", 1)[-1].lower() == "trainlabels.csv"
    if in_training:
        # test/1.png is another image than train/1.png, and has no label.
        images = [name for name in images if "/train/" in f"/{name}"]
    places: dict[str, str] = {}
    for name in images:
        path = PurePosixPath(name)
        for key in (name, path.name, path.stem):
            places.setdefault(key, name)
    found: list[Labelled] = []
    missing: list[str] = []
    for file, label, part in rows:
        beside = (folder / file).as_posix()
        place = places.get(beside) or places.get(file) or places.get(PurePosixPath(file).name)
        if place is None:
            missing.append(file)
        else:
            found.append((place, "train" if in_training else part, label))
    if missing:
        raise DataError(
            f"{source.describe(table)} names {len(missing):,} images that are not there: {abridged(missing)}."
        )
    different = {name for name, _, _ in found}
    if len(different) < len(found):
        raise DataError(
            f"{source.describe(table)} names {len(found) - len(different):,} images more than once, or by "
            "names that are not told apart. Expected a row for each image, with its path."
        )
    return found
