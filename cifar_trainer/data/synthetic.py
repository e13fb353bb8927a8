"""The synthetic set: ten classes of drawn 32×32 pictures, the same bytes on every machine.

Everything is whole-number arithmetic on the raw words of PCG64, which NumPy promises
not to change (NEP 19): no floating point, no library of mathematics, nothing that
differs between processors. The shapes vary in place, size, turn and colour, over a
background with a gradient, clutter and noise, and are partly covered, so that a small
network learns them in a few epochs but none gets all of them right.
"""

import numpy as np

from cifar_trainer.data.dataset import RawDataset

CLASSES = ("bar", "checks", "crescent", "cross", "disc", "frame", "ring", "square", "stripes", "triangle")
TRAIN_IMAGES = 10_000
TEST_IMAGES = 2_000
SEED = 20261123

#: Drawn at twice the size and averaged down, so that edges are smooth.
_SIDE = 64
_CHUNK = 500
#: round(1024 * sin(i * 90° / 16)), written out: a library's sine may differ in its last digit.
_QUARTER = (0, 100, 200, 297, 392, 483, 569, 650, 724, 792, 851, 903, 946, 980, 1004, 1019, 1024)
_SINE = np.array(
    [*_QUARTER[:16], *_QUARTER[16:0:-1], *(-v for v in _QUARTER[:16]), *(-v for v in _QUARTER[16:0:-1])],
    np.int32,
)


def draw_dataset() -> RawDataset:
    """Draw the whole set: 10,000 training and 2,000 test images, an equal share of each class."""
    words = np.random.PCG64(SEED)
    splits = []
    for count in (TRAIN_IMAGES, TEST_IMAGES):
        labels = (np.arange(count) % len(CLASSES)).astype(np.uint8)
        parts = [_draw(labels[start : start + _CHUNK], words) for start in range(0, count, _CHUNK)]
        splits += [np.concatenate(parts), labels]
    return RawDataset(CLASSES, *splits)


def _draw(labels: np.ndarray, words: np.random.PCG64) -> np.ndarray:
    """Draw one picture a label: uint8 [N, 32, 32, 3]."""
    count = len(labels)

    def between(low: int, high: int, *shape: int) -> np.ndarray:
        """Whole numbers low <= x <= high, int32 [count, *shape]."""
        size = (count, *shape)
        raw = words.random_raw(int(np.prod(size))) >> np.uint64(33)
        return (low + (raw % np.uint64(high - low + 1)).astype(np.int64)).astype(np.int32).reshape(size)

    def column(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    size = between(10, 24)
    shape = _shape(labels, size, *_turned(between(20, 44), between(20, 44), between(0, 63)), between)

    # Background: a gradient from one colour to another, in a random direction.
    first, second = between(20, 235, 3), between(20, 235, 3)
    u, _ = _turned(between(32, 32), between(32, 32), between(0, 63))
    share = np.clip(u + 46, 0, 92)[..., None]
    canvas = (first[:, None, None] * (92 - share) + second[:, None, None] * share) // 92

    for _ in range(3):  # clutter behind the shape: short bars in any colour
        u, v = _turned(between(0, 63), between(0, 63), between(0, 63))
        bar = (np.abs(u) <= column(between(3, 14))) & (np.abs(v) <= column(between(1, 3)))
        canvas = np.where(bar[..., None], between(0, 255, 3)[:, None, None], canvas)

    middle = (first + second) // 2
    step = between(28, 90, 3) * (1 - 2 * between(0, 1, 3))
    colour = np.where((middle + step < 0) | (middle + step > 255), middle - step, middle + step)
    canvas = np.where(shape[..., None], colour[:, None, None], canvas)

    for _ in range(2):  # and in front of it, where it hides a part
        u, v = _turned(between(0, 63), between(0, 63), between(0, 63))
        patch = (np.abs(u) <= column(between(2, 10))) & (np.abs(v) <= column(between(2, 5)))
        canvas = np.where(patch[..., None], between(0, 255, 3)[:, None, None], canvas)

    small = canvas.reshape(count, 32, 2, 32, 2, 3).sum((2, 4)) // 4
    strength = between(8, 48)[:, None, None, None]
    raw = words.random_raw(count * 32 * 32 * 3 // 2).astype("<u8").view(np.uint8)
    # The sum of four bytes is near to a bell curve.
    bell = raw.reshape(count, 32, 32, 3, 4).sum(4, dtype=np.int32) - 510
    return np.clip(small + bell * strength // 296, 0, 255).astype(np.uint8)


def _turned(x: np.ndarray, y: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates around (x, y), turned by `turn` 64ths of a circle: int32 [N, 64, 64] each."""
    row, col = np.mgrid[:_SIDE, :_SIDE].astype(np.int32)
    dx, dy = col[None] - x[:, None, None], row[None] - y[:, None, None]
    sine, cosine = _SINE[turn][:, None, None], _SINE[(turn + 16) % 64][:, None, None]
    return (dx * cosine + dy * sine) >> 10, (dy * cosine - dx * sine) >> 10


def _shape(labels: np.ndarray, size: np.ndarray, u: np.ndarray, v: np.ndarray, between) -> np.ndarray:
    """Which points lie in the shape of each picture's class: bool [N, 64, 64]."""
    r = size[:, None, None]
    away, square = u * u + v * v, np.maximum(np.abs(u), np.abs(v))
    side = r * 7 // 8
    period = np.maximum(r // 3, 3)
    disc = away <= r * r
    box = square <= side
    shapes = {
        "bar": (np.abs(u) <= r) & (np.abs(v) <= np.maximum(r // 4, 2)),
        "checks": box & (((u + 64) // period + (v + 64) // period) % 2 == 0),
        "crescent": disc & ((u - r // 2) ** 2 + v * v > (r * 7 // 8) ** 2),
        "cross": ((np.abs(u) <= r) & (np.abs(v) <= r // 4)) | ((np.abs(v) <= r) & (np.abs(u) <= r // 4)),
        "disc": disc,
        "frame": box & (square > side * 5 // 8),
        "ring": disc & (away > (r * 5 // 8) ** 2),
        "square": box,
        "stripes": box & ((u + 64) // period % 2 == 0),
        "triangle": (v <= r // 2) & (887 * np.abs(u) <= 512 * (v + r)),
    }
    return np.select([column == labels[:, None, None] for column in range(10)], [shapes[c] for c in CLASSES])
