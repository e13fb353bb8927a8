"""Weather: snow, frost, fog, bright light."""

import functools

import numpy as np
from scipy import ndimage

from cifar_trainer.evaluation.corruptions import optics

#: The weights of a grey value (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_FROST_SIDE = 256


def snow(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Streaks of flakes, falling both ways, over a picture that is whitened."""
    mean, spread, size, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = mean + spread * draw.standard_normal((*images.shape[:3], 1), np.float32)
    flakes = optics.zoom(flakes, size)
    flakes = np.where(flakes < least, np.float32(0), np.clip(flakes, 0, 1))
    flakes = optics.motion(flakes, radius, sigma, draw.uniform(-135, -45, len(images)))
    grey = (images @ _GREY)[..., None]
    whitened = kept * images + (1 - kept) * np.maximum(images, grey * 1.5 + 0.5)
    fallen: np.ndarray = whitened + flakes + flakes[:, ::-1, ::-1]
    return fallen


def frost(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Ice crystals laid over the picture: a window of a drawn texture, for photographs of frost."""
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    texture, side = frost_texture(), images.shape[1]
    top, left = draw.integers(0, _FROST_SIDE - side, (2, len(images)))
    along = np.arange(side)
    windows = texture[(top[:, None] + along)[:, :, None], (left[:, None] + along)[:, None, :]]
    frozen: np.ndarray = kept * images + ice * windows
    return frozen


@functools.cache
def frost_texture() -> np.ndarray:
    """Feathers of ice: needles that branch at 60°, over a cloudy ground: float32 [256, 256, 3], 0 to 1."""
    draw = np.random.default_rng(20190401)
    side = _FROST_SIDE
    ice = np.zeros((side, side))
    for _ in range(260):
        centre, turn, length = draw.uniform(0, side, 2), draw.uniform(0, np.pi), draw.uniform(12, 46)
        _needle(ice, centre, turn, length)
        for along in np.arange(-0.8, 0.81, 0.2):
            root = centre + along * length / 2 * np.array([np.sin(turn), np.cos(turn)])
            for branch in (np.pi / 3, -np.pi / 3):
                _needle(ice, root, turn + branch, length * 0.35 * (1 - abs(along)))
    ice = ndimage.gaussian_filter(ice, 0.6, mode="wrap")
    clouds = ndimage.gaussian_filter(draw.standard_normal((side, side)), 12, mode="wrap")
    level = 0.42 + 0.1 * clouds / clouds.std() + 0.55 * np.tanh(ice)
    # Ice is a little blue where it is thin.
    tint = np.array([0.9, 0.97, 1.04]) + 0.06 * np.tanh(ice)[..., None]
    texture: np.ndarray = np.clip(level[..., None] * tint, 0, 1).astype(np.float32)
    texture.setflags(write=False)
    return texture


def _needle(ice: np.ndarray, centre: np.ndarray, turn: float, length: float) -> None:
    """Add a straight line to `ice`, brighter in its middle; it goes on at the opposite border."""
    along = np.arange(-length / 2, length / 2 + 0.5, 0.5)
    rows = np.rint(centre[0] + along * np.sin(turn)).astype(int) % len(ice)
    columns = np.rint(centre[1] + along * np.cos(turn)).astype(int) % len(ice)
    ice[rows, columns] += 0.5 * (1 - np.abs(along) / (length / 2 + 0.5))


def fog(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """A plasma cloud over the picture, which is dimmed by as much as it gains."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouds = plasma(len(images), images.shape[1], decay, draw)[..., None]
    foggy: np.ndarray = (images + amount * clouds) * brightest / (brightest + amount)
    return foggy


def plasma(count: int, side: int, decay: float, draw: np.random.Generator) -> np.ndarray:
    """Clouds by the diamond-square algorithm (Fournier, Fussell & Carpenter 1982), borders joined.

    Each new point is the mean of its four neighbours and a random step; steps get
    smaller by `decay` at each halving of the distance, squared as in CIFAR-10-C.

    Args:
        count: how many.
        side: a power of two.

    Returns:
        float32 [count, side, side], each from 0 to 1.
    """
    heights = np.zeros((count, side, side))
    step, wobble = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        total = corners + np.roll(corners, -1, 1)
        total = total + np.roll(total, -1, 2)
        middles = total / 4 + wobble * draw.uniform(-wobble, wobble, total.shape)
        heights[:, half::step, half::step] = middles
        upright = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = upright / 4 + wobble * draw.uniform(-wobble, wobble, total.shape)
        level = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = level / 4 + wobble * draw.uniform(-wobble, wobble, total.shape)
        step, wobble = half, wobble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    clouds: np.ndarray = (heights / heights.max(axis=(1, 2), keepdims=True)).astype(np.float32)
    return clouds


def brightness(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """The value of HSV raised; hue and saturation stay."""
    raised = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.max(axis=3, keepdims=True)
    brighter = np.minimum(value + np.float32(raised), np.float32(1))
    # With hue and saturation kept, the three channels grow in proportion; black becomes grey.
    scaled: np.ndarray = np.where(value > 0, images * (brighter / np.maximum(value, 1e-6)), brighter)
    return scaled
