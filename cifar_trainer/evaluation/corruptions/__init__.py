"""The fifteen common corruptions of Hendrycks & Dietterich (2019), for 32×32 pictures.

The definitions and the strengths of the five severities are those of CIFAR-10-C (the
authors' make_cifar_c.py, github.com/hendrycks/robustness), computed here in NumPy, SciPy
and Pillow for many pictures at once; ImageMagick, OpenCV and scikit-image are not needed.
Frost differs: it is drawn, since the photographs are not ours to ship, so its figure
does not compare with one on CIFAR-10-C. The other random draws are not CIFAR-10-C's either.
"""

from collections.abc import Callable

import numpy as np

from cifar_trainer.evaluation.corruptions import blur, digital, noise, weather

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = (1, 2, 3, 4, 5)

#: By name, in the paper's order. Each takes pictures as float32 [N, 32, 32, 3] from 0 to
#: 1, a severity and a generator, and gives pictures that may leave that range.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}

#: The paper's four families, in its order.
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupt pictures; the same arguments give the same pictures.

    Args:
        images: uint8 [N, 32, 32, 3].
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the random draws, which differ by corruption and severity.

    Returns:
        uint8 [N, 32, 32, 3].
    """
    draw = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    pictures = CORRUPTIONS[name](images.astype(np.float32) / np.float32(255), severity, draw)
    # Cut off, not rounded, as in CIFAR-10-C.
    return (np.clip(pictures, 0, 1) * 255).astype(np.uint8)
