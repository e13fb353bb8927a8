"""Converts request bodies to arrays and image files, and answers to JSON.

Decoding JSON holds Python's global lock, which blocks all other requests. So msgspec first skips over the
images. All images have the same number of commas, so counting commas tells how many there are and where each
ends. Each is then decoded separately, against a type with its shape and range, which rejects a wrong cut.
"""

import base64
import binascii
import functools
import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import Response

from cifar_trainer.errors import printable
from cifar_trainer.serving.errors import RequestError, bad_request
from cifar_trainer.serving.model import ServedModel
from cifar_trainer.serving.service import Answers, Service

T = TypeVar("T")

#: Larger bodies are decoded in a thread. For smaller ones, the thread costs more than the decoding.
_SMALL_BYTES = 64 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Integers, also as floating-point numbers, which NumPy and Keras send.
_Pixel = Annotated[int, Meta(ge=0, le=255)] | Annotated[float, Meta(ge=0, le=255, multiple_of=1)]

#: The outputs, with their types in the Open Inference Protocol and in TensorFlow.
OUTPUTS = {
    "logits": ("FP32", "DT_FLOAT"),
    "probabilities": ("FP32", "DT_FLOAT"),
    "class_id": ("INT64", "DT_INT64"),
    "class_name": ("BYTES", "DT_STRING"),
    "confidence": ("FP32", "DT_FLOAT"),
    "unfamiliar": ("BOOL", "DT_BOOL"),
    "in_set": ("BOOL", "DT_BOOL"),
}


async def parse_body(service: Service, request: Request, parse: Callable[[bytes], T]) -> T:
    """Decompress a request's body and parse it, in a thread unless it is small.

    Raises:
        RequestError: 415, the encoding is unknown; 413, it is too large; 400, it is damaged; or from `parse`.
    """
    body = await request.body()
    encoding = request.headers.get("content-encoding", "identity").lower()
    most = service.settings.limits.body_bytes

    def work() -> T:
        return parse(_decompress(body, encoding, most).removeprefix(_BYTE_ORDER_MARK))

    if encoding == "identity" and len(body) <= _SMALL_BYTES:
        return work()
    return await service.in_decoder(work)


def _decompress(body: bytes, encoding: str, most: int) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(
            415, "bad_request", f"Content-Encoding is {printable(encoding)!r}. Expected gzip or deflate."
        )
    # 32: gzip or zlib, by the header.
    stream = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        content = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise bad_request(f"The body is not {encoding}: {error}.") from error
    if len(content) > most:
        raise RequestError(413, "too_large", f"The decompressed body is larger than {most:,} bytes.")
    if not stream.eof:
        raise bad_request(f"The {encoding} body is truncated.")
    return content


def parse_json(text: bytes | memoryview | Raw, kind: type[T], what: str = "JSON Value") -> T:
    """Decode JSON of a given type.

    Raises:
        RequestError: 400, with the place of the mistake.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{what}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"JSON Parse error: {error}") from error


def parse_request(service: Service, text: bytes, kind: type[T]) -> T:
    """Decode the JSON of a request.

    Raises:
        RequestError: 413, it is too large; 400, it is malformed.
    """
    most = service.settings.limits.json_bytes
    if len(text) > most:
        raise RequestError(
            413,
            "too_large",
            f"The JSON is larger than {most:,} bytes. Send several requests, or binary tensors to /v2.",
        )
    return parse_json(text, kind)


class NamedImage(msgspec.Struct, Generic[T], forbid_unknown_fields=True):
    """`{"images": …}`: an image with its input's name."""

    images: T


@functools.lru_cache(maxsize=8)
def _decoder(shape: tuple[int, ...], named: bool) -> "msgspec.json.Decoder[Any]":
    """Decodes nested lists of exactly this shape."""
    kind: Any = _Pixel
    for size in reversed(shape):
        kind = Annotated[list[kind], Meta(min_length=size, max_length=size)]
    return msgspec.json.Decoder(kind | NamedImage[kind] if named else kind)


def parse_images(
    service: Service, raw: Raw, what: str, *, named: bool = False, flat: bool = False
) -> np.ndarray:
    """Decode a JSON list of images: uint8 [N, H, W, C].

    Args:
        service: its model gives the shape, its queue the maximum number of images.
        raw: valid JSON.
        what: the list's name in messages.
        named: whether an image may also be an object, `{"images": …}`.
        flat: whether the list is flat: the numbers of all images, row by row.

    Raises:
        RequestError: 413, there are too many images; 400, one has the wrong shape or values.
    """
    if first_byte(raw) != b"[":
        parse_json(raw, list, what)
    shape = service.model.artefact.image_shape
    size = math.prod(shape)
    text = bytes(raw)
    service.batcher.check_size((text.count(b",") + 1) // size)
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(","))
    cuts = [0, *commas[size - 1 :: size].tolist(), len(text) - 1]
    decoder = _decoder((size,) if flat else shape, named)
    images = np.empty((len(cuts) - 1, *shape), np.uint8)
    for i, (start, end) in enumerate(itertools.pairwise(cuts)):
        piece = text[start + 1 : end]
        try:
            image = decoder.decode(b"[%b]" % piece if flat else piece)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(
                f"{what}[{i}]: {error}. Expected a list of one or more images of the shape {list(shape)}, "
                "whole numbers from 0 to 255."
            ) from error
        if isinstance(image, NamedImage):
            image = image.images
        images[i] = np.array(image, np.uint8).reshape(shape)
    return images


def first_byte(raw: Raw) -> bytes:
    """The first byte of a JSON value, which identifies its type; empty for an empty value."""
    return bytes(memoryview(raw)[:1])


class EncodedImage(msgspec.Struct, forbid_unknown_fields=True):
    """`{"b64": "…"}`: an image file in base64."""

    b64: str


def parse_files(service: Service, raw: Raw, kind: type[T], what: str) -> list[T]:
    """Decode a JSON list of image files, each an element of type `kind`.

    Raises:
        RequestError: 413, there are too many; 400, one has the wrong type.
    """
    # Base64 has no comma.
    service.batcher.check_size(bytes(raw).count(b",") + 1)
    return parse_json(raw, Annotated[list[kind], Meta(min_length=1)], what)  # type: ignore[valid-type, arg-type]


def decode_base64(text: str, what: str) -> bytes:
    """Decode base64, standard or URL-safe, with or without padding.

    Raises:
        RequestError: 400, it is not base64.
    """
    if text[:5].lower() == "data:":
        raise bad_request(f"{what} is a data: URL. Expected only the base64 after its comma.")
    try:
        standard = text.encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"{what} is not base64: {error}.") from error


async def decode_files(service: Service, images: np.ndarray | list[bytes], what: str) -> np.ndarray:
    """Decode image files to uint8 [N, H, W, C]; pixels are returned unchanged.

    Raises:
        RequestError: 400, one is not an image.
    """
    if isinstance(images, np.ndarray):
        return images
    return np.stack(
        [(await service.decode(content, f"{what}[{i}]")).pixels for i, content in enumerate(images)]
    )


def outputs_of(model: ServedModel) -> dict[str, tuple[str, str, list[int]]]:
    """A model's outputs, each with its types and shape; `unfamiliar` and `in_set` if it has thresholds."""
    rows = [-1, len(model.artefact.classes)]
    missing = {"unfamiliar": model.thresholds is None, "in_set": model.sets is None}
    return {
        name: (*kinds, rows if name in ("logits", "probabilities", "in_set") else [-1])
        for name, kinds in OUTPUTS.items()
        if not missing.get(name)
    }


def columns(answers: Answers) -> dict[str, Any]:
    """The answers by output: arrays, and for `class_name` a list."""
    return {name: getattr(answers, name) for name in outputs_of(answers.model)}


def to_list(values: Any) -> list[Any]:
    """An array as JSON values. Nine digits identify a float32."""
    if not isinstance(values, np.ndarray):
        return list(values)
    if values.dtype != np.float32:
        return list(values.tolist())
    wide = values.astype(np.float64)
    digits = 8 - np.floor(np.log10(np.where(wide == 0, 1, np.abs(wide))))
    # Powers of ten up to 1e22 are exact, so the quotient is the float64 nearest to the decimal number.
    scale = 10.0 ** np.clip(digits, 0, 22)
    return list((np.round(wide * scale) / scale).tolist())


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value of msgspec's or Python's own types as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")
