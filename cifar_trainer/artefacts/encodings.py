"""Every kind of PNG and JPEG file that `predict` reads: the gate tries each on what decodes images itself."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image


def encode_in_turn(images: np.ndarray) -> list[bytes]:
    """Encode each image as the next of `KINDS`, and from the first again; one file an image.

    Args:
        images: uint8 [N, H, W, C] with one or three channels.
    """
    kinds = list(KINDS.values())
    return [kinds[i % len(kinds)](_to_pillow(image)) for i, image in enumerate(images)]


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


def _png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def _jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    """The image, more transparent from left to right."""
    ramp = np.linspace(255, 0, image.width).round().astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def _sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


#: The file of an RGB image, by what is special about it. The bits are those of a channel.
KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": _png,
    "grey PNG": lambda image: _png(image.convert("L")),
    "PNG of 1 bit": lambda image: _png(image.convert("1")),
    "palette of 4 colours": lambda image: _png(image.quantize(4)),
    "palette of 16 colours": lambda image: _png(image.quantize(16)),
    "palette of 16 colours, one transparent": lambda image: _png(image.quantize(16), transparency=0),
    "palette of 256 colours": lambda image: _png(image.quantize(256)),
    "palette of 256 colours, one transparent": lambda image: _png(image.quantize(256), transparency=0),
    "PNG with alpha": lambda image: _png(_with_alpha(image)),
    "grey PNG with alpha": lambda image: _png(_with_alpha(image.convert("L"))),
    "PNG of 16 bits": lambda image: _png(_sixteen_bits(image)),
    "JPEG": _jpeg,
    "grey JPEG": lambda image: _jpeg(image.convert("L")),
    "progressive JPEG": lambda image: _jpeg(image, progressive=True),
}
