"""From an image file to uint8 pixels, in the one way in which training and predictions see it.

1. The format is told by content; width and height are read from the header, and
   more than MAX_PIXELS are refused before anything is decoded.
2. Of an animation, the first frame. An EXIF orientation is applied.
3. Palette, greyscale, bilevel, CMYK and YCbCr become RGB (Pillow's conversions; colour
   profiles are ignored). Of 16 bits the upper 8 are kept. For a data set with one
   channel, colours become greyscale (ITU-R BT.601's luma).
4. What is transparent is laid on white.
5. The image is resized with a triangle filter that widens when it shrinks (Pillow's
   BILINEAR): `stretch` gives up its proportions, `crop` keeps the centre, `fit` adds
   white borders.

`artefacts.saved_model` does the same inside a SavedModel for PNG and JPEG, with `stretch` and without
the EXIF orientation.
"""

import dataclasses
import io
import re
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from cifar_trainer.errors import printable

RESIZES = ("stretch", "crop", "fit")
#: Width times height beyond which an image is refused; 256 MB when decoded with alpha.
MAX_PIXELS = 64_000_000
#: Bytes beyond which a file or stream is not read on.
MAX_BYTES = 256 * 2**20
#: Pillow's names of what is read. Its JPEG reader calls what some cameras write MPO.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_READ = "Expected PNG, JPEG, WebP, GIF, BMP or TIFF."
#: How files of these formats begin; a `.` stands for any byte.
_BEGINNINGS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
}
#: Suffixes that are common for these formats.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff")
#: Pixels that are laid on white at a time: their 32-bit copies are several times as large as they are.
_BAND_PIXELS = 2**20
#: Exif's tag of how an image is to be turned.
_ORIENTATION = 0x0112
_SMALL_BYTES, _SMALL_PIXELS = 2**14, 2**14
_WHITE = (255, 255, 255)

#: What `decode_image` may have to change, and what to say of the images so changed.
CONVERSIONS = {
    "first_frame": "animated: the first frame was taken",
    "turned": "turned as their EXIF orientation says",
    "greyscale": "greyscale, became RGB",
    "palette": "with a palette, became RGB",
    "cmyk": "CMYK or another colour space, became RGB",
    "sixteen_bits": "of 16 bits a channel, kept the upper 8",
    "transparent": "with transparency, were laid on white",
    "to_greyscale": "in colour, became greyscale",
    "resized": "resized",
}

#: What operating systems and programs leave in folders; it says nothing about the images.
_LEFTOVERS = re.compile(
    r"(^|/)(__MACOSX|__pycache__|\.ipynb_checkpoints|\.git|\.cache|\.Trashes|\.fseventsd|\.Spotlight-V100"
    r"|@eaDir|\$RECYCLE\.BIN|System Volume Information)(/|$)"
    r"|(^|/)(\.DS_Store|\._[^/]*|\.localized|\.directory|\.gitignore|\.gitattributes|\.gitkeep"
    r"|Icon\r|Thumbs\.db|ehthumbs\.db|desktop\.ini)$",
    re.IGNORECASE,
)


class ImageError(Exception):
    """An image that cannot be used, and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: uint8 [H, W, C] of the shape that was asked for; RGB, or one channel of grey.
        format: as its content says, such as `JPEG`.
        mode: Pillow's name of how its pixels were stored, such as `RGB`.
        width, height: as stored, before an EXIF orientation.
        conversions: what had to be changed, keys of `CONVERSIONS`.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int
    conversions: tuple[str, ...] = ()


def is_leftover(name: str) -> bool:
    """Whether a path with `/` between its parts is what operating systems leave behind (`.DS_Store`)."""
    return _LEFTOVERS.search(name) is not None


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (16 bytes will do) says that it is of a format that is read."""
    return any(re.match(beginning, head, re.DOTALL) for beginning in _BEGINNINGS.values())


def name_unread_format(head: bytes) -> str | None:
    """The name of a format of images that is known but not read, by how the file begins; None for others.

    Phones write HEIC: an ISO base media file (ISO/IEC 14496-12, section 4.3) whose brand tells what it holds.
    """
    if head[4:8] == b"ftyp":
        brands = head[8:64]
        if any(brand in brands for brand in (b"avif", b"avis")):
            return "AVIF"
        if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
            return "HEIC"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if head.startswith(b"\0\0\0\x0cjP  "):
        return "JPEG 2000"
    if head.startswith(b"8BPS"):
        return "Photoshop"
    if re.match(rb"\s*(<\?xml[^>]*>\s*)?<svg\b", head):
        return "SVG"
    return None


def is_small_png(content: bytes) -> bool:
    """Whether a file's header says that it is a PNG of few pixels, and the file is short.

    Such a file is decoded in some 0.1 ms, whatever else it holds.
    """
    if (
        not 24 <= len(content) <= _SMALL_BYTES
        or content[:8] != b"\x89PNG\r\n\x1a\n"
        or content[12:16] != b"IHDR"
    ):
        return False
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    return width * height <= _SMALL_PIXELS


def decode_image(content: bytes, shape: tuple[int, int, int], *, resize: str = "stretch") -> DecodedImage:
    """Decode the bytes of an image file.

    Args:
        content: the file's bytes.
        shape: height, width and channels (3 or 1) to bring it to.
        resize: one of `RESIZES`.

    Raises:
        ImageError: it is empty, truncated, damaged, no image, or larger than MAX_PIXELS.
    """
    if not content:
        raise ImageError(f"it is empty. {_READ}")
    with warnings.catch_warnings():
        # MAX_PIXELS is checked here; faults of the metadata alone do not matter.
        warnings.simplefilter("ignore")
        image = _open(content)
        name, mode, width, height = image.format or "", image.mode, image.width, image.height
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"it has {width}x{height} pixels; at most {MAX_PIXELS:,} are decoded. Reduce it."
            )
        try:
            if name == "PNG":
                _check_sums(content)
                _scale_transparent_grey(image, content)
            orientation = image.getexif().get(_ORIENTATION, 1)
            conversions = _conversions(image, content, shape, orientation)
            if orientation != 1:
                ImageOps.exif_transpose(image, in_place=True)
            rgb = to_rgb(image)
            pixels = resize_image(rgb if shape[2] == 3 else rgb.convert("L"), shape[:2], resize)
        except Exception as error:  # Pillow's decoders raise all sorts at damaged files.
            raise ImageError(f"it is a {name} that cannot be decoded: {error}.") from error
    return DecodedImage(pixels.reshape(shape), name, mode, width, height, conversions)


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has too many pixels; at most {MAX_PIXELS:,} are decoded.") from error
    except Exception as error:  # Pillow's decoders, as above, already at the header.
        raise ImageError(f"{_what_it_is(content)} {_READ}") from error


def _check_sums(png: bytes) -> None:
    """Check the CRC of each chunk of a PNG (ISO/IEC 15948, section 5.3), up to its end.

    Pillow's decoder passes over those of the pixel data. Its `verify()` does not, but the image must then be
    opened a second time: for 60,000 of them that made `prepare` slower.
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


def _scale_transparent_grey(image: Image.Image, png: bytes) -> None:
    """Bring the transparent grey of a PNG below 8 bits to 8, as Pillow does with the pixels alone."""
    key, bits = image.info.get("transparency"), png[24]
    if isinstance(key, int) and image.mode in ("1", "L") and bits < 8:
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _what_it_is(content: bytes) -> str:
    other = name_unread_format(content[:64])
    if other is not None:
        return f"it is a file of the format {other}, which is not read. Convert it to JPEG or PNG."
    try:
        return f"it is a {Image.open(io.BytesIO(content)).format}, which is not read."
    except Exception:
        for name, beginning in _BEGINNINGS.items():
            if re.match(beginning, content, re.DOTALL):
                return f"it begins as a {name}, but is truncated or damaged."
        return f"it is no image; it begins with {content[:12]!r}."


def _conversions(
    image: Image.Image, content: bytes, shape: tuple[int, int, int], orientation: int
) -> tuple[str, ...]:
    """What has to be changed about an image, in the order of `CONVERSIONS`."""
    mode, grey = image.mode, image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    # Pillow gives RGB of 16 bits as 8: only the header of a PNG still tells.
    sixteen = mode.startswith("I") or (image.format == "PNG" and len(content) > 24 and content[24] == 16)
    height, width = (image.width, image.height) if orientation > 4 else image.size[::-1]
    found = {
        "first_frame": getattr(image, "n_frames", 1) > 1,
        "turned": orientation != 1,
        "greyscale": grey and shape[2] == 3,
        "palette": mode in ("P", "PA"),
        "cmyk": mode in ("CMYK", "YCbCr", "LAB", "HSV"),
        "sixteen_bits": sixteen,
        "transparent": _has_alpha(image),
        "to_greyscale": not grey and shape[2] == 1,
        "resized": (height, width) != shape[:2],
    }
    return tuple(name for name, applies in found.items() if applies)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, on white where it is transparent."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions, of which nobody knows the range")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if _has_alpha(image):
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


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


def resize_image(image: Image.Image, size: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """An RGB or greyscale image as uint8 [H, W, 3] or [H, W]; one of that size is left as it is.

    Args:
        image: of mode RGB or L.
        size: height and width.
        resize: one of `RESIZES`.
    """
    target = (size[1], size[0])
    if image.size != target:
        match resize:
            case "stretch":
                image = image.resize(target, Image.Resampling.BILINEAR)
            case "crop":
                image = ImageOps.fit(image, target, Image.Resampling.BILINEAR)
            case "fit":
                white = _WHITE if image.mode == "RGB" else 255
                image = ImageOps.pad(image, target, Image.Resampling.BILINEAR, color=white)
            case _:
                raise ValueError(f"There is no way of resizing called {resize!r}.")
    return np.asarray(image, np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 [H, W, 3] or [H, W, 1], as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
    return buffer.getvalue()
