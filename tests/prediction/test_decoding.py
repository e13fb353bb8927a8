"""From any picture to 32x32 RGB pixels. Needs no TensorFlow."""

import numpy as np
import pytest
from image_files import SHAPE, decode_image, encode, noise, png, rows_of
from PIL import Image

from cifar_trainer.images import ImageError, Preprocessing, bits_in_use


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_32x32_pixels_are_taken_as_they_are(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    picture = decode_image(encode(Image.fromarray(noise()), form, **options))
    np.testing.assert_array_equal(picture.pixels, noise())
    assert (picture.format, picture.mode, picture.width, picture.height) == (form, "RGB", 32, 32)


def test_a_jpeg_is_read() -> None:
    smooth = Image.new("RGB", (200, 100), (30, 140, 220))
    picture = decode_image(encode(smooth, "JPEG", quality=95))
    assert (picture.format, picture.width, picture.height) == ("JPEG", 200, 100)
    assert np.abs(picture.pixels.astype(int) - (30, 140, 220)).max() <= 2


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (decode_image(content).pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (31, 33), (33, 31), (640, 480)])
def test_every_size_becomes_32x32(size: tuple[int, int]) -> None:
    picture = decode_image(encode(Image.new("RGB", size, (10, 20, 30)), "PNG"))
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.pixels == (10, 20, 30)).all()


def test_a_large_picture_is_averaged_and_not_sampled() -> None:
    # A chequerboard of single pixels is grey from afar; the nearest pixels alone would be black or white.
    board = (np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = decode_image(encode(Image.fromarray(board), "PNG")).pixels
    assert pixels.min() >= 125
    assert pixels.max() <= 130


def test_grey_and_bilevel_become_equal_channels() -> None:
    grey = noise()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(grey), "PNG")).pixels, expected)
    bilevel = Image.fromarray(grey).convert("1")
    picture = decode_image(encode(bilevel, "PNG"))
    assert picture.mode == "1"
    np.testing.assert_array_equal(picture.pixels[..., 0], np.asarray(bilevel) * 255)


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(noise()).convert("P", palette=Image.Palette.ADAPTIVE)
    picture = decode_image(encode(image, "PNG"))
    assert picture.mode == "P"
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(form: str) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([200, 0, 0, 0, 0, 200] + [0] * 756)
    image.paste(1, (16, 0, 32, 32))
    pixels = decode_image(encode(image, form, transparency=0)).pixels
    assert (pixels[:, :16] == 255).all()
    assert (pixels[:, 16:] == (0, 0, 200)).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(form: str) -> None:
    # What the invisible pixels hold must not shine through: here it is red.
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    image.paste((0, 100, 0, 128), (16, 0, 24, 32))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode_image(encode(image, form, **options)).pixels
    assert (pixels[:, :16] == 0).all()
    assert (pixels[:, 16:24] == (127, 177, 127)).all()
    assert (pixels[:, 24:] == 255).all()


def test_grey_with_alpha_is_laid_on_white() -> None:
    assert (decode_image(encode(Image.new("LA", (32, 32), (0, 51)), "PNG")).pixels == 204).all()


def test_what_is_invisible_leaves_no_seam_when_reduced() -> None:
    # Laid on white before it is reduced: invisible red beside white gives white, and no pink.
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((255, 255, 255, 255), (31, 0, 64, 64))
    assert (decode_image(encode(image, "PNG")).pixels == 255).all()


def test_alpha_of_a_picture_larger_than_one_band_is_the_same_everywhere() -> None:
    image = Image.new("RGBA", (1500, 1500), (0, 0, 0, 51))
    assert (decode_image(encode(image, "PNG")).pixels == 204).all()


def test_cmyk_becomes_rgb() -> None:
    picture = decode_image(encode(Image.new("CMYK", (64, 64), (255, 0, 0, 0)), "JPEG", quality=95))
    assert picture.mode == "CMYK"
    assert np.abs(picture.pixels.astype(int) - (0, 255, 255)).max() <= 3


def test_of_16_bits_the_upper_8_are_kept() -> None:
    ramp = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    picture = decode_image(encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(picture.pixels[..., 0], ramp >> 8)
    colour = decode_image(png(32, 32, 16, 2, rows_of(b"\x10\xff\x20\xff\x30\xff")))
    assert (colour.pixels == (0x10, 0x20, 0x30)).all()
    alpha = decode_image(png(32, 32, 16, 6, rows_of(b"\0\0\0\0\0\0\x33\x33")))
    assert (alpha.pixels == 204).all()


@pytest.mark.parametrize(
    ("bits", "colour", "pixel", "key"),
    [
        (8, 0, b"\x10", b"\0\x10"),
        (16, 0, b"\x80\xff", b"\x80\xff"),
        (8, 2, b"\x10\x20\x30", b"\0\x10\0\x20\0\x30"),
    ],
    ids=["grey", "grey of 16 bits", "colour"],
)
def test_a_transparent_colour_is_white(bits: int, colour: int, pixel: bytes, key: bytes) -> None:
    assert (decode_image(png(32, 32, bits, colour, rows_of(pixel), key)).pixels == 255).all()
    other = key[:-1] + bytes([key[-1] ^ 1])
    assert (decode_image(png(32, 32, bits, colour, rows_of(pixel), other)).pixels != 255).all()


#: EXIF orientation to what a camera did to an upright picture before it stored it (EXIF 2.32, 4.6.4).
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: np.rot90,
    7: lambda upright: np.rot90(np.swapaxes(upright, 0, 1), 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_exif_orientation_is_applied(orientation: int, form: str) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = 255  # One quarter, and
    upright[:16, 16:] = 128  # another: no two orientations look the same.
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    pixels = decode_image(encode(stored, form, exif=exif, quality=100)).pixels
    assert np.abs(pixels.astype(int) - upright).max() <= 10


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("orientation", [0, 9])
def test_an_unknown_exif_orientation_is_no_conversion(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode_image(encode(Image.new("RGB", (32, 32)), "PNG", exif=exif)).conversions == ()


def test_broken_exif_is_passed_over_quietly() -> None:
    content = encode(Image.new("RGB", (40, 40), "#ffffff"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert (decode_image(content).pixels == 255).all()


def deep_tiff(values: np.ndarray) -> bytes:
    return encode(Image.fromarray(values), "TIFF")


def test_an_image_of_32_bits_is_refused_since_its_range_is_unknown() -> None:
    content = deep_tiff(np.arange(1024, dtype=np.int32).reshape(32, 32) // 5)
    with pytest.raises(ImageError, match="integer images of 32 bits are not supported") as refused:
        decode_image(content)
    assert refused.value.peak == 204
    with pytest.raises(ImageError, match="floating-point images are not supported"):
        decode_image(deep_tiff(np.zeros((32, 32), np.float32)))


@pytest.mark.parametrize(("peak", "bits"), [(0, 8), (255, 8), (256, 10), (4095, 12), (9000, 14), (65535, 16)])
def test_the_bits_in_use_follow_from_the_largest_value(peak: int, bits: int) -> None:
    assert bits_in_use(peak) == bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_values_are_scaled_by_the_bits_that_the_data_set_uses(bits: int, dtype: type[np.generic]) -> None:
    """Not by all 16: values of 12 bits would become nearly black."""
    values = np.linspace(0, 2**bits - 1, 1024).astype(dtype).reshape(32, 32)
    image = Preprocessing(SHAPE, grey_bits=bits).decode(deep_tiff(values))
    np.testing.assert_array_equal(image.pixels[..., 0], values >> (bits - 8))
    assert image.peak == 2**bits - 1


def test_a_value_beyond_the_bits_in_use_becomes_white() -> None:
    image = Preprocessing(SHAPE, grey_bits=12).decode(deep_tiff(np.full((32, 32), 5000, np.uint16)))
    assert (image.pixels == 255).all()


def test_only_images_of_more_than_8_bits_have_a_peak() -> None:
    assert decode_image(encode(Image.new("L", (32, 32), 7), "PNG")).peak is None
    assert decode_image(deep_tiff(np.full((32, 32), 300, np.uint16))).peak == 300


def test_a_transparent_colour_of_16_bits_is_the_whole_value() -> None:
    """Two colours whose upper bytes are the same: only one of them is transparent."""
    row = b"\0" + b"\x10\xff\x20\xff\x30\xff" * 16 + b"\x10\xfe\x20\xff\x30\xff" * 16
    image = decode_image(png(32, 32, 16, 2, row * 32, b"\x10\xff\x20\xff\x30\xff"))
    assert (image.pixels[:, :16] == 255).all()
    assert (image.pixels[:, 16:] == (0x10, 0x20, 0x30)).all()
    assert "transparent" in image.conversions


def test_a_photo_with_a_preview_is_not_called_animated() -> None:
    views = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    image = decode_image(encode(Image.fromarray(noise()), "MPO", **views))
    assert (image.format, image.conversions) == ("JPEG", ())
