"""What several corruptions need: blurs, shifts and zooms of many pictures at once."""

import numpy as np
from scipy import ndimage


def gaussian(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of each channel, cut at four sigma, the border repeated: [N, H, W, C]."""
    blurred: np.ndarray = ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
    return blurred


def motion(images: np.ndarray, radius: int, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """ImageMagick's motion blur: half a bell curve along a line, in whole pixels.

    Args:
        images: float [N, H, W, C].
        radius: the line is 2 · radius + 1 pixels long.
        sigma: of the bell curve, in pixels.
        degrees: each picture's direction, float [N].
    """
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    radians = np.deg2rad(degrees)
    down = np.ceil(along * np.sin(radians)[:, None] - 0.5).astype(np.int64)
    right = np.ceil(along * np.cos(radians)[:, None] - 0.5).astype(np.int64)
    count, height, width, _ = images.shape
    blurred = np.zeros_like(images)
    for i, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + down[:, i, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, i, None], 0, width - 1)
        blurred += weight * images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return blurred


def zoom_matrix(side: int, factor: float) -> np.ndarray:
    """What enlarging the middle by `factor` does to one axis: float32 [side, side].

    Linear interpolation on both axes is this matrix from the left and from the right.
    """
    kept = int(np.ceil(side / factor))
    start = (side - kept) // 2
    crop = np.eye(side, dtype=np.float64)[start : start + kept]
    enlarged = ndimage.zoom(crop, (factor, 1), order=1)
    trim = (len(enlarged) - side) // 2
    matrix: np.ndarray = enlarged[trim : trim + side].astype(np.float32)
    return matrix


def zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the middle of square pictures, [N, side, side, C], linearly by `factor` >= 1."""
    matrix = zoom_matrix(images.shape[1], factor)
    across = np.einsum("ij,njwc->niwc", matrix, images, optimize=True)
    zoomed: np.ndarray = np.einsum("ij,nhjc->nhic", matrix, across, optimize=True)
    return zoomed


def sample(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, repeat_border: bool = False
) -> np.ndarray:
    """Read pictures between their pixels: bilinear, mirrored at the border.

    Args:
        images: float [N, H, W, C].
        rows, columns: where to read, float [N, H, W].
        repeat_border: whether the mirror stands behind the border pixel (SciPy's `reflect`) and not in
            it (OpenCV's `BORDER_REFLECT_101`).

    Returns:
        float32 [N, H, W, C].
    """
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    upper, lower = (_mirrored(at, images.shape[1], repeat_border) for at in (top, top + 1))
    first, second = (_mirrored(at, images.shape[2], repeat_border) for at in (left, left + 1))
    n = np.arange(len(images))[:, None, None]
    above = images[n, upper, first] * (1 - beside) + images[n, upper, second] * beside
    under = images[n, lower, first] * (1 - beside) + images[n, lower, second] * beside
    mixed: np.ndarray = (above * (1 - below) + under * below).astype(np.float32)
    return mixed


def _mirrored(places: np.ndarray, length: int, repeat_border: bool) -> np.ndarray:
    """Places outside 0 to length - 1 folded back in."""
    if repeat_border:
        within = places % (2 * length)
        behind: np.ndarray = np.minimum(within, 2 * length - 1 - within)
        return behind
    period = 2 * (length - 1)
    folded: np.ndarray = (length - 1) - np.abs(places % period - (length - 1))
    return folded
