"""The augmentations of `--augment`. Imports TensorFlow.

All operations map uint8 images to uint8 images, with integers and stateless random numbers. The same seed and
step therefore give bit-identical images, also under XLA, after a resume, and in a group of seeds.
Keras's layers cannot do this: their random numbers differ under XLA, RandAugment applies the same operations
to a whole batch, and neither XLA nor `vectorized_map` supports their affine transforms.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

#: 1 as a fixed-point number, with 16 fractional bits.
_ONE = 1 << 16
#: The operations of RandAugment; the last one is the identity.
(
    _ROTATE, _SHEAR_X, _SHEAR_Y, _TRANSLATE_X, _TRANSLATE_Y, _COLOR, _CONTRAST, _BRIGHTNESS, _SHARPNESS,
    _AUTOCONTRAST, _EQUALIZE, _SOLARIZE, _POSTERIZE, _IDENTITY,
) = range(14)  # fmt: skip
#: Grey value of pixels from outside the image, as in RandAugment's code.
_OUTSIDE = 128


def apply_operations(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, operations: Mapping[str, Sequence[Any]]
) -> tuple[tf.Tensor, ...]:
    """Apply operations of `--augment`, each with its arguments. Returns the images or the fields of Mixed."""
    if "crop" in operations or "flip" in operations:
        (padding,) = operations.get("crop", (0,))
        images = crop_and_flip(images, seed, padding=padding, flip="flip" in operations)
    if "randaugment" in operations:
        images = randaugment(images, tf.add(seed, [1, 0]), *operations["randaugment"])
    if "erase" in operations:
        images = erase(images, tf.add(seed, [2, 0]), *operations["erase"])
    alphas = {name: operations[name][0] for name in ("mixup", "cutmix") if name in operations}
    return mix(images, labels, tf.add(seed, [4, 0]), **alphas) if alphas else (images,)


def _draw(shape: list[int], seed: tf.Tensor, high: int = _ONE) -> tf.Tensor:
    """Uniform integers from 0 to below `high`, int32."""
    # Name Philox explicitly: by default, XLA draws different numbers than the CPU.
    return tf.random.stateless_uniform(shape, seed, 0, high, tf.int32, alg="philox")


def _whole(fractions: tf.Tensor) -> tf.Tensor:
    """Round fixed-point numbers, int32, down to whole numbers."""
    return tf.bitwise.right_shift(fractions, 16)


def take_pixels(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """The pixels at these positions, by a single gather.

    Args:
        images: [B, H, W, C].
        rows, columns: int32 [B, H', W']; for a grid, also [B, H', 1] and [B, 1, W'].

    Returns:
        [B, H', W', C].
    """
    height, width, channels = images.shape[1:]
    # tf.gather_nd takes more than twice as long on a CPU.
    positions = (tf.range(tf.shape(images)[0])[:, None, None] * height + rows) * width + columns
    return tf.gather(tf.reshape(images, [-1, channels]), positions)


# Below, `images` is uint8 [B, H, W, C], and `seed` is int32 [2]; the same seed gives the same images.


def crop_and_flip(images: tf.Tensor, seed: tf.Tensor, *, padding: int, flip: bool) -> tf.Tensor:
    """Pad with black and crop at random; flip half of the images left to right (He et al. 2016, section 4.2).

    Args:
        padding: pixels on each side.
        flip: whether to flip.
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    draws = _draw([count, 3], seed, 2 * (2 * padding + 1))
    offsets = draws[:, 1:] // 2
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    down, along = tf.range(height), tf.range(width)
    if flip:
        along = tf.where(draws[:, :1] % 2 == 1, along[::-1], along)
    return take_pixels(padded, (offsets[:, :1] + down)[:, :, None], (offsets[:, 1:] + along)[:, None])


def randaugment(images: tf.Tensor, seed: tf.Tensor, operations: int, magnitude: int) -> tf.Tensor:
    """RandAugment (Cubuk et al. 2020, section 3), with the ranges of AutoAugment (2019, table 6).

    Args:
        operations: N, the number of operations per image, drawn from 14; one of the 14 does nothing.
        magnitude: M, the strength of all operations, from 0 to 10; each direction is random.
    """
    drawn = _draw([images.shape[0], operations], seed, 2 * (_IDENTITY + 1))
    for i in range(operations):
        kinds, signs = drawn[:, i] // 2, drawn[:, i] % 2 * 2 - 1
        images = _recolor(_move(images, kinds, signs, magnitude / 10), kinds, signs, magnitude / 10)
    return images


def _move(images: tf.Tensor, kinds: tf.Tensor, signs: tf.Tensor, strength: float) -> tf.Tensor:
    """Rotate, shear or translate images of these kinds around the centre; nearest-neighbour sampling."""
    shape = height, width = images.shape[1:3]
    angle = math.radians(30) * strength
    cosine = tf.where(kinds == _ROTATE, round(math.cos(angle) * _ONE), _ONE)[:, None, None]
    sine, x_shear, y_shear, x_shift, y_shift = (
        tf.where(kinds == kind, signs * round(amount * _ONE), 0)[:, None, None]
        for kind, amount in (
            (_ROTATE, math.sin(angle)), (_SHEAR_X, 0.3 * strength), (_SHEAR_Y, 0.3 * strength),
            (_TRANSLATE_X, round(150 / 331 * strength * width)),
            (_TRANSLATE_Y, round(150 / 331 * strength * height)),
        )
    )  # fmt: skip
    # Twice the distance from the centre, which may be between two pixels.
    down, along = (2 * tf.range(size) - (size - 1) for size in shape)
    down, along = down[None, :, None], along[None, None]
    rows = cosine * down + (sine + y_shear) * along + 2 * y_shift
    columns = cosine * along + (x_shear - sine) * down + 2 * x_shift
    rows, columns = (
        tf.bitwise.right_shift(at + size * _ONE, 17) for at, size in zip((rows, columns), shape, strict=True)
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = tf.clip_by_value(rows, 0, height - 1), tf.clip_by_value(columns, 0, width - 1)
    return tf.where(inside[..., None], take_pixels(images, rows, columns), tf.constant(_OUTSIDE, tf.uint8))


def _recolor(images: tf.Tensor, kinds: tf.Tensor, signs: tf.Tensor, strength: float) -> tf.Tensor:
    """Change the colours of images of these kinds, as Pillow's ImageEnhance and ImageOps do."""
    kinds, signs = kinds[:, None, None, None], signs[:, None, None, None]
    x = tf.cast(images, tf.int32)
    # Luminance as in ITU-R BT.601.
    weights = (19595, 38470, 7471) if x.shape[3] == 3 else (_ONE // x.shape[3],) * x.shape[3]
    gray = _whole(tf.reduce_sum(x * weights, -1, keepdims=True) + _ONE // 2)
    # Enhancements move towards or away from an image without colour, contrast, sharpness or brightness.
    without = tf.where(kinds == _COLOR, gray, tf.where(kinds == _SHARPNESS, _smoothed(x), 0))
    mean = tf.reduce_sum(gray, [1, 2], keepdims=True) // (x.shape[1] * x.shape[2])
    without = tf.where(kinds == _CONTRAST, mean, without)
    enhanced = without + _whole((_ONE + signs * round(0.9 * strength * _ONE)) * (x - without) + _ONE // 2)
    changes = {
        **dict.fromkeys((_COLOR, _CONTRAST, _BRIGHTNESS, _SHARPNESS), tf.clip_by_value(enhanced, 0, 255)),
        _AUTOCONTRAST: _stretched(x),
        _EQUALIZE: _equalized(x),
        _SOLARIZE: tf.where(x < round(256 * (1 - strength)), x, 255 - x),
        _POSTERIZE: x - x % (1 << round(4 * strength)),
    }
    for kind, changed in changes.items():
        x = tf.where(kinds == kind, changed, x)
    return tf.cast(x, tf.uint8)


def _smoothed(x: tf.Tensor) -> tf.Tensor:
    """A weighted mean of 3×3 pixels: the centre counts five times. The border is unchanged."""
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    inner = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1] + 6) // 13
    middle = tf.concat([x[:, 1:-1, :1], inner, x[:, 1:-1, -1:]], 2)
    return tf.concat([x[:, :1], middle, x[:, -1:]], 1)


def _stretched(x: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0 to 255."""
    low, high = tf.reduce_min(x, [1, 2], keepdims=True), tf.reduce_max(x, [1, 2], keepdims=True)
    return tf.where(high > low, (x - low) * 255 // tf.maximum(high - low, 1), x)


def _equalized(x: tf.Tensor) -> tf.Tensor:
    """Equalize the histogram of each channel."""
    count, height, width, channels = x.shape
    bins = x + 256 * tf.reshape(tf.range(count * channels), [count, 1, 1, channels])
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, 256 * count * channels)
    below = tf.cumsum(tf.reshape(histogram, [-1, 256]), axis=1, exclusive=True)
    below = tf.gather(tf.reshape(below, [-1]), bins)
    highest = tf.cast(x == tf.reduce_max(x, [1, 2], keepdims=True), tf.int32)
    step = (height * width - tf.reduce_sum(highest, [1, 2], keepdims=True)) // 255
    return tf.where(step > 0, tf.minimum((below + step // 2) // tf.maximum(step, 1), 255), x)


def erase(images: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Random erasing (Zhong et al. 2020, section 3): fill a rectangle of some images with random values.

    The rectangle has 2 to 40 % of the image's area and an aspect ratio of 0.3 to 3.33, and fits in the image.

    Args:
        probability: share of the images to change.
    """
    shape = tuple(images.shape[1:3])
    grid = (np.arange(64) + 0.5) / 64
    areas, ratios = (0.02 + 0.38 * grid)[:, None] * math.prod(shape), 0.3 + (1 / 0.3 - 0.3) * grid
    sizes = np.sqrt([areas * ratios, areas / ratios]).round().astype(np.int32).reshape(2, -1).T
    sizes = sizes[(sizes <= shape).all(axis=1)]
    drawn = _draw([images.shape[0], 4], seed)
    size = tf.gather(sizes, _whole(len(sizes) * drawn[:, 0]))
    start = _whole((shape - size + 1) * drawn[:, 1:3])
    erased = _box(start, start + size, shape) & (drawn[:, 3, None, None] < round(probability * _ONE))
    noise = tf.cast(_draw(images.shape, tf.add(seed, [1, 0]), 256), tf.uint8)
    return tf.where(erased[..., None], noise, images)


def _box(start: tf.Tensor, end: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
    """Whether a pixel is in its image's rectangle: bool [B, H, W], for corners [B, 2] of row and column."""
    down, along = (
        (start[:, i, None] <= tf.range(size)) & (tf.range(size) < end[:, i, None])
        for i, size in enumerate(shape)
    )
    return down[:, :, None] & along[:, None]


def mix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, mixup: float = 0, cutmix: float = 0
) -> tuple[tf.Tensor, ...]:
    """Mix each image with the previous one in its batch, and the first with the second.

    λ is drawn from Beta(α, α) for each image. If both kinds are given, each has probability 1/2.

    - mixup (Zhang et al. 2018, section 2): λ times the image plus 1 - λ times the other one.
    - CutMix (Yun et al. 2019, section 3.1): a rectangle of the other image around a random pixel, with
      √(1 - λ) of the image's height and width. λ is adjusted if part of it is outside the image.

    Args:
        labels: [B].
        mixup, cutmix: α of Beta(α, α), or 0 for none.

    Returns:
        The fields of `recipe.Mixed`.
    """
    count, *shape = images.shape[:3]
    # Not a permutation, which could mix in the padding at the batch's end.
    partners = tf.minimum(tf.abs(tf.range(count) - 1), count - 1)
    others = tf.gather(images, partners)
    drawn = _draw([count, 4], seed)
    # Equally likely quantiles of Beta(α, α).
    quantile, quantiles = drawn[:, 0] // 16, (np.arange(4096) + 0.5) / 4096
    mixed, share = images, tf.ones([count])
    if mixup:
        weights = (betaincinv(mixup, mixup, quantiles) * _ONE).round().astype(np.int32)
        weight = tf.gather(weights, quantile)
        own, other = tf.cast(images, tf.int32), tf.cast(others, tf.int32)
        mixed = tf.cast(other + _whole(weight[:, None, None, None] * (own - other) + _ONE // 2), tf.uint8)
        share = tf.cast(weight, tf.float32) / _ONE
    if cutmix:
        halves = np.sqrt(1 - betaincinv(cutmix, cutmix, quantiles))[:, None] * shape // 2
        half = tf.gather(halves.astype(np.int32), quantile)
        middle = _whole(shape * drawn[:, 1:3])
        box = _box(middle - half, middle + half, shape)
        cut = tf.where(box[..., None], others, images)
        # A count and a single product are the same on every device.
        kept = tf.cast(tf.math.count_nonzero(~box, [1, 2]), tf.float32) * (1 / math.prod(shape))
        chosen = (drawn[:, 3] % 2 == 0) | (not mixup)
        mixed, share = tf.where(chosen[:, None, None, None], cut, mixed), tf.where(chosen, kept, share)
    return mixed, tf.gather(labels, partners), share
