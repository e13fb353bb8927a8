"""Recognising a data set by its content, whatever file, order or class names it comes with."""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec, Fingerprints, RawDataset

_CHUNK = 5000


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the concatenated, sorted SHA-256 digests of each image's record.

    A record is the label, then the pixels row by row, channels interleaved. The label is one byte;
    of labels of more than 256 classes (uint16) it is two, the lower first.

    Args:
        images: uint8 [N, H, W, C].
        labels: uint8 or uint16 [N].

    Returns:
        64 hexadecimal digits.
    """
    rows = labels.astype(labels.dtype.newbyteorder("<"), copy=False).reshape(len(labels), 1)
    return _combined(_digests(images, rows.view(np.uint8)))


def pixel_fingerprint(images: np.ndarray) -> str:
    """The same of records without labels."""
    return _combined(_digests(images, np.empty((len(images), 0), np.uint8)))


def fingerprints_of(raw: RawDataset) -> Fingerprints:
    """Everything by which a data set is recognised, measured over all of its images."""
    return Fingerprints(
        fingerprint(*raw.split("train")),
        fingerprint(*raw.split("test")),
        pixel_fingerprint(raw.train_images),
        pixel_fingerprint(raw.test_images),
        *(_by_class(*raw.split(split), len(raw.classes)) for split in ("train", "test")),
    )


def image_digests(images: np.ndarray) -> list[bytes]:
    """The SHA-256 digest of each image's pixels."""
    return list(_digests(images, np.empty((len(images), 0), np.uint8)))


def with_true_classes(raw: RawDataset, spec: DatasetSpec) -> RawDataset:
    """`raw` with the classes of `spec` in their order, where its images are those of `spec`.

    Classes are compared by their images alone, so it does not matter what they are called or how they
    are sorted. The result has a note that says which class was named otherwise; where the images are
    the right ones but in wrong classes, the labels are kept and the note says so.
    """
    known = spec.fingerprints
    if known is None or not known.train_pixels or raw.image_shape != spec.image_shape:
        return raw
    if raw.classes == spec.classes and fingerprint(*raw.split("test")) == known.test:
        return raw
    found = _by_class(raw.test_images, raw.test_labels, len(raw.classes))
    if set(found) != set(known.test_classes):
        return _with_label_note(raw, spec, known)
    order = [known.test_classes.index(digest) for digest in found]
    if _by_class(raw.train_images, raw.train_labels, len(raw.classes)) != tuple(
        known.train_classes[label] for label in order
    ):
        return _with_label_note(raw, spec, known)
    pairs = [(name, spec.classes[label]) for name, label in zip(raw.classes, order, strict=True)]
    named = ", ".join(f"{name} is {true}" for name, true in pairs if name != true)
    note = f"The images are {spec.title}'s under other class names: {named}. The true names are used."
    table = np.array(order, np.uint8)
    return RawDataset(
        spec.classes,
        raw.train_images,
        table[raw.train_labels],
        raw.test_images,
        table[raw.test_labels],
        raw.conversions,
        (*raw.notes, note) if named else raw.notes,
        raw.resize,
    )


def _with_label_note(raw: RawDataset, spec: DatasetSpec, known: Fingerprints) -> RawDataset:
    """`raw` with a note where its images are the right ones, and its labels are not."""
    if pixel_fingerprint(raw.test_images) != known.test_pixels:
        return raw
    if pixel_fingerprint(raw.train_images) != known.train_pixels:
        return raw
    note = (
        f"The images are {spec.title}'s, but they are sorted into other classes: the labels differ. "
        f"This is not {spec.title}."
    )
    return dataclasses.replace(raw, notes=(*raw.notes, note))


def _by_class(images: np.ndarray, labels: np.ndarray, classes: int) -> tuple[str, ...]:
    digests = np.array(image_digests(images), object)
    return tuple(_combined(digests[labels == label]) for label in range(classes))


def _digests(images: np.ndarray, prefixes: np.ndarray) -> Iterable[bytes]:
    """SHA-256 of each prefix, uint8 [N, P], followed by the pixels of its image."""
    size = int(np.prod(images.shape[1:]))
    width = prefixes.shape[1]
    records = np.empty((_CHUNK, width + size), np.uint8)
    for start in range(0, len(images), _CHUNK):
        count = min(_CHUNK, len(images) - start)
        records[:count, :width] = prefixes[start : start + count]
        records[:count, width:] = images[start : start + count].reshape(count, size)
        yield from (hashlib.sha256(record.data).digest() for record in records[:count])


def _combined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
