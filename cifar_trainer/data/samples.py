"""Write sample images of a prepared data set: samples.png, and the files in samples/."""

import functools
import importlib.util
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar_trainer import files
from cifar_trainer.data.dataset import ImageSet
from cifar_trainer.images import encode_png

#: Images per class, and maximum number of classes, in samples.png.
PER_CLASS, MAX_ROWS = 10, 100
#: Test images in samples/.
FILES = 10
_TILE = 64
_GAP = 4
_LABEL_WIDTH = 112
_MARGIN = 12
#: System fonts with Chinese, Japanese and Korean letters. Pillow finds them by name.
_OTHER_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "PingFang.ttc", "Arial Unicode.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_samples(folder: Path, found: ImageSet) -> None:
    """Write samples.png, ten training images of each class in a row, and samples/, ten test images."""
    train = found.splits["train"]
    step = _TILE + _GAP
    width = _LABEL_WIDTH + PER_CLASS * step - _GAP + 2 * _MARGIN
    height = min(len(found.classes), MAX_ROWS) * step - _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for label, name in enumerate(found.classes[:MAX_ROWS]):
        top = _MARGIN + label * step
        text, font = _legible(name, label)
        draw.text((_MARGIN, top + _TILE // 2), text, fill="#222222", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(train.labels == label)[:PER_CLASS]):
            image = train.images[index][..., 0] if train.images.shape[3] == 1 else train.images[index]
            tile = Image.fromarray(image).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + _LABEL_WIDTH + column * step, top))
    with files.atomic_writer(folder / "samples.png") as file:
        sheet.save(file, format="PNG")
    _write_files(folder / "samples", found)


def _write_files(folder: Path, found: ImageSet) -> None:
    test = found.splits["test"]
    folder.mkdir()
    # The first test image of each class, then the second of each, and so on.
    ranks = np.zeros(len(test), np.int64)
    for label in range(len(found.classes)):
        members = np.flatnonzero(test.labels == label)
        ranks[members] = np.arange(len(members))
    for index in np.lexsort((test.labels, ranks))[:FILES]:
        name = re.sub(r"[^\w.-]+", "_", found.classes[test.labels[index]]).strip("._")[:50] or "image"
        path = folder / f"{name}.png"
        if path.exists():
            path = folder / f"{name}-{index}.png"
        path.write_bytes(encode_png(test.images[index]))


def _legible(name: str, label: int) -> tuple[str, Font]:
    """A class name cut to the width of its column, or the class's number, and a font for it."""
    short = "".join(c if c.isprintable() else "?" for c in name)
    short = short if len(short) <= 12 else short[:11] + "…"
    for font in _fonts():
        if all(_has_letter(font, letter) for letter in short):
            return short, font
    return f"class {label}", _fonts()[0]


@functools.cache
def _fonts() -> tuple[Font, ...]:
    # DejaVu is part of matplotlib, but importing that takes a second.
    found = importlib.util.find_spec("matplotlib")
    origin = Path(found.origin).parent if found is not None and found.origin else Path()
    fonts: list[Font] = []
    for name in (str(origin / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), *_OTHER_FONTS):
        try:
            fonts.append(ImageFont.truetype(name, 14))
        except OSError:
            continue
    return tuple(fonts) or (ImageFont.load_default(size=14),)


def _has_letter(font: Font, letter: str) -> bool:
    """Whether a font has a letter, rather than a box in its place."""
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
