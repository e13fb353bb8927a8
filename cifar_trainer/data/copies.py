"""Find images that belong together: exact copies, and the members of a group."""

import numpy as np

_CHUNK = 1000


def find_originals(images: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """For each image, the index of the first image that it belongs to: int64 [N].

    Images with the same pixels belong together, and so do the members of a group.

    Args:
        images: uint8 [N, H, W, C].
        groups: the number of each image's group, [N], -1 for none.
    """
    size = int(np.prod(images.shape[1:]))
    words = -(-size // 8)
    # A sum of words times odd random numbers, modulo 2**64: equal images have equal sums.
    factors = np.random.PCG64(0).random_raw(words) | np.uint64(1)
    sums = np.empty(len(images), np.uint64)
    padded = np.zeros((min(_CHUNK, len(images)), words * 8), np.uint8)
    for start in range(0, len(images), max(len(padded), 1)):
        count = min(len(padded), len(images) - start)
        padded[:count, :size] = images[start : start + count].reshape(count, size)
        sums[start : start + count] = (padded[:count].view(np.uint64) * factors).sum(1)
    originals = np.arange(len(images))
    order = np.argsort(sums, kind="stable")
    shared = np.flatnonzero(np.diff(sums[order]) == 0)
    seen: dict[bytes, int] = {}
    for index in np.unique(order[np.concatenate([shared, shared + 1])]) if len(shared) else ():
        originals[index] = seen.setdefault(images[index].tobytes(), int(index))
    return originals if groups is None else _join(originals, groups)


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
