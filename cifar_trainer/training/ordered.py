"""Which data are too large for memory, so that training reads them from disk in the order of each epoch."""

import os
from typing import TypeGuard

import numpy as np

#: Data sets of more bytes, or of more than a quarter of the memory, are not kept in memory.
MAX_BYTES = 2**30


def is_large(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether to read these images from their file; False for images that are not memory-mapped."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return isinstance(images, np.memmap) and images.nbytes > min(MAX_BYTES, memory // 4)
