"""Find images that belong together: exact copies, and the members of a group."""

import math
from collections.abc import Iterator

import numpy as np

from cifar_trainer.data.mapped import parts


def find_originals(*arrays: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """For each image, the index of the first image that it belongs to: int64 [N].

    Images with the same pixels belong together, and so do the members of a group.

    Args:
        arrays: images, uint8 [M, H, W, C], numbered from the first array to the last, N in all.
        groups: the number of each image's group, [N], -1 for none.
    """
    sums = np.concatenate([np.empty(0, np.uint64), *(part for images in arrays for part in _sums(images))])
    originals = np.arange(len(sums))
    ends = np.cumsum([len(images) for images in arrays])
    order = np.argsort(sums, kind="stable")
    shared = np.flatnonzero(np.diff(sums[order]) == 0)
    seen: dict[bytes, int] = {}
    for index in np.unique(order[np.concatenate([shared, shared + 1])]) if len(shared) else ():
        array = int(np.searchsorted(ends, index, side="right"))
        image = arrays[array][index - ends[array]]  # From the end of its array.
        originals[index] = seen.setdefault(image.tobytes(), int(index))
    return originals if groups is None else _join(originals, groups)


def _sums(images: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers that are equal for equal images, in parts: uint64 [N]."""
    size = math.prod(images.shape[1:])
    words = -(-size // 8)
    # A sum of words times odd random numbers, modulo 2**64.
    factors = np.random.PCG64(0).random_raw(words) | np.uint64(1)
    for _, part in parts(images):
        padded = np.zeros((len(part), words * 8), np.uint8)
        padded[:, :size] = part.reshape(len(part), size)
        yield (padded.view(np.uint64) * factors).sum(1)


def _join(originals: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each image, the first of all the images that copies and groups connect with it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    members = np.flatnonzero(groups >= 0)
    _, first, inverse = np.unique(groups[members], return_index=True, return_inverse=True)
    one = np.concatenate([np.arange(len(originals)), members])
    other = np.concatenate([originals, members[first[inverse]]])
    links = coo_array((np.ones(len(one), bool), (one, other)), (len(originals),) * 2)
    _, parts = connected_components(links, directed=False)
    _, first = np.unique(parts, return_index=True)
    joined: np.ndarray = first[parts]
    return joined
