"""From JSON to arrays, and back: what both JSON protocols share."""

import base64
import binascii
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response

from cifar_trainer.serving.problems import bad_request
from cifar_trainer.serving.service import Answers

#: What a model's outputs are called, and their types in the Open Inference Protocol.
OUTPUTS = {
    "logits": "FP32",
    "probabilities": "FP32",
    "class_id": "INT64",
    "class_name": "BYTES",
    "confidence": "FP32",
    "unfamiliar": "BOOL",
}


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        RequestError: 400, it is none. NaN and Infinity are no JSON.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_request(f"JSON Parse error: {error}") from error
    if not isinstance(value, dict):
        raise bad_request(f"JSON Value: the body is {_kind(value)}. Expected an object.")
    return value


def json_response(value: Any, status: int = 200) -> Response:
    """A value of Python's own types as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def as_images(value: Any, shape: tuple[int, int, int], what: str) -> np.ndarray:
    """Nested lists of whole numbers from 0 to 255 as uint8 [N, *shape].

    Raises:
        RequestError: 400, they are of another shape, or hold anything else.
    """
    expected = f"Expected a list of images of shape {list(shape)}, whole numbers from 0 to 255."
    if not isinstance(value, list) or not value:
        raise bad_request(f"{what} is {_kind(value)}. {expected}")
    try:
        numbers = np.array(value)
    except ValueError as error:
        raise bad_request(f"{what} has lists of unequal lengths. {expected}") from error
    if numbers.dtype.kind not in "iu":
        kind = {"f": "fractions", "U": "strings", "b": "true or false"}.get(
            numbers.dtype.kind, "mixed values"
        )
        raise bad_request(f"{what} holds {kind}. {expected}")
    if numbers.shape[1:] != shape:
        raise bad_request(f"{what} has the shape {list(numbers.shape)}. {expected}")
    if numbers.min() < 0 or numbers.max() > 255:
        raise bad_request(f"{what} holds values from {numbers.min()} to {numbers.max()}. {expected}")
    return numbers.astype(np.uint8)


def as_bytes(value: Any, what: str) -> bytes:
    """The bytes that `{"b64": "…"}` stands for.

    Raises:
        RequestError: 400, it is not that.
    """
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise bad_request(f'{what} is {_kind(value)}. Expected {{"b64": "…"}} with an image file.')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"{what} is not base64: {error}.") from error


def columns(answers: Answers) -> dict[str, list[Any]]:
    """The answers by the names of `OUTPUTS`; `unfamiliar` is left out where nothing can tell."""
    found = {
        "logits": answers.logits.tolist(),
        "probabilities": answers.probabilities.tolist(),
        "class_id": answers.class_id.tolist(),
        "class_name": answers.class_name,
        "confidence": answers.confidence.tolist(),
    }
    if answers.unfamiliar is not None:
        found["unfamiliar"] = answers.unfamiliar.tolist()
    return found


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    names = {dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
