"""Training on data that do not fit in memory: images are read from disk in the order of each epoch."""

import contextlib
import os
from pathlib import Path
from typing import TypeGuard

import numpy as np

from cifar_trainer.data.mapped import release_pages

#: Data sets of more bytes, or of more than a quarter of the memory, are not kept in memory.
MAX_BYTES = 2**30


def is_large(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether to read these images from their file; False for images that are not memory-mapped."""
    return isinstance(images, np.memmap) and images.nbytes > min(MAX_BYTES, _memory() // 4)


def _memory() -> int:
    """Memory of this machine, or of its container if that is smaller, in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


class OrderedImages:
    """Reads images in the order of an epoch.

    Args:
        images: memory-mapped uint8 [M, H, W, C].
        rows: int64 [N], indices of the training images.

    Attributes:
        shape: N, H, W, C.
    """

    def __init__(self, images: np.memmap, rows: np.ndarray) -> None:
        self.shape = (len(rows), *images.shape[1:])
        self._images, self._rows = images, rows

    def set_order(self, order: np.ndarray) -> None:
        """Set the order of the images: int64 [N], a permutation."""
        self._order = self._rows[order]

    def read(self, first: int, count: int) -> np.ndarray:
        """The `count` images from position `first` of the order, uint8 [count, H, W, C]; then black ones."""
        rows = self._order[first : first + count]
        images = np.zeros((count, *self.shape[1:]), np.uint8)
        # Reading in the file's order is faster on a hard disk.
        order = np.argsort(rows)
        images[order] = self._images[rows[order]]
        # Pages of the map would count as this process's memory.
        release_pages(self._images)
        return images
