"""Read image files in one folder per class."""

from collections.abc import Iterable

import numpy as np

from cifar_trainer.data.dataset import ImageSet, OnImages
from cifar_trainer.data.decoding import Decoder, ReadOptions
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import SPLITS, number_names
from cifar_trainer.errors import DataError, counted, printable
from cifar_trainer.images import SUFFIXES

#: Suffixes of documents that may lie beside images.
_DOCUMENTS = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".ini",
    ".log", ".license", ".py", ".ipynb",
)  # fmt: skip
EXPECTED_LAYOUT = (
    "Expected train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE, or images and a CSV file with the "
    "columns file and label."
)

#: A file, its split (`all` without splits) and its class.
Labelled = tuple[str, str, str]


def read_class_folders(folder: Folder, options: ReadOptions, on_images: OnImages) -> ImageSet | None:
    """Read images from class folders; None if there are no images."""
    return read_labelled(folder, _find(folder), options, on_images) if folder.has_images else None


def read_labelled(
    folder: Folder, labelled: list[Labelled], options: ReadOptions, on_images: OnImages
) -> ImageSet:
    """Read image files whose classes are known.

    The classes alternate, each in the order of its file names. The order therefore does not depend on how an
    archive was packed, and the first N images contain all classes.
    """
    classes, index, notes = number_names({label for _, _, label in labelled}, options.spec)
    rows = _in_turn((name, split, index[label]) for name, split, label in labelled)
    decoder = Decoder(options)
    for done, (name, split, label) in enumerate(rows, 1):
        decoder.add(lambda: folder.read(name), lambda: folder.describe(name), split, label, name)  # noqa: B023
        if done % 500 == 0 or done == len(rows):
            on_images(done, len(rows))
    decoder.check()
    labels = {split: np.array([label for label, _ in kept], np.int64) for split, kept in decoder.kept.items()}
    return decoder.finish(classes, labels, notes)


def _in_turn(labelled: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Order the files by split, with the classes alternating."""
    by_class: dict[tuple[str, int], list[str]] = {}
    for name, split, label in labelled:
        by_class.setdefault((split, label), []).append(name)
    ranked = sorted(
        (split, rank, label, name)
        for (split, label), names in by_class.items()
        for rank, name in enumerate(sorted(names))
    )
    return [(name, split, label) for split, _, label, name in ranked]


def _find(folder: Folder) -> list[Labelled]:
    """Find the split and class of each image from its folders."""
    pictures = [name for name in folder.files if name.lower().endswith(SUFFIXES)]
    top = _common_folder(pictures)
    paths = {name: name.removeprefix(top).split("/") for name in folder.files if name.startswith(top)}
    of_pictures = [paths[name] for name in pictures]
    if any(len(path) > 2 and path[0].lower() in SPLITS for path in of_pictures):
        split_at, class_at, layout = 0, 1, "train/CLASS/ or test/CLASS/"
    elif all(len(path) > 2 and path[1].lower() in SPLITS for path in of_pictures):
        split_at, class_at, layout = 1, 0, "CLASS/train/ or CLASS/test/"
    else:
        split_at, class_at, layout = -1, 0, "folders named after their classes"
    depth = 1 if split_at < 0 else 2
    placed: list[Labelled] = []
    misplaced: list[str] = []
    for name, path in paths.items():
        is_picture = name.lower().endswith(SUFFIXES)
        fits = len(path) > depth if is_picture else len(path) == depth + 1
        if fits and (split_at < 0 or path[split_at].lower() in SPLITS):
            if not name.lower().endswith(_DOCUMENTS):
                placed.append(
                    (name, "all" if split_at < 0 else SPLITS[path[split_at].lower()], path[class_at])
                )
        elif is_picture:
            misplaced.append(name)
    if misplaced:
        others = f" Others are in {layout}." if placed else ""
        raise DataError(
            f"{folder.path} has {counted(len(misplaced), 'image')} outside the class folders "
            f"({abridged(misplaced, 3)}).{others} {_advice([paths[name] for name in misplaced])}"
        )
    return placed


def _advice(misplaced: list[list[str]]) -> str:
    unlabelled = {path[0] for path in misplaced if len(path) == 2 and path[0].lower() in SPLITS}
    if len(unlabelled) == 1 and all(path[0] in unlabelled for path in misplaced):
        folder = printable(next(iter(unlabelled)))
        return (
            f"Without class folders in {folder}/ their labels are unknown. Move {folder}/ out of the source, "
            "and add --test-fraction 0.2."
        )
    return EXPECTED_LAYOUT


def _common_folder(names: list[str]) -> str:
    """The prefix of folders that contain all images, without those of splits and classes."""
    folders = [name.split("/")[:-1] for name in names]
    common = []
    for level in range(min(map(len, folders)) - 1):
        here = {folder[level] for folder in folders}
        if len(here) > 1 or next(iter(here)).lower() in SPLITS:
            break
        common.append(folders[0][level])
    return "".join(f"{part}/" for part in common)
