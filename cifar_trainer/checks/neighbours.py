"""Finds images that show the same picture: re-encoded, cropped, mirrored, resized or recoloured copies.

1. Search: the nearest neighbours of each image by cosine similarity of thumbnails (as they are, mirrored, and
   enlarged) and of a network's features. Only images in similar cells are compared, so time and memory grow
   linearly with the number of images (an inverted file; Jégou, Douze & Schmid 2011, section IV).
2. Filter: a pair is kept if the details of one image resemble those of a part of the other, on a coarse grid
   of parts.
3. Alignment: that part is moved and scaled to fit the other image. The similarity of a pair is then the
   correlation of their details. Details are what remains after subtracting local means, since smooth
   pictures, such as planes in the sky, correlate without being the same.
4. Groups: the connected components of the pairs above a threshold.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cifar_trainer.data.mapped import release_pages

#: Widths of thumbnails in pixels: for the search and the filter, for details, and for the alignment.
COARSE, MIDDLE, FINE = 8, 16, 32
#: Neighbours per image and search, and their minimum cosine similarity.
NEIGHBOURS, FLOOR = 8, 0.7
#: Minimum correlation of details in the filter, and of near-duplicates after alignment.
FILTER, THRESHOLD = 0.75, 0.85
#: Widths of the compared parts, as fractions of the image's, and positions of a part along each axis.
_ZOOMS, _POSITIONS = (1.0, 0.875, 0.75), 3
#: Width of the part that the search enlarges: a typical crop.
_SEARCH_ZOOM = 0.83
#: The alignment: first step as a fraction of the width, number of halvings, and range of widths.
_STEP, _ROUNDS, _WIDTHS = 0.06, 4, (0.65, 1.1)
#: Vectors per cell on average, and cells in which each query is searched.
CELL, PROBES = 512, 8
#: Vectors per cell in the sample for k-means, and its iterations.
_SAMPLE, _ITERATIONS = 32, 8
#: Images, or pairs, per block; and similarities per block of a search.
_BLOCK, _SIMILARITIES = 512, 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images, most similar first.

    Attributes:
        first, second: indices, int64 [P]; first < second.
        similarity: float32 [P], at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def find_pairs(
    images: np.ndarray,
    features: np.ndarray,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pairs:
    """The pairs of near-duplicates among images.

    Args:
        images: uint8 [N, H, W, C].
        features: float32 [N, F] of the same images, such as the last hidden layer's.
        on_progress: called with (done, total) after each block of images.
    """
    area, zoom = _area(MIDDLE, COARSE), _enlarge(MIDDLE, (1 - _SEARCH_ZOOM) / 2, _SEARCH_ZOOM)
    colours = thumbnails(images, MIDDLE)
    plain, enlarged = (_both_axes(matrix, colours) for matrix in (area, area @ zoom))
    del colours
    keys, features = _vectors(plain), unit(features[:, :, None])
    total, done = 6 * len(images), 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, total)

    cells = Cells.of(keys)
    views = (plain, plain[:, :, ::-1], enlarged, enlarged[:, :, ::-1])
    searches = [search(_vectors(view), cells, advance) for view in views]
    searches.append(search(features, Cells.of(features), advance))
    found = np.concatenate(searches)
    # Each pair once: unique numbers are faster than unique rows.
    first, second = np.divmod(np.unique(found[:, 0] * len(images) + found[:, 1]), len(images))
    grey = thumbnails(images, FINE, grey=True)[..., 0]
    release_pages(images)
    score, view, swapped = filter_pairs(
        _both_axes(_area(FINE, MIDDLE), grey[..., None])[..., 0], first, second, advance
    )
    kept = score >= FILTER
    first, second, view, swapped = first[kept], second[kept], view[kept], swapped[kept]
    similarity = align(grey, np.where(swapped, second, first), np.where(swapped, first, second), view)
    best = np.argsort(-similarity, kind="stable")
    best = best[similarity[best] >= THRESHOLD]
    return Pairs(first[best], second[best], similarity[best])


def thumbnails(images: np.ndarray, size: int, *, grey: bool = False) -> np.ndarray:
    """Thumbnails by averaging equal parts of each image: float32 [N, size, size, C] of uint8 [N, H, W, C].

    Args:
        images: of any size.
        size: width and height of the thumbnails.
        grey: average the channels; C is 1.
    """
    down, across = (_area(length, size) for length in images.shape[1:3])
    made = np.empty((len(images), size, size, 1 if grey else images.shape[3]), np.float32)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        if grey:
            block = block.mean(axis=3, keepdims=True)
        rows = np.einsum("ih,nhwc->niwc", down, block, optimize=True)
        made[start : start + _BLOCK] = np.einsum("jw,niwc->nijc", across, rows, optimize=True)
    return made


def unit(values: np.ndarray) -> np.ndarray:
    """Unit vectors with zero mean, which ignore brightness and contrast: float32 [N, D · C].

    Args:
        values: [N, D, C]; the mean over D is removed. Constant values become 0, which is similar to nothing.
    """
    centred = (values - values.mean(axis=1, keepdims=True)).reshape(len(values), -1)
    return _normalized(centred)


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Unit vectors sorted into cells of similar ones.

    Attributes:
        keys: the vectors, float32 [N, D].
        centres: float32 [C, D].
        members: indices of the vectors in each cell, int64.
    """

    keys: np.ndarray
    centres: np.ndarray
    members: list[np.ndarray]

    @classmethod
    def of(cls, keys: np.ndarray) -> "Cells":
        """Find the cells by spherical k-means (Dhillon & Modha 2001) on a sample.

        The number of cells grows with the number of vectors, so a search in some of them takes linear time.
        """
        draw, count = np.random.default_rng(0), max(1, len(keys) // CELL)
        sample = keys[draw.permutation(len(keys))[: count * _SAMPLE]]
        centres = sample[:count]
        for _ in range(_ITERATIONS):
            nearest = (sample @ centres.T).argmax(axis=1)
            sums = np.zeros_like(centres)
            np.add.at(sums, nearest, sample)
            used = np.bincount(nearest, minlength=count) > 0
            centres = np.where(used[:, None], _normalized(sums), centres)
        nearest = np.concatenate([(block @ centres.T).argmax(axis=1) for block in _blocks(keys)])
        order = np.argsort(nearest, kind="stable")
        return cls(keys, centres, np.split(order, np.cumsum(np.bincount(nearest, minlength=count))[:-1]))


def search(
    queries: np.ndarray, cells: Cells, on_cell: Callable[[int], None] = lambda images: None
) -> np.ndarray:
    """Pairs of each query and up to NEIGHBOURS nearest keys in its nearest cells: int64 [P, 2].

    The lower index comes first. With up to PROBES cells, these are the nearest of all keys.

    Args:
        queries: unit vectors of the same images as the keys, float32 [N, D].
        cells: the cells of the keys.
        on_cell: called after each cell with its number of images.
    """
    probes = min(PROBES, len(cells.centres))
    near = np.concatenate(
        [
            np.argpartition(-(block @ cells.centres.T), probes - 1, axis=1)[:, :probes]
            for block in _blocks(queries)
        ]
    )
    order = np.argsort(near, axis=None, kind="stable")
    ends = np.searchsorted(near.ravel()[order], np.arange(len(cells.centres) + 1))
    found = [(np.empty((0, 2), np.int64), np.empty(0, np.float32))]
    for members, (low, high) in zip(cells.members, itertools.pairwise(ends), strict=True):
        keys, count = cells.keys[members], min(NEIGHBOURS, len(members))
        for asking in _blocks(order[low:high] // probes, _SIMILARITIES // max(1, len(members)) + 1):
            if not count:
                break
            similar = queries[asking] @ keys.T
            # An image is not its own neighbour.
            similar[asking[:, None] == members] = -np.inf
            least = np.partition(similar, -count, axis=1)[:, -count, None]
            rows, columns = np.nonzero(similar >= np.maximum(least, np.float32(FLOOR)))
            found.append((np.stack([asking[rows], members[columns]], axis=1), similar[rows, columns]))
        on_cell(len(members))
    pairs, similarity = (np.concatenate(each) for each in zip(*found, strict=True))
    best = np.lexsort((-similarity, pairs[:, 0]))
    pairs = pairs[best]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    return np.sort(pairs[rank < NEIGHBOURS], axis=1)


def _blocks(values: np.ndarray, size: int = _BLOCK) -> Iterator[np.ndarray]:
    return (values[start : start + size] for start in range(0, len(values), size))


def filter_pairs(
    grey: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    on_block: Callable[[int], None] = lambda images: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest correlation of details between one image of a pair and a part of the other.

    Args:
        grey: thumbnails, float32 [N, MIDDLE, MIDDLE].
        first, second: int64 [P].
        on_block: called after each block with its number of images.

    Returns:
        The correlations, float32 [P]; the part's number in `_parts`, int64 [P]; and whether it is a part of
        the second image: bool [P].
    """
    details = _details(COARSE) @ np.stack([_of_part(*part) for part in _parts()])
    flat = grey.reshape(len(grey), -1)
    whole = _normalized(flat @ details[0].T)
    matrix = np.concatenate(list(details), axis=0).T.astype(np.float32)
    score, view = np.zeros(len(first), np.float32), np.zeros(len(first), np.int64)
    swapped = np.zeros(len(first), bool)
    for one, other in ((first, second), (second, first)):
        order = np.argsort(one, kind="stable")
        bounds = np.searchsorted(one[order], np.arange(0, len(grey) + _BLOCK, _BLOCK))
        for block, (low, high) in enumerate(itertools.pairwise(bounds)):
            views = flat[block * _BLOCK : (block + 1) * _BLOCK] @ matrix
            views = _normalized(views.reshape(-1, COARSE**2)).reshape(len(views), len(details), -1)
            for start in range(low, high, _BLOCK):
                pairs = order[start : min(start + _BLOCK, high)]
                scores = np.matmul(views[one[pairs] - block * _BLOCK], whole[other[pairs], :, None])[..., 0]
                best = scores.argmax(axis=1)
                largest = scores[np.arange(len(pairs)), best]
                better = largest > score[pairs]
                improved = pairs[better]
                score[improved], view[improved] = largest[better], best[better]
                swapped[improved] = one is second
            if one is second:
                on_block(len(views))
    return score, view, swapped


def align(grey: np.ndarray, partial: np.ndarray, whole: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Fit a part of one image to the other by moving and scaling it; return the correlation of their details.

    Args:
        grey: thumbnails, float32 [N, FINE, FINE].
        partial, whole: the image that is cropped, and the other one: int64 [P].
        view: the part to start from, by its number in `_parts`: int64 [P].

    Returns:
        float32 [P].
    """
    parts = np.array([(top, left, width) for top, left, width, _ in _parts()])
    mirrored = np.array([mirror for *_, mirror in _parts()])
    similarity = np.empty(len(view), np.float32)
    details = _details(MIDDLE).astype(np.float32)
    half = _area(FINE, MIDDLE)
    for start in range(0, len(view), _BLOCK):
        some = slice(start, start + _BLOCK)
        images = grey[partial[some]]
        images = np.where(mirrored[view[some], None, None], images[:, :, ::-1], images)
        target = (half @ grey[whole[some]] @ half.T).reshape(len(images), -1)
        smooth = unit(target[:, :, None])

        def seen(place: np.ndarray, images: np.ndarray = images) -> np.ndarray:
            down, across = (half @ _part_matrices(place[:, axis], place[:, 2]) for axis in (0, 1))
            parts: np.ndarray = (down @ images @ across.transpose(0, 2, 1)).reshape(len(images), -1)
            return parts

        place = parts[view[some]]
        score = (unit(seen(place)[:, :, None]) * smooth).sum(axis=1)
        for step in _STEP * 0.5 ** np.arange(_ROUNDS):
            # Move along each axis, or change the width around the centre, in both directions.
            for move in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (-0.5, -0.5, 1), (0.5, 0.5, -1)):
                moved = place + step * np.array(move)
                moved[:, 2] = np.clip(moved[:, 2], *_WIDTHS)
                tried = (unit(seen(moved)[:, :, None]) * smooth).sum(axis=1)
                better = tried > score
                score[better], place[better] = tried[better], moved[better]
        similarity[some] = (_normalized(seen(place) @ details.T) * _normalized(target @ details.T)).sum(
            axis=1
        )
    return similarity


def group(pairs: Pairs, count: int) -> list[tuple[np.ndarray, float]]:
    """Groups of images that are connected by pairs: indices, int64 ascending, and the highest similarity.

    The group with the most similar pair comes first.

    Args:
        pairs: as `find_pairs` returns them.
        count: number of images.
    """
    graph = coo_array((np.ones(len(pairs), bool), (pairs.first, pairs.second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {int(component[index]): [] for index in pairs.first}
    similarity = {
        int(component[i]): float(s) for i, s in zip(pairs.first[::-1], pairs.similarity[::-1], strict=True)
    }
    for index in np.unique(np.concatenate([pairs.first, pairs.second])):
        members[int(component[index])].append(int(index))
    return [(np.array(indices), similarity[key]) for key, indices in members.items()]


def _parts() -> list[tuple[float, float, float, bool]]:
    """The parts of an image: top, left and width as fractions; mirrored or not. The first is the whole."""
    return [
        (top, left, width, mirror)
        for mirror in (False, True)
        for width in _ZOOMS
        for top in np.linspace(0, 1 - width, _POSITIONS if width < 1 else 1)
        for left in np.linspace(0, 1 - width, _POSITIONS if width < 1 else 1)
    ]


def _of_part(top: float, left: float, width: float, mirror: bool) -> np.ndarray:
    """The matrix that turns an image's thumbnail into a part's: float [COARSE², MIDDLE²]."""
    down, across = (_area(MIDDLE, COARSE) @ _enlarge(MIDDLE, start, width) for start in (top, left))
    return np.kron(down, across[:, ::-1] if mirror else across)


def _details(size: int) -> np.ndarray:
    """The matrix that subtracts the mean of 3×3 values around each value: float [size², size²]."""
    near = np.arange(size)[:, None] + [-1, 0, 1]
    mean = np.eye(size)[np.clip(near, 0, size - 1)].mean(axis=1)
    return np.eye(size * size) - np.kron(mean, mean)


def _area(length: int, size: int) -> np.ndarray:
    """The matrix that averages `length` pixels over `size` equal parts: float32 [size, length]."""
    edges, pixels = np.linspace(0, length, size + 1)[:, None], np.arange(length)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    matrix: np.ndarray = np.maximum(covered, 0) * size / length
    return matrix.astype(np.float32)


def _enlarge(size: int, start: float, width: float) -> np.ndarray:
    """The matrix that enlarges a part of an axis linearly: float32 [size, size]."""
    matrix: np.ndarray = _part_matrices(np.array([start]), np.array([width]), size)[0]
    return matrix


def _part_matrices(start: np.ndarray, width: np.ndarray, size: int = FINE) -> np.ndarray:
    """`_enlarge` of many parts: float32 [P, size, size] of float [P] each. Edges are repeated."""
    at = (start[:, None] + width[:, None] * (np.arange(size) + 0.5) / size) * size - 0.5
    at = np.clip(at, 0, size - 1)
    low = np.minimum(at.astype(np.int64), size - 2)
    matrices = np.zeros((len(start), size, size), np.float32)
    pairs, rows = np.ogrid[: len(start), :size]
    matrices[pairs, rows, low] = 1 - (at - low)
    matrices[pairs, rows, low + 1] = at - low
    return matrices


def _both_axes(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Apply a matrix to rows and columns of images [N, H, W, C]."""
    applied: np.ndarray = np.einsum("ih,nhwc,jw->nijc", matrix, images, matrix, optimize=True)
    return applied


def _vectors(small: np.ndarray) -> np.ndarray:
    return unit(small.reshape(len(small), -1, small.shape[3]))


def _normalized(values: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32 [N, D]; those that are almost 0 become 0."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: np.ndarray = np.where(lengths > 1e-2, values / np.maximum(lengths, 1e-2), 0)
    return scaled.astype(np.float32, copy=False)
