"""Request bodies to arrays and image files, and answers to JSON.

Decoding JSON holds Python's global lock, and with it all other requests. So msgspec, which skips what it does
not keep, and NumPy, which releases the lock, split a body first. Images are counted before any is
decoded, and then decoded one by one, against a type with their shape and range.
"""

import base64
import binascii
import functools
import itertools
import zlib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

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

#: Larger bodies are decoded in a thread; for smaller ones the thread would cost more.
_SMALL_BYTES = 64 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Bytes between two images of a list: a comma, a name, white space.
_GAP_BYTES = 256
#: Integers, and floating-point numbers without a fraction, which NumPy and Keras send.
_Pixel = Annotated[int, Meta(ge=0, le=255)] | Annotated[float, Meta(ge=0, le=255, multiple_of=1)]

#: The outputs: their types in the Open Inference Protocol and in TensorFlow.
OUTPUTS = {
    "logits": ("FP32", "DT_FLOAT"),
    "probabilities": ("FP32", "DT_FLOAT"),
    "class_id": ("INT64", "DT_INT64"),
    "class_name": ("BYTES", "DT_STRING"),
    "confidence": ("FP32", "DT_FLOAT"),
    "unfamiliar": ("BOOL", "DT_BOOL"),
}


async def parse_body(service: Service, request: Request, parse: Callable[[bytes], T]) -> T:
    """Decompress a request's body and parse it, in a thread unless it is small.

    Raises:
        RequestError: 415, the encoding is unknown; 413, it is too large; 400, and whatever `parse` raises.
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


def parse_json(text: bytes | memoryview | Raw, kind: type[T], what: str | None = None) -> T:
    """JSON of a given type.

    Raises:
        RequestError: 400, with the place of the mistake.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{what or 'JSON Value'}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"JSON Parse error: {error}") from error


def parse_request(service: Service, text: bytes, kind: type[T]) -> T:
    """The JSON of a request.

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


class _NamedImage(msgspec.Struct, forbid_unknown_fields=True):
    images: Literal[0]


@functools.lru_cache(maxsize=8)
def _decoder(shape: tuple[int, ...]) -> "msgspec.json.Decoder[Any]":
    """Decodes nested lists of exactly this shape, and stops at the first mistake."""
    kind: Any = _Pixel
    for size in reversed(shape):
        kind = Annotated[list[kind], Meta(min_length=size, max_length=size)]
    return msgspec.json.Decoder(kind)


def parse_images(
    service: Service, raw: Raw, what: str, *, named: bool = False, flat: bool = False
) -> np.ndarray:
    """A JSON list of images as uint8 [N, H, W, C].

    Args:
        service: whose model gives the shape, and whose queue the largest number of images.
        raw: valid JSON.
        what: names it in messages.
        named: whether an image may also be an object, `{"images": …}`.
        flat: whether the list holds the numbers of all images, row by row.

    Raises:
        RequestError: 413, there are too many; 400, one has another shape, or other values.
    """
    shape = service.model.artefact.image_shape
    text = memoryview(raw)
    if flat:
        size = int(np.prod(shape))
        spans = _split_numbers(service, text, size)
        decoder = _decoder((size,))
        pieces = [b"[" + bytes(text[start:end]) + b"]" for start, end in spans]
    else:
        spans = _split_images(service, text)
        _check_between(text, spans, what, named, _expected(shape))
        decoder = _decoder(shape)
        pieces = [bytes(text[start:end]) for start, end in spans]
    images = np.empty((len(spans), *shape), np.uint8)
    for i, piece in enumerate(pieces):
        try:
            images[i] = np.array(decoder.decode(piece), np.uint8).reshape(shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"{what}[{i}]: {error}. {_expected(shape)}") from error
    return images


def _expected(shape: tuple[int, ...]) -> str:
    return f"Expected a list of images of the shape {list(shape)}, whole numbers from 0 to 255."


def _split_images(service: Service, text: memoryview) -> list[tuple[int, int]]:
    """Where the lists in a list start and end. Strings with brackets are refused here or later."""
    characters = np.frombuffer(text, np.uint8)
    step = (characters == ord("[")).astype(np.int8) - (characters == ord("]")).astype(np.int8)
    depth = np.cumsum(step, dtype=np.int32)
    starts = np.flatnonzero((step == 1) & (depth == 2))
    ends = np.flatnonzero((step == -1) & (depth == 1)) + 1
    service.batcher.check_size(len(starts))
    if len(starts) != len(ends):
        raise bad_request("JSON Value: a string holds brackets where numbers are expected.")
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _check_between(
    text: memoryview, spans: list[tuple[int, int]], what: str, named: bool, expected: str
) -> None:
    """Check the list without its images: each is an element by itself or, if `named`, in an object."""
    length = len(text) - sum(end - start for start, end in spans)
    if not spans or length > _GAP_BYTES * (len(spans) + 1):
        if not spans:
            # Names the first element.
            parse_json(text, list[Annotated[list[Any], Meta(min_length=1)]], f"{what}: {expected}")
        raise bad_request(f"{what} is empty, or holds more than images. {expected}")
    bounds = [0, *(place for span in spans for place in span), len(text)]
    outline = b"0".join(text[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2))
    kind = list[Literal[0] | _NamedImage] if named else list[Literal[0]]
    try:
        msgspec.json.decode(outline, type=kind)
    except msgspec.DecodeError as error:
        raise bad_request(f"{what} holds more than images. {expected}") from error


def _split_numbers(service: Service, text: memoryview, size: int) -> list[tuple[int, int]]:
    """Where every `size` numbers of a flat list start and end."""
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(","))
    service.batcher.check_size((len(commas) + 1) // size)
    cuts = [0, *commas[size - 1 :: size].tolist(), len(text) - 1]
    return [(start + 1, end) for start, end in itertools.pairwise(cuts)]


def first_byte(raw: Raw) -> bytes:
    """The first byte of a JSON value, which tells its kind; nothing if it is missing."""
    return bytes(memoryview(raw)[:1])


class EncodedImage(msgspec.Struct, forbid_unknown_fields=True):
    """`{"b64": "…"}`, an image file in base64."""

    b64: str


def parse_files(service: Service, raw: Raw, kind: type[T], what: str) -> list[T]:
    """A JSON list of image files.

    Args:
        service: whose queue gives the largest number.
        raw: valid JSON.
        kind: of an element.
        what: names it in messages.

    Raises:
        RequestError: 413, there are too many; 400, one is of another kind.
    """
    # Each has at least one pair of quotes, or in an object two of them.
    quotes = np.count_nonzero(np.frombuffer(raw, np.uint8) == ord('"'))
    service.batcher.check_size(int(quotes) // (2 if kind is str else 4))
    items = parse_json(raw, list[kind], what)  # type: ignore[valid-type]
    service.batcher.check_size(len(items))
    if not items:
        raise bad_request(f"{what} is empty. Expected image files in base64.")
    return items


def decode_base64(text: str, what: str) -> bytes:
    """Base64, also URL-safe and without padding.

    Raises:
        RequestError: 400, it is not base64.
    """
    if text[:5].lower() == "data:":
        raise bad_request(f"{what} is a data: address. Expected the base64 after its comma only.")
    try:
        standard = text.encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"{what} is not base64: {error}.") from error


async def decode_files(service: Service, contents: list[bytes], what: str) -> np.ndarray:
    """Image files as uint8 [N, H, W, C].

    Raises:
        RequestError: 400, one is not an image.
    """
    return np.stack(
        [(await service.decode(content, f"{what}[{i}]")).pixels for i, content in enumerate(contents)]
    )


def outputs_of(model: ServedModel) -> dict[str, tuple[str, str]]:
    """The outputs that a model has: without thresholds, no `unfamiliar`."""
    return {name: kinds for name, kinds in OUTPUTS.items() if name != "unfamiliar" or model.thresholds}


def columns(answers: Answers) -> dict[str, Any]:
    """The answers by output: arrays, and a list of class names."""
    return {name: getattr(answers, name) for name in outputs_of(answers.model)}


def to_list(values: Any) -> list[Any]:
    """An array as JSON values; float32 with the nine digits that tell it apart from its neighbours."""
    if not isinstance(values, np.ndarray):
        return list(values)
    if values.dtype != np.float32:
        return list(values.tolist())
    wide = values.astype(np.float64)
    digits = 8 - np.floor(np.log10(np.where(wide == 0, 1, np.abs(wide))))
    # Of a power of ten that is exact, a quotient is the float64 nearest to the decimal number.
    scale = 10.0 ** np.clip(digits, 0, 22)
    return list((np.round(wide * scale) / scale).tolist())


def json_response(value: Any, headers: dict[str, str] | None = None) -> Response:
    """A value of Python's own types as JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)
