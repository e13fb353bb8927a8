"""Training on data that do not fit in memory: images are read from disk in the order of each epoch."""

import contextlib
import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeGuard

import numpy as np

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
    """Reads images in the order of an epoch; a thread reads ahead.

    It reads with system calls, because pages of a memory map would count as this process's memory.

    Args:
        images: memory-mapped uint8 [M, H, W, C].
        rows: int64 [N], indices of the training images.

    Attributes:
        shape: N, H, W, C.
    """

    def __init__(self, images: np.memmap, rows: np.ndarray) -> None:
        assert images.filename is not None, "it is a file's map"
        self.shape = (len(rows), *images.shape[1:])
        self._path, self._start = images.filename, images.offset
        # Kept open, in case `prepare` replaces the file.
        self._file = os.open(images.filename, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._rows = self._order = rows
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[np.ndarray]] | None = None

    def set_order(self, order: np.ndarray) -> None:
        """Set the order of the images: int64 [N], a permutation."""
        self._order, self._ahead = self._rows[order], None

    def read(self, first: int, count: int) -> np.ndarray:
        """Read `count` images from position `first` of the order: uint8 [count, H, W, C]."""
        images = None
        if self._ahead is not None and self._ahead[0] == first:
            images = self._ahead[1].result()[:count]
        if images is None or len(images) < count:
            images = self._read(first, count)
        # Prefetch what the next call will probably need.
        self._ahead = first + count, self._thread.submit(self._read, first + count, count)
        return images

    def _read(self, first: int, count: int) -> np.ndarray:
        rows = self._order[first : first + count]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for position in np.argsort(rows):
            # Read in file order, which is faster on a hard disk.
            where = self._start + int(rows[position]) * images[0].nbytes
            if os.preadv(self._file, [images[position]], where) != images[0].nbytes:
                raise OSError(f"{self._path} is shorter than when training began.")
        return images
