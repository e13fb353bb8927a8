"""Digital: contrast, stretching, coarse pixels, compression."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from cifar_trainer.evaluation.corruptions import optics


def contrast(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Values drawn towards their channel's mean over the picture."""
    kept = np.float32((0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1])
    means = images.mean(axis=(1, 2), keepdims=True)
    flat: np.ndarray = (images - means) * kept + means
    return flat


def elastic_transform(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """A slight random affine map, then places displaced by a smooth random field."""
    strength, smoothness, skew = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    count, side = images.shape[:2]
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    sources = _affine_sources(count, side, skew * side, draw)
    turned = optics.sample(images, *np.einsum("nij,jhw->inhw", sources, np.stack([rows, columns, rows**0])))
    fields = draw.uniform(-1, 1, (2, count, side, side))
    sigma = smoothness * side
    down, right = strength * side * ndimage.gaussian_filter(fields, (0, 0, sigma, sigma), truncate=3.0)
    return optics.sample(turned, rows + down, columns + right, repeat_border=True)


def _affine_sources(count: int, side: int, reach: float, draw: np.random.Generator) -> np.ndarray:
    """Where each place is read under a map that moves three corners by up to `reach`.

    Returns:
        float64 [count, 2, 3]: (row, column) = matrix · (row, column, 1).
    """
    middle, arm = side // 2, side // 3
    corners = np.array(
        [[middle + arm, middle + arm], [middle - arm, middle + arm], [middle - arm] * 2], float
    )
    moved = corners + draw.uniform(-reach, reach, (count, 3, 2))
    with_one = np.concatenate([moved, np.ones((count, 3, 1))], axis=2)
    # The matrix that takes the moved corners back: with_one · matrixᵀ = corners.
    return np.linalg.solve(with_one, np.broadcast_to(corners, (count, 3, 2))).transpose(0, 2, 1)


def pixelate(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Reduced and enlarged again, each pixel the mean of what it covers."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    side = images.shape[1]
    small = int(side * share)

    def coarsen(picture: Image.Image) -> Image.Image:
        return picture.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)

    return _each(images, coarsen)


def jpeg_compression(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Written as a JPEG of low quality, and read again."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compress(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _each(images, compress)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Each picture through Pillow, which knows bytes only."""
    pictures = np.rint(images * 255).astype(np.uint8)
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])
    # A hair above the byte, so that cutting off gives the byte again.
    return (changed.astype(np.float32) + np.float32(0.01)) / np.float32(255)
