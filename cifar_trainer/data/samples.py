"""samples.png: what the prepared pictures look like, ten of each class."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar_trainer import files

PER_CLASS = 10
_SCALE = 2
_TILE = 32 * _SCALE
_GAP = 4
_LABEL_WIDTH = 112
_MARGIN = 12


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draw the first ten training images of each class, a row a class, with its name.

    Args:
        path: where the PNG goes.
        images: uint8 [N, 32, 32, 3], RGB.
        labels: uint8 [N].
        classes: the names, by label.
    """
    step = _TILE + _GAP
    width = _LABEL_WIDTH + PER_CLASS * step - _GAP + 2 * _MARGIN
    height = len(classes) * step - _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for label, name in enumerate(classes):
        top = _MARGIN + label * step
        draw.text((_MARGIN, top + _TILE // 2), _shown(name), fill="#222222", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(labels == label)[:PER_CLASS]):
            tile = Image.fromarray(images[index]).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + _LABEL_WIDTH + column * step, top))
    with files.atomic_writer(path) as file:
        sheet.save(file, format="PNG")


def _shown(name: str) -> str:
    """A class's name as far as the column holds it."""
    short = "".join(c if c.isprintable() else "?" for c in name)
    return short if len(short) <= 12 else short[:11] + "…"
