"""Convert image files to uint8 pixels, in the same way for training and prediction.

1. The format is recognized by content. Width and height are read from the header; images of more than
   MAX_PIXELS are refused before decoding.
2. The first frame of an animation is used. An EXIF orientation is applied.
3. Palette, greyscale, bilevel, CMYK and YCbCr images become RGB (Pillow's conversions, but TensorFlow's for
   CMYK; colour profiles are ignored). Images of 16 bits per channel keep the upper 8 bits, unless the data
   set specifies the bits in use. For a data set with one channel, colours become greyscale (BT.601 luma).
4. Transparent parts become white.
5. The image is resized with a triangle filter that widens for downscaling (Pillow's BILINEAR), first along
   rows, then along columns: see `RESIZES`.

A `Preprocessing` holds the choices that differ between data sets. It is recorded with the data, the run and
every artefact. `artefacts.decoding` does the same in TensorFlow's graph.
"""

import dataclasses
import io
import re
import warnings
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cifar_trainer.errors import UsageError, printable

#: Maximum width × height of an image; 256 MB when decoded with alpha.
MAX_PIXELS = 64_000_000
#: Maximum size of a file or stream.
MAX_BYTES = 256 * 2**20
#: Signatures of the supported formats, by Pillow's names; regular expressions.
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
}
_EXPECTED = "Expected PNG, JPEG, WebP, GIF, BMP or TIFF."
#: Signatures of common unsupported formats. HEIC, written by phones, is an ISO base media file (ISO/IEC
#: 14496-12, section 4.3) whose brands identify its content.
_UNSUPPORTED = {
    "AVIF": rb"....ftyp.{0,52}avi[fs]",
    "HEIC": rb"....ftyp.{0,52}(hei[cxms]|hevc|m[is]f1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  ",
    "Photoshop": rb"8BPS",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?<svg\b",
}
#: The format implied by a file name's suffix.
FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
}
SUFFIXES = tuple(FORMAT_OF_SUFFIX)
#: Number of pixels to blend at a time, because float32 copies are several times as large.
_BAND_PIXELS = 2**20
_EXIF_ORIENTATION = 0x0112

#: The conversions that decoding may apply, and how to report them.
CONVERSIONS = {
    "first_frame": "animated; the first frame is used",
    "turned": "rotated by their EXIF orientation",
    "greyscale": "greyscale; converted to RGB",
    "palette": "with a palette; converted to RGB",
    "cmyk": "CMYK or another colour space; converted to RGB",
    "sixteen_bits": "16 bits per channel; reduced to 8",
    "transparent": "with transparency; blended onto white",
    "to_greyscale": "in colour; converted to greyscale",
    "resized": "resized",
}

#: Files that operating systems and programs create in folders.
_LEFTOVERS = re.compile(
    r"(^|/)(__MACOSX|__pycache__|\.ipynb_checkpoints|\.git|\.cache|\.Trashes|\.fseventsd|\.Spotlight-V100"
    r"|@eaDir|\$RECYCLE\.BIN|System Volume Information)(/|$)"
    r"|(^|/)(\.DS_Store|\._[^/]*|\.localized|\.directory|\.gitignore|\.gitattributes|\.gitkeep"
    r"|Icon\r|Thumbs\.db|ehthumbs\.db|desktop\.ini)$",
    re.IGNORECASE,
)


class ImageError(Exception):
    """An image cannot be used; the message says why.

    Attributes:
        peak: see `DecodedImage`.
    """

    peak: int | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """Sizes in pixels of an image and of the network's input, along one axis and the other.

    The image's sizes are numbers or TensorFlow scalars.
    """

    size: Any
    target: int
    other_size: Any
    other_target: int


#: Each mode returns, for one axis, the length of the central part of the image that is used, and its length
#: in the input. The rest of the input is white. `xp` is numpy or tensorflow.
RESIZES: dict[str, Callable[[Axis, ModuleType], tuple[Any, Any]]] = {
    "stretch": lambda a, xp: (a.size, a.target),
    "crop": lambda a, xp: (xp.minimum(a.size, a.other_size / (a.other_target / a.target)), a.target),
    "fit": lambda a, xp: (
        a.size,
        xp.maximum(xp.minimum(xp.round(a.size / a.other_size * a.other_target), a.target), 1),
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 [H, W, C]; RGB, or one greyscale channel.
        format: recognized by content, such as `JPEG`.
        mode: Pillow's mode of the stored pixels, such as `RGB`.
        width, height: as stored, before an EXIF orientation.
        conversions: the conversions applied, keys of `CONVERSIONS`.
        peak: the largest value of a greyscale image of more than 8 bits; None for other images.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int
    conversions: tuple[str, ...] = ()
    peak: int | None = None


def bits_in_use(peak: int) -> int:
    """The bits in use in a greyscale image whose largest value is `peak`: 8, 10, 12, 14 or 16."""
    return next(bits for bits in (8, 10, 12, 14, 16) if peak < 2**bits or bits == 16)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Attributes:
        image_shape: height, width and channels (3: RGB, 1: greyscale) of the input.
        resize: how images of other sizes are resized, one of `RESIZES`.
        grey_bits: bits in use in greyscale images of 16 or 32 bits, such as 12 for many cameras. None: all
            16, and images of 32 bits are refused, since their range is unknown.

    Raises:
        UsageError: the resize mode is unknown.
    """

    image_shape: tuple[int, int, int]
    resize: str = "stretch"
    grey_bits: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise UsageError(f"--resize {self.resize!r} is invalid. Choose from {', '.join(RESIZES)}.")

    def decode(self, content: bytes, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
        """Decode the bytes of an image file.

        Raises:
            ImageError: it is empty, truncated, damaged, not an image, or larger than `max_pixels`.
        """
        if not content:
            raise ImageError(f"it is empty. {_EXPECTED}")
        with warnings.catch_warnings():
            # The size is checked below, and damaged metadata alone is harmless.
            warnings.simplefilter("ignore")
            image = _open(content)
            name, mode, width, height = image.format or "", image.mode, image.width, image.height
            if width * height > max_pixels:
                raise ImageError(
                    f"it has {width}x{height} pixels; the limit is {max_pixels:,}. Make it smaller."
                )
            try:
                if name == "PNG":
                    _check_crcs(content)
                    _restore_transparency(image, content)
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                conversions = self._conversions(image, content, orientation)
                if orientation != 1:
                    ImageOps.exif_transpose(image, in_place=True)
                pixels = self.convert(image)
                peak = _peak(image)
            except ImageError:
                raise
            except Exception as error:  # Pillow's decoders raise all kinds of exceptions for damaged files.
                raise ImageError(f"it is a {name} that cannot be decoded: {error}.") from error
        # Pillow calls JPEGs with previews or a second view, as written by cameras, MPO.
        name = "JPEG" if name == "MPO" else name
        return DecodedImage(pixels, name, mode, width, height, conversions, peak)

    def convert(self, image: Image.Image) -> np.ndarray:
        """Turn an opened image of any mode and size into the input, uint8 [H, W, C].

        Raises:
            ImageError: the range of its values is unknown.
        """
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ImageError("floating-point images are not supported: their range is unknown.")
        if image.mode == "I" and (self.grey_bits is None or (_peak(image) or 0) >= 2**16):
            error = ImageError(
                "integer images of 32 bits are not supported: their range is unknown. Convert them to 16 "
                "bits."
            )
            error.peak = _peak(image)
            raise error
        if _is_deep(image.mode):
            image = _to_8_bits(image, self.grey_bits or 16)
        rgb = to_rgb(image)
        return self.resize_image(rgb if self.image_shape[2] == 3 else rgb.convert("L"))

    def resize_image(self, image: Image.Image) -> np.ndarray:
        """Resize an image of mode RGB, or L for one channel, to uint8 [H, W, C]."""
        height, width, _ = self.image_shape
        if image.size == (width, height):
            return np.asarray(image, np.uint8).reshape(self.image_shape)
        left, right, inner_width, x = self.place(Axis(image.width, width, image.height, height))
        top, bottom, inner_height, y = self.place(Axis(image.height, height, image.width, width))
        # Resize the axes separately, because Pillow's order depends on its version.
        rows = image.resize((inner_width, image.height), _FILTER, (left, 0, right, image.height))
        part = rows.resize((inner_width, inner_height), _FILTER, (0, top, inner_width, bottom))
        if part.size != (width, height):
            whole = Image.new(part.mode, (width, height), "white")
            whole.paste(part, (x, y))
            part = whole
        return np.asarray(part, np.uint8).reshape(self.image_shape)

    def place(self, axis: Axis) -> tuple[float, float, int, int]:
        """Start and end of the part of the image that is used, and its length and start in the input."""
        length, inner = RESIZES[self.resize](axis, np)
        start = (axis.size - length) * 0.5
        return float(start), float(start + length), int(inner), round((axis.target - int(inner)) * 0.5)

    def _conversions(self, image: Image.Image, content: bytes, orientation: int) -> tuple[str, ...]:
        """The conversions that an image needs, in the order of `CONVERSIONS`."""
        mode, channels = image.mode, self.image_shape[2]
        grey = mode in ("1", "L", "LA", "La") or _is_deep(mode)
        # Pillow reads 16-bit RGB as 8-bit, so check the header of a PNG.
        sixteen = _is_deep(mode) or (image.format == "PNG" and len(content) > 24 and content[24] == 16)
        height, width = (image.width, image.height) if orientation > 4 else image.size[::-1]
        applies = {
            "first_frame": getattr(image, "n_frames", 1) > 1 and image.format != "MPO",
            "turned": 2 <= orientation <= 8,
            "greyscale": grey and channels == 3,
            "palette": mode in ("P", "PA"),
            "cmyk": mode in ("CMYK", "YCbCr", "LAB", "HSV"),
            "sixteen_bits": sixteen,
            "transparent": _has_alpha(image),
            "to_greyscale": not grey and channels == 1,
            "resized": (height, width) != self.image_shape[:2],
        }
        return tuple(name for name in CONVERSIONS if applies[name])


_FILTER = Image.Resampling.BILINEAR


def is_leftover(name: str) -> bool:
    """Whether a path (with `/` as the separator) is a system file such as `.DS_Store`."""
    return _LEFTOVERS.search(name) is not None


def is_image(head: bytes) -> bool:
    """Whether a file that starts with `head` (at least 16 bytes) has the signature of a supported format."""
    return _match(_SIGNATURES, head) is not None


def name_unread_format(head: bytes) -> str | None:
    """The name of a known but unsupported image format, by the file's first bytes; None for others."""
    return _match(_UNSUPPORTED, head[:64])


def _match(signatures: dict[str, bytes], head: bytes) -> str | None:
    return next((name for name, start in signatures.items() if re.match(start, head, re.DOTALL)), None)


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=tuple(_SIGNATURES))
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has too many pixels; the limit is {MAX_PIXELS:,}.") from error
    except Exception as error:  # Pillow's decoders can fail at the header, too.
        raise ImageError(f"{_identify(content)} {_EXPECTED}") from error


def _check_crcs(png: bytes) -> None:
    """Check the CRC of each chunk of a PNG (ISO/IEC 15948, section 5.3), up to its end.

    Pillow's decoder ignores the CRCs of the pixel data. Its `verify()` checks them, but then the image must
    be opened again, which slows down `prepare`.
    """
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(png[position : position + 4], "big"), png[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(png):
            raise ValueError(f"it ends after {len(png):,} bytes, without its last chunk")
        if zlib.crc32(png[position + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            raise ValueError(f"the checksum of its chunk {printable(kind.decode('latin-1'))} is wrong")
        position = end


def _restore_transparency(image: Image.Image, png: bytes) -> None:
    """Make a PNG's transparent colour comparable with the pixels that Pillow returns.

    Pillow converts greys below 8 bits and colours of 16 bits to 8 bits, but not the transparent colour.
    """
    key, bits = image.info.get("transparency"), png[24]
    if isinstance(key, int) and image.mode in ("1", "L") and bits < 8:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif isinstance(key, tuple) and bits == 16:
        # To find pixels of this colour, compare both bytes of each value.
        lower: Any = _open(png)
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower)
        del image.info["transparency"]
        image.putalpha(Image.fromarray(np.where((values == key).all(axis=-1), 0, 255).astype(np.uint8)))


def _identify(content: bytes) -> str:
    other = name_unread_format(content)
    if other is not None:
        return f"it is a {other} file, which is not supported. Convert it to JPEG or PNG."
    try:
        return f"it is a {Image.open(io.BytesIO(content)).format} file, which is not supported."
    except Exception:
        name = _match(_SIGNATURES, content)
        if name is not None:
            return f"it starts as a {name}, but is truncated or damaged."
        return f"it is not an image (it starts with {content[:12]!r})."


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _is_deep(mode: str) -> bool:
    """Whether a Pillow mode is greyscale with 16 or 32 bits."""
    return mode.startswith("I")


def _peak(image: Image.Image) -> int | None:
    return int(np.asarray(image).max()) if _is_deep(image.mode) else None


def _to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    # Pillow's own conversion would clip at 255 instead of scaling.
    values = np.asarray(image)
    reduced = Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        reduced.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return reduced


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image with 8 bits per channel to RGB; transparent parts become white."""
    if image.mode == "CMYK":
        light = 255 - np.asarray(image).astype(np.uint16)
        return Image.fromarray((light[..., :3] * light[..., 3:] // 255).astype(np.uint8))
    if _has_alpha(image):
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = np.asarray(image)
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for start in range(0, len(rgba), rows):
        band = rgba[start : start + rows].astype(np.float32)
        alpha = band[..., 3:] / 255
        rgb[start : start + rows] = np.rint(band[..., :3] * alpha + 255 * (1 - alpha))
    return Image.fromarray(rgb)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 [H, W, 3] or [H, W, 1], as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
    return buffer.getvalue()
