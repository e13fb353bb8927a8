"""Fifteen image corruptions at five severities (Hendrycks & Dietterich 2019)."""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
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
    shuffled = np.floor(gaussian(images, sigma) * 255) / np.float32(255)
    count, side = images.shape[:2]
    inner = np.arange(reach + 1, side - reach + 1)
    for _ in range(times):
        down, right = draw.integers(-reach, reach, (2, count, len(inner), len(inner)))
        # From the far corner on, so that each pixel reads one that has not changed yet: all at once.
        shuffled[:, inner[:, None], inner] = shuffled[
            np.arange(count)[:, None, None], inner[:, None] + down, inner + right
        ]
    return gaussian(shuffled, sigma)


def motion_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """A streak in a direction of its own for each picture, from -45° to 45°."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return motion(images, radius, sigma, draw.uniform(-45, 45, len(images)))


def zoom_blur(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """The mean of the picture and of its enlargements, one per cent apart."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, largest, 0.01)
    total = images + sum(zoom(images, float(factor)) for factor in factors)
    mean: np.ndarray = total / np.float32(len(factors) + 1)
    return mean


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
    turned = sample(images, *np.einsum("nij,jhw->inhw", sources, np.stack([rows, columns, rows**0])))
    fields = draw.uniform(-1, 1, (2, count, side, side))
    sigma = smoothness * side
    down, right = strength * side * ndimage.gaussian_filter(fields, (0, 0, sigma, sigma), truncate=3.0)
    return sample(turned, rows + down, columns + right, repeat_border=True)


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
    flakes = zoom(flakes, size)
    flakes = np.where(flakes < least, np.float32(0), np.clip(flakes, 0, 1))
    flakes = motion(flakes, radius, sigma, draw.uniform(-135, -45, len(images)))
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


Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = (1, 2, 3, 4, 5)

#: By name, in the paper's order. Each takes pictures as float32 [N, 32, 32, 3] from 0 to
#: 1, a severity and a generator, and gives pictures that may leave that range.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
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
