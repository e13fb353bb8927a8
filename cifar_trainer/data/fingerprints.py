"""Identify data sets by content, regardless of format, order and class names."""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec, Fingerprints, ImageSet, Split
from cifar_trainer.data.mapped import parts


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the concatenated, sorted SHA-256 digests of all images' records.

    A record is the label, then the pixels row by row, channels interleaved. The label is one byte, or two for
    more than 256 classes (uint16, low byte first).

    Args:
        images: uint8 [N, H, W, C].
        labels: uint8 or uint16 [N].
    """
    rows = labels.astype(labels.dtype.newbyteorder("<"), copy=False).reshape(len(labels), 1)
    return _combined(_digests(images, rows.view(np.uint8)))


def pixel_fingerprint(images: np.ndarray) -> str:
    """The fingerprint of records without labels."""
    return _combined(_digests(images, np.empty((len(images), 0), np.uint8)))


def fingerprints_of(found: ImageSet) -> Fingerprints:
    """All fingerprints of a data set."""
    train, test = found.splits["train"], found.splits["test"]
    return Fingerprints(
        fingerprint(train.images, train.labels),
        fingerprint(test.images, test.labels),
        pixel_fingerprint(train.images),
        pixel_fingerprint(test.images),
        _by_class(train, len(found.classes)),
        _by_class(test, len(found.classes)),
    )


def with_true_classes(found: ImageSet, spec: DatasetSpec) -> ImageSet:
    """Use the class names and labels of `spec` if `found` has its images.

    Classes are compared by their images only, regardless of name and order. A note lists the renamed classes,
    or says that the images are in the wrong classes.
    """
    known = spec.fingerprints
    if known is None or not known.train_pixels or found.image_shape != spec.image_shape:
        return found
    train, test = found.splits["train"], found.splits["test"]
    if found.classes == spec.classes and fingerprint(test.images, test.labels) == known.test:
        return found
    by_class = _by_class(test, len(found.classes))
    if set(by_class) != set(known.test_classes):
        return _with_label_note(found, spec, known)
    order = [known.test_classes.index(digest) for digest in by_class]
    if _by_class(train, len(found.classes)) != tuple(known.train_classes[label] for label in order):
        return _with_label_note(found, spec, known)
    pairs = [(name, spec.classes[label]) for name, label in zip(found.classes, order, strict=True)]
    named = ", ".join(f"{name} is {true}" for name, true in pairs if name != true)
    note = f"The images are {spec.title}'s under different class names: {named}. The true names are used."
    table = np.array(order, np.uint8)
    splits = {
        name: dataclasses.replace(split, labels=table[split.labels]) for name, split in found.splits.items()
    }
    notes = (*found.notes, note) if named else found.notes
    return dataclasses.replace(found, classes=spec.classes, splits=splits, notes=notes)


def _with_label_note(found: ImageSet, spec: DatasetSpec, known: Fingerprints) -> ImageSet:
    """Add a note if the images are those of `spec`, but the labels are not."""
    for name, pixels in (("test", known.test_pixels), ("train", known.train_pixels)):
        if pixel_fingerprint(found.splits[name].images) != pixels:
            return found
    note = f"The images are {spec.title}'s, but some are in different classes, so this is not {spec.title}."
    return dataclasses.replace(found, notes=(*found.notes, note))


def _by_class(split: Split, classes: int) -> tuple[str, ...]:
    digests = np.array(list(_digests(split.images, np.empty((len(split), 0), np.uint8))), object)
    return tuple(_combined(digests[split.labels == label]) for label in range(classes))


def _digests(images: np.ndarray, prefixes: np.ndarray) -> Iterable[bytes]:
    """SHA-256 of each prefix, uint8 [N, P], followed by the pixels of its image."""
    for start, part in parts(images):
        for prefix, image in zip(prefixes[start : start + len(part)], part, strict=True):
            yield hashlib.sha256(prefix.tobytes() + image.tobytes()).digest()


def _combined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
