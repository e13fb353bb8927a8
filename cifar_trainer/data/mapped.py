"""Images in memory-mapped files, written and read in parts, so that they need not fit in memory."""

import contextlib
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import numpy as np

from cifar_trainer.data import disk

#: Maximum size of a part in bytes, unless one image is larger.
PART_BYTES = 2**24
#: Training does not keep data of more bytes, or of more than a quarter of the memory, in memory.
MAX_BYTES = 2**30


def is_large(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether to read these images from their file; False for images that are not memory-mapped."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # The limit of a container; "max" if it has none.
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return isinstance(images, np.memmap) and images.nbytes > min(MAX_BYTES, memory // 4)


class ScratchImages:
    """A growing array of images in a temporary file without a name, so that nothing is left of it.

    Args:
        folder: where to create the file; None for the system's temporary folder.
        image_shape: height, width and channels.
    """

    def __init__(self, folder: Path | None, image_shape: tuple[int, ...]) -> None:
        self._folder = Path(folder or tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._shape = image_shape

    def append(self, images: np.ndarray) -> None:
        """Append one or several images, uint8 [..., H, W, C].

        Raises:
            DataError: the file cannot be written, for example on a full disk.
        """
        try:
            self._file.write(np.ascontiguousarray(images).data)
            self._file.flush()
        except OSError as error:
            raise disk.write_error(self._folder / "images", images.nbytes, error) from error

    def array(self) -> np.ndarray:
        """All images so far, uint8 [N, H, W, C], as a read-only memory map."""
        count = self._file.tell() // math.prod(self._shape)
        if not count:
            return np.empty((0, *self._shape), np.uint8)
        return np.memmap(self._file, np.uint8, "r", shape=(count, *self._shape))


def parts(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive parts of an array, and the index of each part's first row.

    The memory of a memory-mapped part is freed before the next one.
    """
    count = _rows_per_part(array)
    for start in range(0, len(array), count):
        yield start, array[start : start + count]
        release_pages(array)


def take(images: np.ndarray, indices: np.ndarray, folder: Path | None) -> np.ndarray:
    """Copy the images at `indices`, int64 [N]. Memory-mapped images are copied to `ScratchImages`."""
    if not isinstance(images, np.memmap):
        copied: np.ndarray = images[indices]
        return copied
    taken, count = ScratchImages(folder, images.shape[1:]), _rows_per_part(images)
    for start in range(0, len(indices), count):
        taken.append(images[indices[start : start + count]])
        release_pages(images)
    return taken.array()


def _rows_per_part(array: np.ndarray) -> int:
    return max(1, PART_BYTES // max(1, math.prod(array.shape[1:]) * array.itemsize))


def release_pages(array: np.ndarray) -> None:
    """Free the memory of a memory-mapped array; the next read loads it again.

    Does nothing for ordinary arrays, or without madvise.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
