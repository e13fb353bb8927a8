"""Any picture becomes uint8 [32, 32, 3] in one defined way, or is named with what is wrong (rows 59, 60)."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from cifar_trainer.prediction.pictures import MAX_PIXELS, PictureError, decode_picture


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A smooth colour picture, 48 by 40, that reads differently in each orientation."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def expected(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [("PNG", {}, 0), ("BMP", {}, 0), ("WEBP", {"lossless": True}, 0), ("JPEG", {"quality": 95}, 24),
     ("WEBP", {"quality": 95}, 24)],
)  # fmt: skip
def test_a_colour_picture_of_each_format(
    photo: Image.Image, expected: np.ndarray, form: str, options: dict[str, object], tolerance: int
) -> None:
    picture = decode_picture(encode(photo, form, **options))
    assert (picture.format, picture.width, picture.height) == (form, 48, 40)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - expected).max() <= tolerance


def test_a_picture_of_32_by_32_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_picture(encode(Image.fromarray(pixels), "PNG")).pixels, pixels)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (2000, 3)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    picture = decode_picture(encode(Image.new("RGB", size, (9, 90, 200)), "PNG"))
    assert (picture.pixels == (9, 90, 200)).all()


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ((200, 0, 0), (0, 200, 0))]
    for form in ("GIF", "WEBP"):
        content = encode(frames[0], form, save_all=True, append_images=frames[1:])
        pixels = decode_picture(content).pixels.astype(int)
        assert np.abs(pixels - (200, 0, 0)).max() < 12


def test_grey_and_bilevel_become_three_equal_channels(photo: Image.Image) -> None:
    grey = decode_picture(encode(photo.convert("L"), "PNG"))
    assert grey.mode == "L"
    assert (grey.pixels == grey.pixels[..., :1]).all()
    assert set(np.unique(decode_picture(encode(Image.new("1", (32, 32), 1), "PNG")).pixels)) == {255}


def test_a_palette_is_looked_up_before_the_picture_is_resized() -> None:
    """Mixing the numbers of two colours would give a third that is in neither."""
    image = Image.new("P", (64, 32))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    image.paste(2, (32, 0, 64, 32))
    pixels = decode_picture(encode(image, "PNG")).pixels
    assert not pixels[..., 1].any(), "no green, which lies between red and blue in the palette"
    assert tuple(pixels[0, 0]) == (255, 0, 0)
    assert tuple(pixels[0, 31]) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_laid_on_white(mode: str) -> None:
    half = Image.new("RGBA", (32, 32), (0, 0, 0, 128)).convert(mode)
    assert set(np.unique(decode_picture(encode(half, "PNG")).pixels)) == {127}
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0)).convert(mode)
    assert set(np.unique(decode_picture(encode(clear, "PNG")).pixels)) == {255}


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    pixels = decode_picture(encode(image, "PNG", transparency=1)).pixels
    assert set(np.unique(pixels)) == {255}


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    picture = decode_picture(encode(cyan, "JPEG", quality=95))
    assert picture.mode == "CMYK"
    assert np.abs(picture.pixels.astype(int) - (0, 255, 255)).max() < 12


def test_of_16_bits_the_upper_8_are_kept() -> None:
    values = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
    picture = decode_picture(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(picture.pixels[..., 0], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(photo, "PNG", exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert upright.size == ((48, 40) if orientation < 5 else (40, 48))
    expected = np.asarray(upright.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_picture(content).pixels, expected)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (8_001, 8_000), (2**31 - 1, 2**31 - 1)])
def test_a_huge_picture_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PictureError, match=f"at most {MAX_PIXELS:,}|{MAX_PIXELS:,} are decoded"):
            decode_picture(huge_png(width, height))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_truncated_picture_is_named_by_its_true_format(photo: Image.Image, form: str) -> None:
    with pytest.raises(PictureError, match=f"{form}|no picture"):
        decode_picture(cut(encode(photo, form)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda photo: b"", "it is empty"),
        (lambda photo: b"<!doctype html><html>", "it is no picture; it begins with b'<!doctype ht'"),
        (lambda photo: encode(photo, "TIFF"), "it is a TIFF, which is not read"),
        (lambda photo: encode(photo, "PNG")[:20], "no picture|PNG"),
    ],
    ids=["empty", "a page", "another format", "a header only"],
)
def test_what_cannot_be_read_says_what_it_is(
    photo: Image.Image, make: Callable[[Image.Image], bytes], said: str
) -> None:
    with pytest.raises(PictureError, match=said):
        decode_picture(make(photo))
