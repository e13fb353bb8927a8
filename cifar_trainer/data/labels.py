"""Number the classes of a source, and label its images, from names or numbers."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec
from cifar_trainer.data.folder import abridged
from cifar_trainer.errors import DataError, counted, printable

MIN_CLASSES, MAX_CLASSES = 2, 1000
#: Names of splits: of folders, in CSV files, and words in the names of arrays and files. `t10k` is MNIST's.
SPLITS = {
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}

#: The class names, the label of each name in the source, and notes.
Classes = tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]


def number_names(found: Iterable[str], spec: DatasetSpec | None) -> Classes:
    """The classes for the names in a source.

    Names of a known data set, even in a different spelling (`Airplane`, `0_airplane`, `plane`), get its
    labels. Other names are sorted, with the numbers in them by value. Unicode's composed and decomposed forms
    of a name are one class.
    """
    names = set(found)
    notes = []
    if spec is not None:
        canonical = {name: _canonical(name, spec) for name in names}
        if set(canonical.values()) <= set(spec.classes) and len(set(canonical.values())) == len(names):
            others = {name: true for name, true in canonical.items() if name.lower() != true}
            if others:
                taken = ", ".join(f"{printable(name)} is {true}" for name, true in sorted(others.items()))
                notes.append(f"The folders are named after {spec.title}'s classes: {taken}.")
            return spec.classes, {n: spec.classes.index(c) for n, c in canonical.items()}, tuple(notes)
    composed = {name: unicodedata.normalize("NFC", name) for name in names}
    ordered = sorted(set(composed.values()), key=natural_key)
    if len(ordered) < len(names):
        notes.append(
            f"{counted(len(names) - len(ordered), 'class name')} in two Unicode forms; both are one class."
        )
    alike = [name for name, count in Counter(name.casefold() for name in ordered).items() if count > 1]
    if alike:
        notes.append(f"Warning: classes differ only in upper and lower case: {abridged(alike)}.")
    # Class names are written to files and screens, so they must be one line of text.
    index = {name: label for label, name in enumerate(ordered)}
    return (
        tuple(map(printable, ordered)),
        {name: index[plain] for name, plain in composed.items()},
        tuple(notes),
    )


def _canonical(name: str, spec: DatasetSpec) -> str:
    plain = re.sub(r"^\d+[\W_]+(?=\D)", "", name.strip()).lower()
    plain = re.sub(r"[\s-]+", "_", plain)
    return spec.other_names.get(plain, plain)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def split_of(words: set[str]) -> str:
    """The split that one of the words names; `all` if none does."""
    return next((split for name, split in SPLITS.items() if name in words), "all")


def split_of_file(file: str) -> str:
    """The split that a word of a file's name names, or else a folder around it; `all` if none does."""
    *folders, name = file.lower().split("/")
    around = next((SPLITS[folder] for folder in reversed(folders) if folder in SPLITS), "all")
    split = split_of(set(re.split(r"[^a-z0-9]+", name)))
    return around if split == "all" else split


def flat_labels(labels: np.ndarray) -> np.ndarray:
    """One label per image, from one-hot rows, or from a single row or column of labels."""
    one_hot = labels.ndim == 2 and min(labels.shape) > 1
    return labels.argmax(1) if one_hot else labels.reshape(-1)


def number_labels(
    labels: Mapping[str, np.ndarray], names: Sequence[str], spec: DatasetSpec | None, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], tuple[str, ...]]:
    """The class names, the labels of each split as int64 [N] from 0, and notes.

    Args:
        labels: numbers or names of each split, [N].
        names: the class names, if the source has them.
        spec: the requested data set; None for your own classes.
        where: the source, for messages.
    """
    if any(values.dtype.kind in "USO" for values in labels.values()):
        texts = {split: list(map(_text, values)) for split, values in labels.items()}
        empty = sum(found.count("") for found in texts.values())
        if empty:
            raise DataError(f"{where} has {counted(empty, 'image')} without a label.")
        classes, index, notes = number_names({text for found in texts.values() for text in found}, spec)
        named = {split: np.array([index[text] for text in found], np.int64) for split, found in texts.items()}
        return classes, named, notes
    numbers = {}
    for split, values in labels.items():
        if values.dtype.kind == "f" and not (np.isfinite(values) & (np.trunc(values) == values)).all():
            of = "" if split == "all" else f"{split} "
            raise DataError(f"{where}: the {of}labels are fractions, expected whole numbers.")
        numbers[split] = values.astype(np.int64)
    found = np.unique(np.concatenate(list(numbers.values()))).tolist()
    low, high = found[0], found[-1]
    known = tuple(names) or (spec.classes if spec else ())
    if low < 0 or (not known and len(found) > MAX_CLASSES):
        raise DataError(f"{where}: the labels are {low} to {high}, expected 0 to {MAX_CLASSES - 1}.")
    if not known:
        # The same names and order as class folders would give.
        note = f"The labels are {len(found)} numbers, {low} to {high}. They become the class names."
        return (
            tuple(map(str, found)),
            {split: np.searchsorted(found, values) for split, values in numbers.items()},
            () if found == list(range(len(found))) else (note,),
        )
    if low == 1 and high == len(known):
        # MATLAB counts from 1.
        numbers, low, high = {split: values - 1 for split, values in numbers.items()}, 0, high - 1
    if high >= len(known):
        raise DataError(f"{where}: the labels are {low} to {high}, expected 0 to {len(known) - 1}.")
    return known, numbers, ()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value)


def check_labels(labels: np.ndarray, classes: int, where: str, first: int = 0) -> None:
    """Raise DataError for the first record with a label outside `first` to `first + classes - 1`."""
    wrong = np.flatnonzero((labels < first) | (labels >= first + classes))
    if len(wrong):
        raise DataError(
            f"{where}, record {wrong[0]}: the label is {labels[wrong[0]]}, "
            f"expected {first} to {first + classes - 1}."
        )
