"""Training on data that do not fit in memory: images are read from disk in the order of each epoch."""

import dataclasses
import os
from typing import TypeGuard

import numpy as np

from cifar_trainer.data.mapped import release_pages

#: Data sets of more bytes, or of more than a quarter of the memory, are not kept in memory.
MAX_BYTES = 2**30


def is_large(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether to read these images from their file; False for images that are not memory-mapped."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return isinstance(images, np.memmap) and images.nbytes > min(MAX_BYTES, memory // 4)


@dataclasses.dataclass(frozen=True, eq=False)
class OrderedImages:
    """Images that are read from their file in the order of an epoch.

    Attributes:
        images: memory-mapped uint8 [M, H, W, C].
        rows: int64 [N], indices of the training images.
    """

    images: np.memmap
    rows: np.ndarray

    def read(self, order: np.ndarray) -> np.ndarray:
        """The training images at these positions, int64 [B]: uint8 [B, H, W, C]."""
        images: np.ndarray = self.images[self.rows[order]]
        # Pages of the map would count as this process's memory.
        release_pages(self.images)
        return images
