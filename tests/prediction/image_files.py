"""Image files for tests, as bytes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from cifar_trainer.images import DecodedImage, Preprocessing

#: Height, width and channels that the tests decode to.
SHAPE = (32, 32, 3)


def decode_image(content: bytes) -> DecodedImage:
    """Decode to SHAPE."""
    return Preprocessing(SHAPE).decode(content)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"", key: bytes = b"") -> bytes:
    """A PNG file chunk by chunk (PNG, section 11): what Pillow cannot write itself."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    transparency = chunk(b"tRNS", key) if key else b""
    pixels = chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + header + transparency + pixels + chunk(b"IEND", b"")


def rows_of(pixel: bytes) -> bytes:
    return (b"\0" + pixel * 32) * 32


def noise(height: int = 32, width: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)
