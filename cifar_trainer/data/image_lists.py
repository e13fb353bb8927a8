"""CSV files that list images of a data set: corrections (--relabel) and groups (--keep-groups)."""

import csv
import dataclasses
import io
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from cifar_trainer import files
from cifar_trainer.data.dataset import Corrections, Groups, ImageSet, Split
from cifar_trainer.data.disk import reason
from cifar_trainer.data.folder import abridged
from cifar_trainer.errors import DataError, printable

T = TypeVar("T")

#: The label that deletes an image, unless it is the name of a class.
DELETE = "delete"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: its line number from 1, the file or the split and index of an image, and the value."""

    line: int
    file: str
    split: str
    index: str
    value: str

    def __str__(self) -> str:
        return f"line {self.line} ({printable(self.file or f'{self.split} {self.index}')})"


@dataclasses.dataclass(frozen=True)
class ImageList:
    """A CSV file with a value for each image that it lists.

    Attributes:
        option: the option that it belongs to.
        path: the path as given.
        sha256: SHA-256 of the file in hexadecimal.
    """

    option: str
    path: str
    sha256: str
    rows: tuple[Row, ...]

    def refuse(self, why: str) -> DataError:
        """The error for a file that does not fit the data set."""
        return DataError(f"{self.option} {self.path} {why}")

    def locate(
        self, splits: Mapping[str, Split], prepared: Mapping[str, Split] | None = None
    ) -> dict[tuple[str, int], Row]:
        """Find the row of each listed image, by the image's split and index.

        Images are found by file name, or if that is empty or shared, by split and index.

        Args:
            splits: the images.
            prepared: those of them in which a row's index counts; all by default.

        Raises:
            DataError: an image is unknown, ambiguous, or listed twice.
        """
        places: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, split in splits.items():
            for index, file in enumerate(split.files):
                places[_composed(file)].append((name, index))
        found: dict[tuple[str, int], Row] = {}
        unknown, ambiguous, repeated = [], [], []
        for row in self.rows:
            by_index = _at(row, prepared or splits)
            here = (_find(places, row.file) or []) if row.file else by_index
            if len(here) > 1:
                here = by_index or [place for place in here if place[0] == row.split] or here
            if not here:
                unknown.append(str(row))
            elif len(here) > 1:
                ambiguous.append(str(row))
            elif here[0] in found:
                first = found[here[0]]
                repeated.append(f"{first}: {printable(first.value)}, and {row}: {printable(row.value)}")
            else:
                found[here[0]] = row
        if unknown:
            hint = "as in train_files.txt and test_files.txt" if places else "but this source has none"
            raise self.refuse(
                f"lists images that are not in the data set: {abridged(unknown)}. "
                f"Expected file names, {hint}."
            )
        if ambiguous:
            raise self.refuse(
                f"lists file names that several images share: {abridged(ambiguous)}. Add the column split."
            )
        if repeated:
            raise self.refuse(f"lists images twice: {abridged(repeated, 3)}. Keep one row per image.")
        return found


def read_image_list(path: str | Path | None, option: str, column: str, *, by_index: bool) -> ImageList | None:
    """Read a CSV file with the columns `file` and `column`; other columns are ignored. None if `path` is
    None.

    With `by_index`, the columns `split` and `index` may replace `file`. Raises DataError if the file cannot
    be read or lacks a column.
    """
    if path is None:
        return None
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"{option} {path} cannot be read: {reason(error)}.") from error
    lines = parse_csv(content, f"{option} {path}")
    heads = [head.strip().lower() for head in lines[0][1]] if lines else []
    named = "file" in heads or (by_index and {"split", "index"} <= set(heads))
    if not named or column not in heads:
        expected = "file (or split and index)" if by_index else "file"
        raise DataError(
            f"{option} {path} starts with {', '.join(heads)[:80]!r}, expected a header with the columns "
            f"{expected} and {column}."
        )
    rows = []
    for line, values in lines[1:]:
        if len(values) != len(heads):
            raise DataError(
                f"{option} {path}, line {line}: {len(values)} columns, expected {len(heads)}. Quote names "
                "that contain a comma."
            )
        row = dict(zip(heads, values, strict=True))
        split, index, value = (row.get(name, "").strip() for name in ("split", "index", column))
        rows.append(Row(line, row.get("file", ""), split, index if by_index else "", value))
    return ImageList(option, str(path), files.sha256_bytes(content), tuple(rows))


def parse_csv(content: bytes, where: str) -> list[tuple[int, list[str]]]:
    """The rows, except empty ones, of a CSV file with commas or semicolons, and their line numbers."""
    try:
        text = content.decode("utf-8-sig")
        head = text.partition("\n")[0]
        # In some languages, spreadsheets write semicolons.
        delimiter = ";" if ";" in head and "," not in head else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        return [(reader.line_num, row) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is not a CSV file: {error}.") from error


def correct_labels(
    found: ImageSet, corrections: ImageList, prepared: Mapping[str, Split], scratch: Path | None
) -> ImageSet:
    """Apply corrections to a training and a test set: change labels and delete images.

    Args:
        found: the images.
        corrections: the file of --relabel.
        prepared: the images as prepared without it, in which a row's index counts.
        scratch: a folder for temporary files (`Split.take`).

    Raises:
        DataError: an image or a label is unknown, or an image is listed twice.
    """
    numbers = {name: label for label, name in enumerate(found.classes)}
    rows = corrections.locate(found.splits, prepared)
    labels = {place: _find(numbers, row.value) for place, row in rows.items()}
    unknown = [
        f"{row}: {printable(row.value)!r}"
        for place, row in rows.items()
        if labels[place] is None and row.value != DELETE
    ]
    if unknown:
        raise corrections.refuse(
            f"has unknown labels: {abridged(unknown)}. Expected {DELETE}, or a class: "
            f"{abridged(found.classes, 20)}."
        )
    relabelled = deleted = 0
    splits = {}
    for name, split in found.splits.items():
        changed, kept = split.labels.copy(), np.ones(len(split), bool)
        for (where, index), label in labels.items():
            if where == name and label is None:
                kept[index] = False
            elif where == name:
                changed[index] = label
        relabelled += int((changed != split.labels).sum())
        deleted += int((~kept).sum())
        splits[name] = dataclasses.replace(split, labels=changed)
        if not kept.all():
            splits[name] = splits[name].take(np.flatnonzero(kept), scratch)
    record = Corrections(corrections.path, corrections.sha256, relabelled, deleted)
    return dataclasses.replace(found, splits=splits, corrections=record)


def with_groups(found: ImageSet, groups: ImageList) -> ImageSet:
    """Give each image the number of its group.

    Raises:
        DataError: an image is unknown or listed twice, or a group is empty.
    """
    rows = groups.locate(found.splits)
    empty = [str(row) for row in rows.values() if not row.value]
    if empty:
        raise groups.refuse(f"has rows without a group: {abridged(empty)}.")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.value for row in rows.values()))}
    members = {name: np.full(len(split), -1, np.int32) for name, split in found.splits.items()}
    for (split, index), row in rows.items():
        members[split][index] = numbers[row.value]
    splits = {name: dataclasses.replace(split, groups=members[name]) for name, split in found.splits.items()}
    record = Groups(groups.path, groups.sha256, len(numbers), len(rows))
    return dataclasses.replace(found, splits=splits, groups=record)


def _at(row: Row, splits: Mapping[str, Split]) -> list[tuple[str, int]]:
    """The image at a row's split and index, by its position in the whole split."""
    split = splits.get(row.split)
    if split is None or not row.index.isdecimal() or int(row.index) >= len(split):
        return []
    index = int(row.index)
    return [(row.split, index if split.indices is None else int(split.indices[index]))]


def _find(named: Mapping[str, T], text: str) -> T | None:
    """Look up a name; an apostrophe before it may keep a spreadsheet from running it as a formula."""
    name = _composed(printable(text))
    return named.get(name, named.get(name.removeprefix("'")))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
