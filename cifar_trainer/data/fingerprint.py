"""Content fingerprints: what a split holds, whatever its order and wherever it came from."""

import hashlib

import numpy as np

#: CIFAR-10's fingerprints, measured over all 60,000 lossless images.
CIFAR10_TRAIN = "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85"
CIFAR10_TEST = "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c"

RECORD_BYTES = 1 + 32 * 32 * 3
_CHUNK = 5000


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the concatenated, sorted SHA-256 digests of each image's record.

    A record is one label byte, then 3,072 pixel bytes, row by row, RGB interleaved.

    Args:
        images: uint8 [N, 32, 32, 3], RGB.
        labels: uint8 [N].

    Returns:
        64 hexadecimal digits.
    """
    digests = []
    records = np.empty((_CHUNK, RECORD_BYTES), np.uint8)
    for start in range(0, len(labels), _CHUNK):
        stop = min(start + _CHUNK, len(labels))
        records[: stop - start, 0] = labels[start:stop]
        records[: stop - start, 1:] = images[start:stop].reshape(stop - start, -1)
        digests += [hashlib.sha256(record.data).digest() for record in records[: stop - start]]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def is_cifar10(train: str, test: str) -> bool:
    """Whether the fingerprints of both splits are CIFAR-10's."""
    return train == CIFAR10_TRAIN and test == CIFAR10_TEST
