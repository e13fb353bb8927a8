"""Pictures that are not decoded, and what is said of them. Needs no TensorFlow."""

import struct
import subprocess

import pytest
from command_line import INTERPRETER
from image_files import decode_image, encode, noise, png
from PIL import Image

from cifar_trainer.images import MAX_PIXELS, ImageError


def refusal(content: bytes) -> str:
    with pytest.raises(ImageError) as refused:
        decode_image(content)
    return str(refused.value)


def test_an_empty_picture_is_refused() -> None:
    assert refusal(b"").startswith("it is empty")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.01, 0.5])
def test_a_truncated_picture_is_refused_by_its_true_format(form: str, kept: float) -> None:
    content = encode(Image.fromarray(noise(60, 40)), form)
    message = refusal(content[: max(16, int(len(content) * kept))])
    assert f"a {form}" in message
    assert "not an image" not in message


def test_a_damaged_picture_is_refused_by_its_true_format() -> None:
    content = bytearray(encode(Image.fromarray(noise(60, 40)), "PNG"))
    content[content.index(b"IDAT") + 40] ^= 0xFF
    assert "it is a PNG that cannot be decoded" in refusal(bytes(content))


def test_a_png_with_a_wrong_checksum_of_its_pixels_is_refused() -> None:
    content = bytearray(encode(Image.fromarray(noise()), "PNG"))
    content[content.index(b"IEND") - 5] ^= 1
    assert "the checksum of its chunk IDAT is wrong" in refusal(bytes(content))


def test_a_png_without_its_last_chunk_is_refused() -> None:
    content = encode(Image.fromarray(noise()), "PNG")
    assert "without its last chunk" in refusal(content[: content.index(b"IEND") - 4])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\xff\x0a\0", "JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="">', "SVG"),
    ],
)
def test_a_known_format_that_is_not_read_is_named(head: bytes, name: str) -> None:
    assert f"it is a {name} file, which is not supported. Convert it" in refusal(head)


def test_another_format_is_named() -> None:
    assert "it is a PPM file, which is not supported" in refusal(encode(Image.fromarray(noise()), "PPM"))


@pytest.mark.parametrize("content", [b"<html><body>404</body></html>", b"%PDF-1.7\n", b"\0" * 4096, b"\x89"])
def test_what_is_no_picture_is_refused_with_its_beginning(content: bytes) -> None:
    message = refusal(content)
    assert f"it is not an image (it starts with {content[:12]!r})" in message
    assert "Expected PNG, JPEG, WebP, GIF, BMP or TIFF" in message


def gif_with_a_large_frame(side: int) -> bytes:
    """A GIF whose screen is one pixel, and whose only frame is not."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0\x3b"


@pytest.mark.parametrize(
    "content",
    [
        png(8001, 8000, 8, 2),
        png(2**31 - 1, 2**31 - 1, 8, 2),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
        gif_with_a_large_frame(9000),
    ],
    ids=["PNG", "largest PNG", "BMP", "frame of a GIF"],
)
def test_beyond_the_pixel_limit_only_the_header_is_read(content: bytes) -> None:
    """The files hold a header and no pixels: decoding them would say that they are truncated."""
    message = refusal(content)
    assert f"the limit is {MAX_PIXELS:,}" in message
    assert "truncated" not in message


#: The peak of the process's memory in MiB before and after a picture that it is given.
_MEMORY = """
import resource, sys
from cifar_trainer.images import ImageError, Preprocessing
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
content = sys.stdin.buffer.read()
before = peak()
try:
    Preprocessing((32, 32, 3)).decode(content)
except ImageError:
    pass
print(peak() - before)
"""


def memory_for(content: bytes) -> int:
    done = subprocess.run([INTERPRETER, "-c", _MEMORY], input=content, capture_output=True, check=True)
    return int(done.stdout)


def test_a_bomb_takes_no_memory_and_the_largest_allowed_little() -> None:
    def whole(side: int) -> bytes:
        return png(side, side, 8, 6, b"\0" * ((side * 4 + 1) * side))

    bomb = whole(9000)  # 324 MB of pixels
    assert len(bomb) < 2**20
    assert memory_for(bomb) < 30
    # Less than 16 bytes a pixel, a few 8-bit copies: as float32 the whole would take above 50.
    assert memory_for(whole(4000)) < 16_000_000 * 16 / 2**20
