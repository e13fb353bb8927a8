"""Read image files whose labels are in a CSV file."""

import dataclasses
import unicodedata
from pathlib import PurePosixPath

from cifar_trainer.data.class_folders import Labelled, read_labelled
from cifar_trainer.data.dataset import ImageSet, OnImages
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.image_lists import parse_csv
from cifar_trainer.data.labels import SPLITS, split_of_file
from cifar_trainer.errors import DataError, counted
from cifar_trainer.images import SUFFIXES

#: Common names of the columns, in lower case.
_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "filepath", "id", "image_id")
_LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")

#: The file, label and split of an image; the split is `all` if it is unknown.
Row = tuple[str, str, str]

#: Kaggle's CIFAR-10 competition has labels for its training images only.
_KAGGLE = "trainlabels.csv"
_KAGGLE_NOTE = (
    "This is the training set of Kaggle's competition, which does not publish the labels of its test images."
)


def read_csv(folder: Folder, options: ReadOptions, on_images: OnImages) -> ImageSet | None:
    """Read the images listed in CSV files; None if no CSV file lists images and labels.

    Several CSV files must each name a split, such as `train.csv` and `test.csv`, or have a column with it.
    """
    if not folder.has_images:
        return None
    listed = {table: rows for table in _tables(folder) if (rows := _rows(folder, table)) is not None}
    if not listed:
        return None
    if len(listed) > 1:
        listed = {table: _with_split(table, rows) for table, rows in listed.items()}
        if any(split == "all" for rows in listed.values() for _, _, split in rows):
            raise DataError(
                f"{folder.path} has several CSV files that list images: {abridged(listed)}. Name each after "
                "train, test or validation, or keep only one."
            )
    labelled = [found for table, rows in listed.items() for found in _resolved(folder, table, rows)]
    different = {name for name, _, _ in labelled}
    if len(different) < len(labelled):
        raise DataError(
            f"{folder.path}: {abridged(listed)} lists {counted(len(labelled) - len(different), 'image')} "
            "twice. Expected one row per image."
        )
    found = read_labelled(folder, labelled, options, on_images)
    if any(map(_is_kaggles, listed)):
        return dataclasses.replace(found, notes=(_KAGGLE_NOTE, *found.notes))
    others = len(_images(folder)) - len(different)
    if others:
        left_out = f"Warning: {counted(others, 'image')} left out, not listed in {abridged(listed)}."
        return dataclasses.replace(found, notes=(left_out, *found.notes))
    return found


def _tables(folder: Folder) -> list[str]:
    """The CSV files in the outer folders, except Kaggle's sample submission."""
    found = [name for name in folder.files if name.lower().endswith(".csv") and name.count("/") < 2]
    return [name for name in found if not name.lower().replace("_", "").endswith("samplesubmission.csv")]


def _images(folder: Folder) -> list[str]:
    return [name for name in folder.files if name.lower().endswith(SUFFIXES)]


def _with_split(table: str, rows: list[Row]) -> list[Row]:
    """The rows; those without a split get the one that their CSV file is named after."""
    named = split_of_file(table)
    return [(file, label, named if split == "all" else split) for file, label, split in rows]


def _is_kaggles(table: str) -> bool:
    return table.rsplit("/", 1)[-1].lower() == _KAGGLE


def _rows(folder: Folder, table: str) -> list[Row] | None:
    """The rows of a CSV file; None if it has no columns with files and labels."""
    lines = parse_csv(folder.read(table), folder.describe(table))
    if not lines:
        return None
    heads = [head.strip().lower() for head in lines[0][1]]
    file, label, split = (
        next((heads.index(name) for name in names if name in heads), None)
        for names in (_FILE_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    )
    if file == 0 and label is None and len(heads) == 2:
        label = 1
    body = lines[1:]
    if file is None or label is None:
        # No header: two columns, of which the first contains image files.
        if len(heads) != 2 or not heads[0].endswith(SUFFIXES):
            return None
        file, label, split, body = 0, 1, None, lines
    rows = []
    for number, line in body:
        if len(line) <= max(file, label, split or 0):
            raise DataError(
                f"{folder.describe(table)}, line {number}: {len(line)} columns, expected {len(heads)}."
            )
        part = "all" if split is None else SPLITS.get(line[split].strip().lower(), "")
        if not part:
            raise DataError(
                f"{folder.describe(table)}, line {number}: the split is {line[split or 0]!r:.80}, "
                "expected train, test or validation."
            )
        rows.append((line[file].strip(), line[label].strip(), part))
    unlabelled = [name for name, value, _ in rows if not value]
    if unlabelled:
        raise DataError(
            f"{folder.describe(table)} has {counted(len(unlabelled), 'image')} without a label: "
            f"{abridged(unlabelled)}. Add the labels, or remove the rows."
        )
    return rows


def _resolved(folder: Folder, table: str, rows: list[Row]) -> list[Labelled]:
    """Find the file of each row by its path or a part of it, with or without the suffix."""
    beside = PurePosixPath(table).parent
    images = _images(folder)
    if _is_kaggles(table):
        # test/1.png is not train/1.png, and has no label.
        images = [name for name in images if "/train/" in f"/{name}"]
    # The images by path, and by each end of their path; several with the same key have an empty place.
    whole: dict[str, str] = {}
    ends: dict[str, str] = {}
    for name in images:
        path = PurePosixPath(_composed(name))
        for known in (path, path.with_suffix("")):
            whole[str(known)] = name if str(known) not in whole else ""
            for end in _ends(known):
                ends[end] = name if end not in ends else ""
    found: list[Labelled] = []
    missing: list[str] = []
    for file, label, split in rows:
        path = PurePosixPath(_composed(file))
        places = [whole.get(str(beside / path)), whole.get(str(path)), ends.get(str(path))]
        # The path may begin with folders of another machine.
        places += [whole.get(end) for end in _ends(path)]
        place = next(filter(None, places), None)
        if place is None:
            missing.append(file)
        else:
            found.append((place, "train" if _is_kaggles(table) else split, label))
    if missing:
        raise DataError(
            f"{folder.describe(table)} lists images that are missing, or that several files may be: "
            f"{abridged(missing)}. Expected the path of each image."
        )
    return found


def _ends(path: PurePosixPath) -> list[str]:
    """The path without its first folder, without its first two folders, and so on."""
    return ["/".join(path.parts[start:]) for start in range(1, len(path.parts))]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
