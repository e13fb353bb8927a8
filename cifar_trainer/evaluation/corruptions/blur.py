"""Blur: out of focus, behind frosted glass, by movement, by coming nearer."""

import numpy as np
from scipy import ndimage

from cifar_trainer.evaluation.corruptions import optics


def defocus_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """A disc for each point of light, its edge softened."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    kernel = disc(radius, softness).astype(np.float32)
    blurred: np.ndarray = ndimage.convolve(images, kernel[None, :, :, None], mode="mirror")
    return blurred


def disc(radius: float, softness: float) -> np.ndarray:
    """A disc of sum 1, blurred by three pixels of a bell curve: float64 [7, 7]."""
    down, right = np.mgrid[-3:4, -3:4]
    sharp = (down**2 + right**2 <= radius**2).astype(np.float64)
    curve = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * softness**2))
    curve /= curve.sum()
    blurred: np.ndarray = ndimage.convolve(sharp / sharp.sum(), np.outer(curve, curve), mode="constant")
    return blurred


def glass_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Each inner pixel takes the value of one up or left of it, or its own, between two slight blurs.

    The authors' code means to exchange the two pixels, but the second assignment of
    `a, b = b, a` reads a view that the first has changed already; CIFAR-10-C was made so.
    """
    sigma, reach, times = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    shuffled = np.floor(optics.gaussian(images, sigma) * 255) / np.float32(255)
    count, side = images.shape[:2]
    inner = np.arange(reach + 1, side - reach + 1)
    for _ in range(times):
        down, right = draw.integers(-reach, reach, (2, count, len(inner), len(inner)))
        # From the far corner on, so that each pixel reads one that has not changed yet: all at once.
        shuffled[:, inner[:, None], inner] = shuffled[
            np.arange(count)[:, None, None], inner[:, None] + down, inner + right
        ]
    return optics.gaussian(shuffled, sigma)


def motion_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """A streak in a direction of its own for each picture, from -45° to 45°."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return optics.motion(images, radius, sigma, draw.uniform(-45, 45, len(images)))


def zoom_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """The mean of the picture and of its enlargements, one per cent apart."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, largest, 0.01)
    total = images + sum(optics.zoom(images, float(factor)) for factor in factors)
    mean: np.ndarray = total / np.float32(len(factors) + 1)
    return mean
