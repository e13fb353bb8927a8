"""Noise: in low light, by the quantum nature of light, by faulty bits."""

import numpy as np


def gaussian_noise(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Independent normal noise on each value."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    noisy: np.ndarray = images + scale * draw.standard_normal(images.shape, np.float32)
    return noisy


def shot_noise(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """The Poisson noise of counting photons, so many at full brightness."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return (draw.poisson(images * photons) / photons).astype(np.float32)


def impulse_noise(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a share of the values becomes 0 or 1, each half of the time."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    chance = draw.random(images.shape, np.float32)
    noisy: np.ndarray = np.where(
        chance < amount / 2, np.float32(0), np.where(chance < amount, np.float32(1), images)
    )
    return noisy
