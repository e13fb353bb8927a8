"""The content fingerprint is the one that the documentation defines."""

import hashlib

import numpy as np

from cifar_trainer.data.fingerprints import fingerprint

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
