"""Fifteen image corruptions at five severities (Hendrycks & Dietterich 2019), at the strengths of CIFAR-10-C.

Each function takes images as float32 [N, H, W, C] from 0 to 1, with one or three channels, a
generator, and the numbers of its row in `CORRUPTIONS`; its result may leave that range.
Lengths are in pixels and suit images of 32×32; they do not scale with the size.
"""

import dataclasses
import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

#: Weights of red, green and blue in a grey value (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_FROST_SIDE = 256


def gaussian_noise(images: np.ndarray, draw: np.random.Generator, scale: float) -> np.ndarray:
    """Independent normal noise on each value."""
    noisy: np.ndarray = images + scale * draw.standard_normal(images.shape, np.float32)
    return noisy


def shot_noise(images: np.ndarray, draw: np.random.Generator, photons: float) -> np.ndarray:
    """Poisson noise of counting photons; `photons` is the count at full brightness."""
    return (draw.poisson(images * photons) / photons).astype(np.float32)


def impulse_noise(images: np.ndarray, draw: np.random.Generator, amount: float) -> np.ndarray:
    """Salt and pepper: sets a fraction `amount` of the values to 0 or 1, half of them each."""
    chance = draw.random(images.shape, np.float32)
    salted = np.where(chance < amount, np.float32(1), images)
    noisy: np.ndarray = np.where(chance < amount / 2, np.float32(0), salted)
    return noisy


def defocus_blur(images: np.ndarray, draw: np.random.Generator, radius: float, softness: float) -> np.ndarray:
    """Blur by a disc whose edge is smoothed with a Gaussian of three pixels."""
    down, right = np.mgrid[-3:4, -3:4]
    disc = (down**2 + right**2 <= radius**2).astype(np.float64)
    curve = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * softness**2))
    curve /= curve.sum()
    kernel = ndimage.convolve(disc / disc.sum(), np.outer(curve, curve), mode="constant")
    blurred: np.ndarray = ndimage.convolve(images, kernel.astype(np.float32)[None, :, :, None], mode="mirror")
    return blurred


def glass_blur(
    images: np.ndarray, draw: np.random.Generator, sigma: float, reach: int, times: int
) -> np.ndarray:
    """Replace each inner pixel with itself or a random one above or to its left, between two slight blurs.

    The authors' code is meant to swap the two pixels, but the second assignment of
    `a, b = b, a` reads a view that the first has already changed. CIFAR-10-C was made this way.
    """
    shuffled = np.floor(_gaussian(images, sigma) * 255) / np.float32(255)
    count, height, width = images.shape[:3]
    rows = np.arange(reach + 1, height - reach + 1)[:, None]
    columns = np.arange(reach + 1, width - reach + 1)
    for _ in range(times):
        down, right = draw.integers(-reach, reach, (2, count, len(rows), len(columns)))
        # The authors go from the far corner, so each pixel reads an unchanged one: do all at once.
        shuffled[:, rows, columns] = shuffled[np.arange(count)[:, None, None], rows + down, columns + right]
    return _gaussian(shuffled, sigma)


def motion_blur(images: np.ndarray, draw: np.random.Generator, radius: int, sigma: float) -> np.ndarray:
    """Streaks in a random direction per image, from -45° to 45°."""
    return _motion(images, radius, sigma, draw.uniform(-45, 45, len(images)))


def zoom_blur(images: np.ndarray, draw: np.random.Generator, largest: float) -> np.ndarray:
    """Mean of the image and its enlargements, in steps of 1 %."""
    factors = np.arange(1, largest, 0.01)
    total = images + sum(_zoom(images, float(factor)) for factor in factors)
    mean: np.ndarray = total / np.float32(len(factors) + 1)
    return mean


def snow(
    images: np.ndarray,
    draw: np.random.Generator,
    mean: float,
    spread: float,
    size: float,
    least: float,
    radius: int,
    sigma: float,
    weight: float,
) -> np.ndarray:
    """Streaks of flakes in two directions over a whitened image."""
    flakes = mean + spread * draw.standard_normal((*images.shape[:3], 1), np.float32)
    flakes = _zoom(flakes, size)
    flakes = np.where(flakes < least, np.float32(0), np.clip(flakes, 0, 1))
    flakes = _motion(flakes, radius, sigma, draw.uniform(-135, -45, len(images)))
    grey = (images @ _GREY)[..., None] if images.shape[3] == 3 else images
    whitened = weight * images + (1 - weight) * np.maximum(images, grey * 1.5 + 0.5)
    fallen: np.ndarray = whitened + flakes + flakes[:, ::-1, ::-1]
    return fallen


def frost(images: np.ndarray, draw: np.random.Generator, weight: float, ice: float) -> np.ndarray:
    """Ice crystals over the image: a crop of a drawn texture, instead of photographs of frost."""
    count, height, width, channels = images.shape
    texture = frost_texture() if channels == 3 else (frost_texture() @ _GREY)[..., None]
    # The texture is seamless, so it repeats over larger images.
    room = np.array([[height], [width]])
    top, left = draw.integers(0, np.where(room < _FROST_SIDE, _FROST_SIDE - room, _FROST_SIDE), (2, count))
    rows = (top[:, None] + np.arange(height)) % _FROST_SIDE
    columns = (left[:, None] + np.arange(width)) % _FROST_SIDE
    frozen: np.ndarray = weight * images + ice * texture[rows[:, :, None], columns[:, None, :]]
    return frozen


def fog(images: np.ndarray, draw: np.random.Generator, amount: float, decay: float) -> np.ndarray:
    """A plasma cloud over the image, rescaled to the image's maximum."""
    height, width = images.shape[1:3]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    # Cloud sizes are powers of two; crop them to the image.
    side = 1 << (max(height, width) - 1).bit_length()
    clouds = plasma(len(images), side, decay, draw)[:, :height, :width, None]
    foggy: np.ndarray = (images + amount * clouds) * brightest / (brightest + amount)
    return foggy


def brightness(images: np.ndarray, draw: np.random.Generator, raised: float) -> np.ndarray:
    """Raise the value in HSV; keep hue and saturation."""
    value = images.max(axis=3, keepdims=True)
    brighter = np.minimum(value + np.float32(raised), np.float32(1))
    # This scales the channels in proportion; black becomes grey.
    scaled: np.ndarray = np.where(value > 0, images * (brighter / np.maximum(value, 1e-6)), brighter)
    return scaled


def contrast(images: np.ndarray, draw: np.random.Generator, factor: float) -> np.ndarray:
    """Move values towards their channel's mean over the image."""
    means = images.mean(axis=(1, 2), keepdims=True)
    flat: np.ndarray = (images - means) * np.float32(factor) + means
    return flat


def elastic_transform(
    images: np.ndarray, draw: np.random.Generator, strength: float, smoothness: float, skew: float
) -> np.ndarray:
    """A slight random affine map, then displacement by a smooth random field."""
    count, height, width = images.shape[:3]
    side = min(height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    sources = _affine_sources(count, height, width, skew * side, draw)
    turned = sample(images, *np.einsum("nij,jhw->inhw", sources, np.stack([rows, columns, rows**0])))
    fields = draw.uniform(-1, 1, (2, count, height, width))
    sigma = smoothness * side
    down, right = strength * side * ndimage.gaussian_filter(fields, (0, 0, sigma, sigma), truncate=3.0)
    return sample(turned, rows + down, columns + right, repeat_border=True)


def pixelate(images: np.ndarray, draw: np.random.Generator, share: float) -> np.ndarray:
    """Downscale by box averaging, and enlarge again."""

    def coarsen(image: Image.Image) -> Image.Image:
        small = (int(image.width * share), int(image.height * share))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _each(images, coarsen)


def jpeg_compression(images: np.ndarray, draw: np.random.Generator, quality: int) -> np.ndarray:
    """Encode as a JPEG of low quality, and decode."""

    def compress(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _each(images, compress)


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A corruption function and its strength at each severity.

    Attributes:
        family: `noise`, `blur`, `weather` or `digital`.
        apply: a function of this module.
        strengths: further arguments of `apply`, by severity.
    """

    family: str
    apply: Callable[..., np.ndarray]
    strengths: tuple[tuple[float, ...], ...]


SEVERITIES = (1, 2, 3, 4, 5)

#: By name, in the paper's order. The strengths are those of the authors' `make_cifar_c.py`.
# fmt: off
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": Corruption("noise", shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": Corruption("noise", impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": Corruption(
        "blur", defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": Corruption(
        "blur", glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": Corruption("blur", motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Corruption("blur", zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))),
    "snow": Corruption("weather", snow, (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8))),
    "frost": Corruption("weather", frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": Corruption("weather", fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption("weather", brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": Corruption("digital", contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": Corruption("digital", elastic_transform, (
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
    "pixelate": Corruption("digital", pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": Corruption("digital", jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}
# fmt: on


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupt images, deterministically.

    Args:
        images: uint8 [N, H, W, C], of any size, with one or three channels.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: seed of the random draws, which also depend on corruption and severity.

    Returns:
        uint8 [N, H, W, C].
    """
    corruption = CORRUPTIONS[name]
    draw = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    values = images.astype(np.float32) / np.float32(255)
    corrupted = corruption.apply(values, draw, *corruption.strengths[severity - 1])
    # Truncate instead of rounding, as in CIFAR-10-C.
    bytes_of_images: np.ndarray = (np.clip(corrupted, 0, 1) * 255).astype(np.uint8)
    return bytes_of_images


def _gaussian(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of each channel of [N, H, W, C], truncated at four sigma, border repeated."""
    blurred: np.ndarray = ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
    return blurred


def _motion(images: np.ndarray, radius: int, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """ImageMagick's motion blur: half a Gaussian along a line of 2 · radius + 1 whole pixels.

    Args:
        images: float [N, H, W, C].
        radius: half the length of the line, in pixels.
        sigma: standard deviation of the Gaussian, in pixels.
        degrees: each image's direction, float [N].
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


def _zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the centre of images [N, H, W, C] linearly by `factor` >= 1."""
    down, across = (_zoom_matrix(side, factor) for side in images.shape[1:3])
    wide = np.einsum("ij,njwc->niwc", down, images, optimize=True)
    zoomed: np.ndarray = np.einsum("ij,nhjc->nhic", across, wide, optimize=True)
    return zoomed


def _zoom_matrix(side: int, factor: float) -> np.ndarray:
    """The matrix that enlarges the centre of one axis by `factor`: float32 [side, side]."""
    size = int(np.ceil(side / factor))
    start = (side - size) // 2
    crop = np.eye(side, dtype=np.float64)[start : start + size]
    enlarged = ndimage.zoom(crop, (factor, 1), order=1)
    trim = (len(enlarged) - side) // 2
    matrix: np.ndarray = enlarged[trim : trim + side].astype(np.float32)
    return matrix


def sample(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, repeat_border: bool = False
) -> np.ndarray:
    """Sample images at fractional positions: bilinear, mirrored at the border.

    Args:
        images: float [N, H, W, C].
        rows, columns: positions, float [N, H, W].
        repeat_border: mirror behind the border pixel (SciPy's `reflect`), not at it (OpenCV's
            `BORDER_REFLECT_101`).

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


def _mirrored(positions: np.ndarray, length: int, repeat_border: bool) -> np.ndarray:
    """Fold positions into 0 to length - 1."""
    period = 2 * (length - 1 + repeat_border)
    within = positions % period
    folded: np.ndarray = np.minimum(within, period - repeat_border - within)
    return folded


def _affine_sources(
    count: int, height: int, width: int, reach: float, draw: np.random.Generator
) -> np.ndarray:
    """Source positions under an affine map that moves three corners by up to `reach` pixels.

    Returns:
        float64 [count, 2, 3]: (row, column) = matrix · (row, column, 1).
    """
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    corners = middle + arm * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    moved = corners + draw.uniform(-reach, reach, (count, 3, 2))
    with_one = np.concatenate([moved, np.ones((count, 3, 1))], axis=2)
    # The matrix that maps the moved corners back: with_one · matrixᵀ = corners.
    solved: np.ndarray = np.linalg.solve(with_one, np.broadcast_to(corners, (count, 3, 2)))
    return solved.transpose(0, 2, 1)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a Pillow function to each image, converted to bytes."""
    # Pillow has no channel axis for greyscale images.
    values = np.rint(images * 255).astype(np.uint8).reshape(images.shape[: 4 if images.shape[3] == 3 else 3])
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in values])
    # Slightly above the byte, so that truncation returns the byte.
    return (changed.reshape(images.shape).astype(np.float32) + np.float32(0.01)) / np.float32(255)


@functools.cache
def frost_texture() -> np.ndarray:
    """Branching ice needles over a cloudy background: float32 [256, 256, 3], 0 to 1."""
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
    """Add a straight line to `ice`, brightest in its middle, that wraps around at the border."""
    along = np.arange(-length / 2, length / 2 + 0.5, 0.5)
    rows = np.rint(centre[0] + along * np.sin(turn)).astype(int) % len(ice)
    columns = np.rint(centre[1] + along * np.cos(turn)).astype(int) % len(ice)
    ice[rows, columns] += 0.5 * (1 - np.abs(along) / (length / 2 + 0.5))


def plasma(count: int, side: int, decay: float, draw: np.random.Generator) -> np.ndarray:
    """Clouds by the diamond-square algorithm (Fournier, Fussell & Carpenter 1982), tileable.

    Each new point is the mean of its four neighbours plus a random step. Each halving of the
    distance divides `wobble` by `decay`; steps are proportional to its square, as in CIFAR-10-C.

    Args:
        count: number of clouds.
        side: size in pixels, a power of two.
        decay: divides `wobble` at each halving.
        draw: random generator.

    Returns:
        float32 [count, side, side], each from 0 to 1.
    """
    heights = np.zeros((count, side, side))
    step, wobble = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        rows = corners + np.roll(corners, -1, 1)
        middles = _wobbled(rows + np.roll(rows, -1, 2), wobble, draw)
        upright = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = _wobbled(upright, wobble, draw)
        level = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = _wobbled(level, wobble, draw)
        step, wobble = half, wobble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    clouds: np.ndarray = (heights / heights.max(axis=(1, 2), keepdims=True)).astype(np.float32)
    return clouds


def _wobbled(sums_of_four: np.ndarray, wobble: float, draw: np.random.Generator) -> np.ndarray:
    wobbled: np.ndarray = sums_of_four / 4 + wobble * draw.uniform(-wobble, wobble, sums_of_four.shape)
    return wobbled
