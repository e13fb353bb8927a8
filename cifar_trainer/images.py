"""From any picture to the uint8 [32, 32, 3] that every artefact takes, in one defined way.

1. The format is told by content; width and height are read from the header, and
   more than MAX_PIXELS are refused before anything is decoded.
2. Of an animation, the first frame. An EXIF orientation is applied.
3. Palette, grey, bilevel, CMYK and YCbCr become RGB (Pillow's conversions; colour
   profiles are passed over). Of 16 bits the upper 8 are kept.
4. What is transparent is laid on white.
5. The whole picture is resized to 32x32, its proportions given up, with a triangle
   filter that widens when it shrinks (Pillow's BILINEAR).

`export.encoded_pictures` does the same inside a SavedModel.
"""

import dataclasses
import io
import re
import warnings

import numpy as np
from PIL import Image, ImageOps

SIZE = 32
#: Width times height beyond which a picture is refused; 256 MB when decoded with alpha.
MAX_PIXELS = 64_000_000
#: Bytes beyond which a file or stream is not read on.
MAX_BYTES = 256 * 2**20
#: Pillow's names of what is read. Its JPEG reader calls what some cameras write MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_READ = "Expected PNG, JPEG, WebP, GIF or BMP."
#: How files of these formats begin; a `.` stands for any byte.
_BEGINNINGS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
}
#: Pixels that are laid on white at a time: their 32-bit copies are several times as large as they are.
_BAND_PIXELS = 2**20


class ImageError(Exception):
    """A picture that cannot be used, and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded picture.

    Attributes:
        pixels: uint8 [32, 32, 3], RGB.
        format: as its content says, such as `JPEG`.
        mode: Pillow's name of how its pixels were stored, such as `RGB`.
        width, height: as stored, before an EXIF orientation.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int


def decode_image(content: bytes) -> DecodedImage:
    """Decode the bytes of a picture file.

    Raises:
        ImageError: it is empty, truncated, no picture, or larger than MAX_PIXELS.
    """
    if not content:
        raise ImageError(f"it is empty. {_READ}")
    image = _open(content)
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"it has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded. Reduce it."
        )
    name, mode, width, height = image.format or "", image.mode, image.width, image.height
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ImageOps.exif_transpose(image, in_place=True)
            pixels = resize(to_rgb(image))
    except Exception as error:  # Pillow's decoders raise all sorts at damaged files.
        raise ImageError(f"it is a {name} that cannot be decoded: {error}.") from error
    return DecodedImage(pixels, name, mode, width, height)


def _open(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # MAX_PIXELS is checked by the caller; faults of the metadata alone do not matter.
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has too many pixels; at most {MAX_PIXELS:,} are decoded.") from error
    except Exception as error:  # As above, already at the header.
        raise ImageError(f"{_what_it_is(content)} {_READ}") from error


def _what_it_is(content: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f"it is a {Image.open(io.BytesIO(content)).format}, which is not read."
    except Exception:
        for name, beginning in _BEGINNINGS.items():
            if re.match(beginning, content, re.DOTALL):
                return f"it begins as a {name}, but is truncated or damaged."
        return f"it is no picture; it begins with {content[:12]!r}."


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB, on white where it is transparent."""
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion of 16 bits would clip at 255 instead of scaling.
    values = np.asarray(image)
    reduced = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        reduced.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return reduced


def _on_white(image: Image.Image) -> Image.Image:
    rgba = np.asarray(image)
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for start in range(0, len(rgba), rows):
        band = rgba[start : start + rows].astype(np.float32)
        alpha = band[..., 3:] / 255
        rgb[start : start + rows] = np.rint(band[..., :3] * alpha + 255 * (1 - alpha))
    return Image.fromarray(rgb)


def resize(image: Image.Image) -> np.ndarray:
    """An RGB picture as uint8 [32, 32, 3]; one of that size is left as it is."""
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 [H, W, 3], as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
