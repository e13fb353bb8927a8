"""TensorFlow Serving's REST API: the same requests, answers and errors.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cifar_trainer.serving.api.bodies import (
    EncodedImage,
    columns,
    decode_base64,
    decode_files,
    first_byte,
    json_response,
    outputs_of,
    parse_body,
    parse_files,
    parse_images,
    parse_json,
    parse_request,
    to_list,
)
from cifar_trainer.serving.errors import bad_request, not_found
from cifar_trainer.serving.service import Answers, Service

_PIXELS, _FILES = "serving_default", "serving_bytes"


class PredictRequest(msgspec.Struct):
    """The body of `:predict`. Its images are decoded once the signature is known."""

    signature_name: str | None = None
    instances: Raw = msgspec.field(default_factory=Raw)
    inputs: Raw = msgspec.field(default_factory=Raw)


class NamedFile(msgspec.Struct, forbid_unknown_fields=True):
    """`{"b64": "…"}` or `{"image_bytes": {"b64": "…"}}`."""

    image_bytes: EncodedImage | None = None
    b64: str | None = None


class ImagesColumn(msgspec.Struct, forbid_unknown_fields=True):
    """`inputs` for pixels."""

    data: Raw = msgspec.field(name="images")


class FilesColumn(msgspec.Struct, forbid_unknown_fields=True):
    """`inputs` for image files."""

    data: Raw = msgspec.field(name="image_bytes")


#: By signature.
_COLUMNS: dict[str, Any] = {_PIXELS: ImagesColumn, _FILES: FilesColumn}


def routes(service: Service) -> list[Route]:
    """The paths below /v1/models."""

    async def status(request: Request) -> Response:
        """The version in service."""
        _check_model(service, request)
        entry = {
            "version": str(service.model.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": service.holder.failure or ""},
        }
        return json_response({"model_version_status": [entry]})

    async def metadata(request: Request) -> Response:
        """The model's signatures."""
        _check_model(service, request)
        return json_response(_metadata(service))

    async def predict(request: Request) -> Response:
        """Classify pixels, or image files in base64."""
        _check_model(service, request)
        images, in_rows = await parse_body(service, request, lambda body: _parse(service, body))
        decoded = await decode_files(service, images, "instances" if in_rows else "inputs")
        answers = await service.classify(decoded)
        if len(decoded) == 1:
            return _answer(answers, in_rows)
        return await service.in_decoder(_answer, answers, in_rows)

    paths = []
    for path in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}"):
        paths += [
            Route(path + ":predict", predict, methods=["POST"]),
            Route(path + "/metadata", metadata),
            Route(path, status),
        ]
    return paths


def _check_model(service: Service, request: Request) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    if ":" in f"{name}{version}":
        raise not_found(f"Malformed request: {request.method} {request.url.path}")
    if name != service.settings.name:
        raise not_found(f"Servable not found for request: Latest({name})")
    if version is not None and version != str(service.model.version):
        raise not_found(f"Servable not found for request: Specific({name}, {version})")


def _parse(service: Service, body: bytes) -> tuple[np.ndarray | list[bytes], bool]:
    """Pixels or image files, and whether they came in rows (`instances`) or in a column (`inputs`)."""
    request = parse_request(service, body, PredictRequest)
    signature = request.signature_name or _PIXELS
    if signature not in _COLUMNS:
        raise bad_request(f'Serving signature name: "{signature[:80]}" not found in signature def')
    in_rows = bool(first_byte(request.instances))
    if in_rows == bool(first_byte(request.inputs)):
        raise bad_request('Expected either "instances" or "inputs" in the body.')
    what, raw = ("instances", request.instances) if in_rows else ("inputs", request.inputs)
    if not in_rows and first_byte(raw) == b"{":
        raw = parse_json(raw, _COLUMNS[signature], what).data
    if signature == _PIXELS:
        return parse_images(service, raw, what, named=in_rows), in_rows
    files = []
    for i, item in enumerate(parse_files(service, raw, NamedFile, what)):
        text = item.b64 if item.image_bytes is None else item.image_bytes.b64
        if text is None:
            raise bad_request(f'{what}[{i}] has no "b64" with an image file.')
        files.append(decode_base64(text, f"{what}[{i}]"))
    return files, in_rows


def _answer(answers: Answers, in_rows: bool) -> Response:
    outputs = {name: to_list(values) for name, values in columns(answers).items()}
    if not in_rows:
        return json_response({"outputs": outputs})
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return json_response({"predictions": rows})


def _metadata(service: Service) -> dict[str, Any]:
    artefact = service.model.artefact

    def tensor(name: str, kind: str, shape: list[int]) -> dict[str, Any]:
        dims = [{"size": str(size), "name": ""} for size in shape]
        return {"dtype": kind, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}

    outputs = {
        name: tensor(name, kind, shape) for name, (_, kind, shape) in outputs_of(service.model).items()
    }
    inputs = {
        _PIXELS: {"images": tensor("images", "DT_UINT8", [-1, *artefact.image_shape])},
        _FILES: {"image_bytes": tensor("image_bytes", "DT_STRING", [-1])},
    }
    signatures = {
        name: {"inputs": tensors, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
        for name, tensors in inputs.items()
    }
    spec = {"name": service.settings.name, "signature_name": "", "version": str(service.model.version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}
