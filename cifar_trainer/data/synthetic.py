"""The synthetic data set: ten classes of drawn 32×32 images, the same bytes on every machine.

All arithmetic is on integers, from the raw words of PCG64, which NumPy guarantees not to change (NEP 19).
Shapes vary in position, size, angle and colour. Behind a shape are a gradient and clutter; patches in front
hide parts of it, and noise covers everything. A small network learns the classes in a few epochs, but not
without errors.
"""

from collections.abc import Mapping

import numpy as np

from cifar_trainer.data.dataset import DatasetSpec, ImageSet, Split

CLASSES = ("bar", "checks", "crescent", "cross", "disc", "frame", "ring", "square", "stripes", "triangle")
TRAIN_IMAGES = 10_000
TEST_IMAGES = 2_000
SEED = 20261123

#: round(256 * sin(i * 90° / 16)), as constants because the last digit of a library's sine may differ.
_QUARTER = (0, 25, 50, 74, 98, 121, 142, 162, 181, 198, 213, 226, 237, 245, 251, 255, 256)
_HALF = (*_QUARTER, *_QUARTER[15:0:-1])
_SINE = np.array([*_HALF, *(-value for value in _HALF)], np.int16)


def draw_dataset(counts: Mapping[str, int] | None = None) -> ImageSet:
    """Draw images. The classes are equally large and take turns.

    Args:
        counts: images of each split, multiples of ten; by default 10,000 for training and 2,000 for testing.
            With other numbers, the images are others.
    """
    draw = _Draw(SEED)
    splits = {}
    for split, count in (counts or {"train": TRAIN_IMAGES, "test": TEST_IMAGES}).items():
        each = count // len(CLASSES)
        drawn = np.stack([_draw_class(name, each, draw) for name in CLASSES], axis=1)
        labels = np.tile(np.arange(len(CLASSES), dtype=np.uint8), each)
        splits[split] = Split(drawn.reshape(count, 32, 32, 3), labels)
    return ImageSet(CLASSES, splits)


class _Draw:
    """Random integers from the raw words of PCG64."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.PCG64(seed)

    def between(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Uniform random numbers, low <= x <= high, int16 of `shape`."""
        count = int(np.prod(shape))
        raw = self._words.random_raw(count) >> np.uint64(32)
        scaled = (raw * np.uint64(high - low + 1)) >> np.uint64(32)
        numbers: np.ndarray = (scaled.astype(np.int64) + low).astype(np.int16)
        return numbers.reshape(shape)

    def noise(self, *shape: int) -> np.ndarray:
        """Approximately normal noise, -510 to 510: the sum of four bytes minus its mean, int16 of `shape`."""
        raw = self._words.random_raw(int(np.prod(shape)) // 2).astype("<u8").view(np.uint8)
        sums: np.ndarray = raw.reshape(-1, 4).sum(1, dtype=np.int16)
        return (sums - np.int16(510)).reshape(shape)


def _draw_class(name: str, count: int, draw: _Draw) -> np.ndarray:
    """Draw `count` images of one class: uint8 [count, 32, 32, 3]."""
    # A gradient from one dim colour to another, in a random direction.
    first, second = draw.between(10, 140, count, 1, 1, 3), draw.between(10, 140, count, 1, 1, 3)
    u, _ = _turned(32, 15, 15, draw.between(0, 63, count))
    share = (u + 23)[..., None]
    canvas = first + (second - first) * share // 46

    for _ in range(2):
        canvas = np.where(_patch(count, draw)[..., None], draw.between(0, 255, count, 1, 1, 3), canvas)

    # Draw at twice the size and average, so that edges are smooth.
    turned = _turned(64, draw.between(22, 42, count), draw.between(22, 42, count), draw.between(0, 63, count))
    inside = _shape(name, draw.between(10, 26, count)[:, None, None], *turned)
    covered = inside.reshape(count, 32, 2, 32, 2).sum((2, 4), dtype=np.int16)[..., None]
    light = draw.between(24, 120, count, 1, 1, 3) + np.maximum(first, second)
    canvas = canvas + (np.minimum(light, 255) - canvas) * covered // 4

    for _ in range(2):
        canvas = np.where(_patch(count, draw)[..., None], draw.between(0, 255, count, 1, 1, 3), canvas)
    noise = draw.noise(count, 32, 32, 3) * draw.between(4, 32, count, 1, 1, 1) // 148
    images: np.ndarray = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return images


def _patch(count: int, draw: _Draw) -> np.ndarray:
    """A mask of a small bar at a random position: bool [count, 32, 32]."""
    u, v = _turned(32, draw.between(0, 31, count), draw.between(0, 31, count), draw.between(0, 63, count))
    length, width = draw.between(1, 7, count, 1, 1), draw.between(0, 2, count, 1, 1)
    inside: np.ndarray = (np.abs(u) <= length) & (np.abs(v) <= width)
    return inside


def _turned(
    side: int, x: np.ndarray | int, y: np.ndarray | int, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates around (x, y), turned by `turn` 64ths of a circle: int16 [N, side, side] each."""
    row, column = np.mgrid[:side, :side].astype(np.int16)
    dx = column - np.broadcast_to(np.int16(x), turn.shape)[:, None, None]
    dy = row - np.broadcast_to(np.int16(y), turn.shape)[:, None, None]
    sine, cosine = _SINE[turn][:, None, None], _SINE[(turn + 16) % 64][:, None, None]
    # At most 45 * 256 * 1.5, which fits into 16 bits.
    return (dx * cosine + dy * sine) >> 8, (dy * cosine - dx * sine) >> 8


def _shape(name: str, r: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A mask of the points inside the shape `name` with radius `r`: bool, like `u` and `v`."""
    away = u * u + v * v
    square = np.maximum(np.abs(u), np.abs(v))
    side = r * 7 // 8
    period = np.maximum(r // 3, 4)
    thin = np.maximum(r // 4, 3)
    inside: np.ndarray
    match name:
        case "bar":
            inside = (np.abs(u) <= r) & (np.abs(v) <= thin)
        case "checks":
            inside = (square <= side) & (((u + 64) // period + (v + 64) // period) % 2 == 0)
        case "crescent":
            inside = (away <= r * r) & ((u - r // 2) ** 2 + v * v > side * side)
        case "cross":
            inside = (square <= r) & (np.minimum(np.abs(u), np.abs(v)) <= thin)
        case "disc":
            inside = away <= r * r
        case "frame":
            inside = (square <= side) & (square > side * 5 // 8)
        case "ring":
            inside = (away <= r * r) & (away > (r * 5 // 8) ** 2)
        case "square":
            inside = square <= side
        case "stripes":
            inside = (square <= side) & ((u + 64) // period % 2 == 0)
        case "triangle":
            # Almost equilateral, because 7/4 is close to the square root of 3.
            inside = (v <= r // 2) & (7 * np.abs(u) <= 4 * (v + r))
        case _:
            raise ValueError(f"There is no shape {name!r}.")
    return inside


SYNTHETIC = DatasetSpec(
    name="synthetic",
    title="synthetic images (not CIFAR-10)",
    classes=CLASSES,
    image_shape=(32, 32, 3),
    draw=draw_dataset,
    origin=f"drawn from the seed {SEED}",
    images=TRAIN_IMAGES + TEST_IMAGES,
    limits="Trained on drawn images: it knows nothing about photographs.",
)
