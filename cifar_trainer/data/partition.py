"""Turn the images of a source into a training set and a test set."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.folder import abridged
from cifar_trainer.data.image_lists import correct_labels, with_groups
from cifar_trainer.data.labels import MAX_CLASSES, MIN_CLASSES
from cifar_trainer.data.splits import stratified_part
from cifar_trainer.errors import DataError, counted


def to_train_and_test(found: ImageSet, options: ReadOptions, where: str) -> ImageSet:
    """Make a training and a test set from the splits in a source; `where` is the source, for messages.

    Raises:
        DataError: a test set is missing and cannot be split off, or --keep-groups does not fit.
        UsageError: --test-fraction is set, but there is a test set.
    """
    if not MIN_CLASSES <= len(found.classes) <= MAX_CLASSES:
        raise DataError(
            f"Expected {MIN_CLASSES} to {MAX_CLASSES:,} classes; {where} has {len(found.classes):,} "
            f"({abridged(found.classes)})."
        )
    if options.groups is not None:
        found = with_groups(found, options.groups)
    splits, notes = dict(found.splits), list(found.notes)
    if "all" in splits and "train" not in splits:
        # Images that name no split, beside those for tests.
        splits["train"] = splits.pop("all")
    if "all" in splits:
        unknown = counted(len(splits.pop("all")), "image")
        raise DataError(
            f"{where} has {unknown} of an unknown split beside those of {abridged(splits)}. Remove their "
            "files or arrays, or name them after train, test or validation."
        )
    if "train" not in splits:
        raise DataError(f"{where} has no training images, only those of {abridged(splits)}.")
    if "validation" in splits:
        _place_validation(splits, notes)
    if "test" not in splits:
        _make_test_set(found, options, where, splits, notes)
        found = dataclasses.replace(found, test_fraction=options.fraction, seed=options.seed)
    else:
        options.refuse_test_fraction(where)
    kind = np.uint8 if len(found.classes) <= 256 else np.uint16
    splits = {
        name: dataclasses.replace(split, labels=split.labels.astype(kind), indices=None)
        for name, split in splits.items()
    }
    return dataclasses.replace(found, splits=splits, notes=tuple(notes))


def correct_and_check(found: ImageSet, options: ReadOptions, where: str) -> ImageSet:
    """Apply --relabel, remove training images from the test set, and check that each class has images.

    Raises:
        DataError: --relabel names unknown images or labels, or a class has no images.
    """
    before = found.splits
    drops = options.spec is None or options.groups is not None
    if options.corrections is not None:
        prepared = dict(found.splits)
        if drops and any(row.index for row in options.corrections.rows):
            # An index counts the images as prepared without --relabel. The notes follow below.
            list(_drop_trained_images(prepared, options, where))
        found = correct_labels(found, options.corrections, prepared, options.scratch)
    splits, notes = dict(found.splits), list(found.notes)
    if drops:
        notes += _drop_trained_images(splits, options, where)
    if options.spec is None:
        notes += _describe_copies(splits["train"], found.classes)
    _check_complete(splits, found, where)
    published = found.published and splits == before
    return dataclasses.replace(found, splits=splits, notes=tuple(notes), published=published)


def _place_validation(splits: dict[str, Split], notes: list[str]) -> None:
    validation = splits.pop("validation")
    if "test" not in splits:
        splits["test"] = validation
        notes.append(f"There is no test set, so the {len(validation):,} validation images are used as one.")
        return
    train = splits["train"]
    grouped = train.groups is not None and validation.groups is not None
    sized = train.sizes is not None and validation.sizes is not None
    splits["train"] = Split(
        np.concatenate([train.images, validation.images]),
        np.concatenate([train.labels, validation.labels]),
        files=(*train.files, *validation.files) if train.files and validation.files else (),
        groups=np.concatenate([train.groups, validation.groups]) if grouped else None,
        sizes=np.concatenate([train.sizes, validation.sizes]) if sized else None,
    )
    notes.append(
        f"The {len(validation):,} validation images were added to the training images; "
        "train --validation holdout holds out a part of them all."
    )


def _make_test_set(
    found: ImageSet, options: ReadOptions, where: str, splits: dict[str, Split], notes: list[str]
) -> None:
    if options.test_fraction is None and options.spec is not None:
        raise DataError(
            f"{' '.join([f'{where} has no test set.', *notes])} Add --test-fraction 0.2 to split one off; "
            f"the results cannot be compared with those on {options.spec.title}."
        )
    every = splits["train"]
    originals = find_originals(every.images, groups=every.groups)
    few = [
        name
        for label, name in enumerate(found.classes)
        if len(np.unique(originals[every.labels == label])) == 1
    ]
    if few:
        raise DataError(
            f"{where} has only one image of {abridged(few)}, not counting copies and members of its group. A "
            "class needs two, one of them for the test set. Add images, or remove the class."
        )
    train, test = stratified_part(every.labels, options.fraction, options.seed, originals)
    together = "" if (originals == np.arange(len(every))).all() else ", with copies and groups kept together"
    splits["train"], splits["test"] = (every.take(rows, options.scratch) for rows in (train, test))
    notes.append(
        f"There is no test set, so {len(test):,} of {len(every):,} images were split off as one: "
        f"a share of {options.fraction:g} of each class{together}, chosen by seed {options.seed}."
    )


def _drop_trained_images(splits: dict[str, Split], options: ReadOptions, where: str) -> Iterable[str]:
    """Remove training images and members of their groups from the test set: accuracy on them is meaningless.

    In known data sets, only members of groups are removed.
    """
    train, test = splits["train"], splits["test"]
    if train.groups is not None and test.groups is not None:
        shared = np.isin(test.groups, train.groups[train.groups >= 0])
        if shared.any():
            splits["test"] = test = _without(test, shared, where)
            yield (
                f"{counted(int(shared.sum()), 'test image')} left out of the test set: grouped with "
                "training images."
            )
    if options.spec is not None:
        return
    originals = find_originals(train.images, test.images)[len(train) :]
    trained = originals < len(train)
    count = int(trained.sum())
    if not count:
        return
    splits["test"] = _without(test, trained, where)
    relabelled = int((train.labels[originals[trained]] != test.labels[trained]).sum())
    others = f", {relabelled:,} of them with another label" if relabelled else ""
    yield f"{counted(count, 'test image')} left out of the test set: also in the training set{others}."


def _without(test: Split, trained: np.ndarray, where: str) -> Split:
    if trained.all():
        raise DataError(
            f"{where}: all {len(test):,} test images are training images or in a group with one, so a test "
            "accuracy would be meaningless. Pass a source with other test images, or without a test set."
        )
    return test.take(np.flatnonzero(~trained))


def _describe_copies(train: Split, classes: tuple[str, ...]) -> Iterable[str]:
    originals = find_originals(train.images)
    copies = originals != np.arange(len(train))
    if not copies.any():
        return
    yield (
        f"{int(copies.sum()):,} of {len(train):,} training images are copies of other images. "
        "train --validation holdout keeps all copies of an image on one side."
    )
    contradict = copies & (train.labels != train.labels[originals])
    if contradict.any():
        pairs = {
            f"{classes[train.labels[originals[index]]]} and {classes[train.labels[index]]}"
            for index in np.flatnonzero(contradict)
        }
        count = counted(int(contradict.sum()), "training image")
        yield (
            f"Warning: {count} with two labels, as copies in different classes ({abridged(pairs)}). "
            "Remove the wrong ones, for example with --relabel."
        )


def _check_complete(splits: dict[str, Split], found: ImageSet, where: str) -> None:
    for name in ("train", "test"):
        missing = set(range(len(found.classes))) - set(np.unique(splits[name].labels).tolist())
        if missing:
            named = abridged(f"{name}/{found.classes[label]}" for label in missing)
            alike = len({each.casefold() for each in found.classes}) < len(found.classes)
            hint = "; names that differ in upper and lower case are different classes" if alike else ""
            left_out = [note for note in found.notes if note.startswith("Left out")]
            problem = f"{where} lacks images for {named}. Expected the same classes for training and testing"
            raise DataError("\n".join([f"{problem}{hint}.", *left_out]))
