"""Read image files whose labels are in a CSV file."""

import dataclasses
import unicodedata
from pathlib import PurePosixPath

from cifar_trainer.data.class_folders import Labelled, read_labelled
from cifar_trainer.data.dataset import ImageSet, OnImages
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.image_lists import parse_csv
from cifar_trainer.data.labels import SPLITS
from cifar_trainer.errors import DataError
from cifar_trainer.images import SUFFIXES

#: Common names of the columns, in lower case.
_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "filepath", "id", "image_id")
_LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")

#: Kaggle's CIFAR-10 competition has labels for its training images only.
_KAGGLE = "trainlabels.csv"
_KAGGLE_NOTE = (
    "This is the training set of Kaggle's competition, which does not publish the labels of its test images."
)


def read_csv(folder: Folder, options: ReadOptions, on_images: OnImages) -> ImageSet | None:
    """Read the images listed in a CSV file; None if no CSV file lists images and labels."""
    for table in _tables(folder) if folder.has_images else []:
        rows = _rows(folder, table)
        if rows is None:
            continue
        found = read_labelled(folder, _resolved(folder, table, rows), options, on_images)
        if _is_kaggles(table):
            return dataclasses.replace(found, notes=(_KAGGLE_NOTE, *found.notes))
        return found
    return None


def _tables(folder: Folder) -> list[str]:
    """The CSV files in the outer folders, except Kaggle's sample submission."""
    found = [name for name in folder.files if name.lower().endswith(".csv") and name.count("/") < 2]
    return [name for name in found if not name.lower().endswith("samplesubmission.csv")]


def _is_kaggles(table: str) -> bool:
    return table.rsplit("/", 1)[-1].lower() == _KAGGLE


def _rows(folder: Folder, table: str) -> list[tuple[str, str, str]] | None:
    """The file, label and split of each row; None if these columns are missing."""
    lines = parse_csv(folder.read(table), folder.describe(table))
    if not lines:
        return None
    heads = [head.strip().lower() for head in lines[0][1]]
    file, label, split = (
        next((heads.index(name) for name in names if name in heads), None)
        for names in (_FILE_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    )
    if file is not None and label is None and len(heads) == 2:
        # The other column contains the labels, whatever its name.
        label = 1 - file
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
    return rows


def _resolved(folder: Folder, table: str, rows: list[tuple[str, str, str]]) -> list[Labelled]:
    """Find the file of each row by its path, its name, or its name without the suffix."""
    beside = PurePosixPath(table).parent
    images = [name for name in folder.files if name.lower().endswith(SUFFIXES)]
    if _is_kaggles(table):
        # test/1.png is not train/1.png, and has no label.
        images = [name for name in images if "/train/" in f"/{name}"]
    places: dict[str, str] = {}
    for name in images:
        path = PurePosixPath(_composed(name))
        for key in (str(path), path.name, path.stem):
            places.setdefault(key, name)
    found: list[Labelled] = []
    missing: list[str] = []
    for file, label, split in rows:
        path = PurePosixPath(_composed(file))
        place = places.get((beside / path).as_posix()) or places.get(str(path)) or places.get(path.name)
        if place is None:
            missing.append(file)
        else:
            found.append((place, "train" if _is_kaggles(table) else split, label))
    where = folder.describe(table)
    if missing:
        raise DataError(f"{where} lists {len(missing):,} missing images: {abridged(missing)}.")
    different = {name for name, _, _ in found}
    if len(different) < len(found):
        raise DataError(
            f"{where} lists {len(found) - len(different):,} images twice, or by ambiguous names. "
            "Expected one row per image, with its path."
        )
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
