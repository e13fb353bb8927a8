"""The content fingerprint is the one that the documentation defines."""

import hashlib

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec, ImageSet, Split
from cifar_trainer.data.fingerprints import fingerprint, fingerprints_of, with_true_classes

IMAGES = np.random.default_rng(0).integers(0, 256, (12_001, 32, 32, 3), np.uint8)
LABELS = (np.arange(12_001) % 10).astype(np.uint8)


def test_by_the_words_of_the_definition() -> None:
    """SHA-256 of the sorted SHA-256 digests of each record: label byte, then pixels, RGB interleaved."""
    records = [bytes([label]) + image.tobytes() for image, label in zip(IMAGES, LABELS, strict=True)]
    digests = sorted(hashlib.sha256(record).digest() for record in records)
    assert fingerprint(IMAGES, LABELS) == hashlib.sha256(b"".join(digests)).hexdigest()


def test_order_does_not_matter() -> None:
    order = np.random.default_rng(1).permutation(len(LABELS))
    assert fingerprint(IMAGES[order], LABELS[order]) == fingerprint(IMAGES, LABELS)


def test_each_label_each_pixel_and_a_doubled_image_matter() -> None:
    images, labels = IMAGES[:50].copy(), LABELS[:50].copy()
    before = fingerprint(images, labels)
    assert fingerprint(np.concatenate([images, images[:1]]), np.append(labels, labels[0])) != before
    labels[49] ^= 1
    assert fingerprint(images, labels) != before
    labels[49] ^= 1
    images[49, 31, 31, 2] ^= 1
    assert fingerprint(images, labels) != before


TRUE = ImageSet(
    ("cat", "dog", "ship"),
    {"train": Split(IMAGES[:90], LABELS[:90] % 3), "test": Split(IMAGES[100:160], LABELS[100:160] % 3)},
)
SPEC = DatasetSpec("three", "Three", TRUE.classes, (32, 32, 3), fingerprints=fingerprints_of(TRUE))


def renamed(names: tuple[str, ...], order: list[int]) -> ImageSet:
    """The same images in folders of other names, sorted otherwise: `order` maps true labels to new ones."""
    table = np.array(order, np.uint8)
    return ImageSet(
        names, {name: Split(split.images, table[split.labels]) for name, split in TRUE.splits.items()}
    )


def is_three(found: ImageSet) -> bool:
    train, test = found.splits["train"], found.splits["test"]
    return SPEC.has_fingerprints(
        fingerprint(train.images, train.labels), fingerprint(test.images, test.labels)
    )


def test_the_true_images_under_other_class_names_are_the_data_set() -> None:
    raw = with_true_classes(renamed(("1", "10", "2"), [1, 2, 0]), SPEC)
    assert raw.classes == TRUE.classes
    assert is_three(raw)


def test_each_class_that_was_named_otherwise_is_told() -> None:
    notes = with_true_classes(renamed(("boat", "cat", "hound"), [1, 2, 0]), SPEC).notes
    assert notes == (
        "The images are Three's under different class names: boat is ship, hound is dog. "
        "The true names are used.",
    )


def test_the_true_images_in_wrong_classes_are_not_the_data_set_and_it_is_told() -> None:
    wrong = renamed(TRUE.classes, [0, 1, 2])
    labels = wrong.splits["test"].labels
    labels[:2] = labels[1::-1]
    raw = with_true_classes(wrong, SPEC)
    assert not is_three(raw)
    assert raw.notes[-1].endswith("so this is not Three.")
