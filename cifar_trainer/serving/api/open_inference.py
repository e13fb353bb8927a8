"""The Open Inference Protocol, version 2, over HTTP, for clients of KServe and Triton.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
With its extension for binary tensors:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
import struct
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cifar_trainer import __version__
from cifar_trainer.serving.api.bodies import (
    columns,
    decode_base64,
    decode_files,
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

_HEADER_LENGTH = "Inference-Header-Content-Length"
_EXPECTED = 'Expected one input: "images", UINT8, or "image_bytes", BYTES, base64 of image files.'
#: Maximum size of the list of outputs.
_OUTPUTS_BYTES = 16 * 1024


class TensorParameters(msgspec.Struct):
    """Parameters of an input or output."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    binary_data: bool | None = None
    classification: int | None = None


class InputTensor(msgspec.Struct):
    """An input. Its data are decoded once the number of images is checked."""

    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1, max_length=4)]
    data: Raw = msgspec.field(default_factory=Raw)
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


class OutputTensor(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


class RequestParameters(msgspec.Struct):
    """Parameters of a request."""

    binary_data_output: bool = False


class InferRequest(msgspec.Struct):
    """The body of `infer`."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    outputs: Raw = msgspec.field(default_factory=lambda: Raw(b"null"))
    id: str | int | None = None
    parameters: RequestParameters = msgspec.field(default_factory=RequestParameters)


def routes(service: Service) -> list[Route]:
    """The paths below /v2."""

    def status() -> int:
        return 200 if service.ready else 400

    async def server(request: Request) -> Response:
        """The server's name and version."""
        return json_response(
            {"name": "cifar-trainer", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def live(request: Request) -> Response:
        """Whether the server answers."""
        return json_response({"live": True})

    async def ready(request: Request) -> Response:
        """Whether the server accepts requests."""
        return json_response({"ready": service.ready}, status())

    async def model_ready(request: Request) -> Response:
        """Whether the model accepts requests."""
        _check_model(service, request)
        return json_response({"name": service.settings.name, "ready": service.ready}, status())

    async def metadata(request: Request) -> Response:
        """The model's inputs and outputs."""
        _check_model(service, request)
        artefact = service.model.artefact
        return json_response(
            {
                "name": service.settings.name,
                "versions": [str(service.model.version)],
                "platform": f"cifar-trainer_{artefact.format}",
                "inputs": [
                    {"name": "images", "datatype": "UINT8", "shape": [-1, *artefact.image_shape]},
                    {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
                ],
                "outputs": [
                    {"name": name, "datatype": kind, "shape": shape}
                    for name, (kind, _, shape) in outputs_of(service.model).items()
                ],
                "parameters": {"weights_sha256": service.model.source.weights_sha256},
            }
        )

    async def infer(request: Request) -> Response:
        """Classify a tensor of pixels or of image files."""
        _check_model(service, request)
        length = request.headers.get(_HEADER_LENGTH)
        parsed, outputs, images = await parse_body(
            service, request, lambda body: _parse(service, body, length)
        )
        answers = await service.classify(await decode_files(service, images, "inputs[0].data"))
        return await service.in_decoder(_answer, service.settings.name, answers, parsed, outputs)

    paths = [Route("/v2", server), Route("/v2/health/live", live), Route("/v2/health/ready", ready)]
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        paths += [
            Route(path, metadata),
            Route(path + "/ready", model_ready),
            Route(path + "/infer", infer, methods=["POST"]),
        ]
    return paths


def _check_model(service: Service, request: Request) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != service.settings.name:
        raise not_found(f"There is no model {name!r}. Expected {service.settings.name!r}.")
    if version is not None and version != str(service.model.version):
        raise not_found(f"There is no version {version!r}. Expected {str(service.model.version)!r}.")


def _parse(
    service: Service, body: bytes, header_length: str | None
) -> tuple[InferRequest, list[OutputTensor], np.ndarray | list[bytes]]:
    """A request, the outputs to answer with, and its pixels or image files."""
    binary = b""
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 15 or int(header_length) > len(body):
            raise bad_request(
                f"{_HEADER_LENGTH} is {header_length[:60]!r}, the body has {len(body):,} bytes."
            )
        body, binary = body[: int(header_length)], body[int(header_length) :]
    request = parse_request(service, body, InferRequest)
    tensor = request.inputs[0]
    if (tensor.name, tensor.datatype) not in (("images", "UINT8"), ("image_bytes", "BYTES")):
        raise bad_request(f"inputs[0] is {tensor.name[:80]!r} of {tensor.datatype[:80]!r}. {_EXPECTED}")
    return request, _parse_outputs(service, request), _parse_data(service, tensor, binary)


def _parse_data(service: Service, tensor: InputTensor, binary: bytes) -> np.ndarray | list[bytes]:
    shape, expected = tensor.shape, service.model.artefact.image_shape
    is_pixels = tensor.datatype == "UINT8"
    if is_pixels and tuple(shape[1:]) != expected:
        raise bad_request(f"inputs[0].shape is {shape}. Expected [N, {', '.join(map(str, expected))}].")
    count = shape[0] if is_pixels else math.prod(shape)
    service.batcher.check_size(count)
    size = tensor.parameters.binary_data_size
    if size is not None:
        if size != len(binary):
            raise bad_request(f"inputs[0] has {len(binary):,} binary bytes, binary_data_size says {size:,}.")
        if not is_pixels:
            return _binary_strings(binary, count)
        if size != math.prod(shape):
            raise bad_request(f"inputs[0] has {size:,} binary bytes, its shape is {shape}.")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    what = "inputs[0].data"
    images: np.ndarray | list[bytes]
    if is_pixels:
        # The protocol allows nested lists, and flat ones, row by row.
        flat = bytes(memoryview(tensor.data)[1:64]).lstrip()[:1] != b"["
        images = parse_images(service, tensor.data, what, flat=flat)
    else:
        texts = parse_files(service, tensor.data, str, what)
        images = [decode_base64(text, f"{what}[{i}]") for i, text in enumerate(texts)]
    if len(images) != count:
        raise bad_request(f"{what} has {len(images)} elements, its shape is {shape}.")
    return images


def _binary_strings(binary: bytes, count: int) -> list[bytes]:
    """Split byte strings; each follows its length, 4 bytes in little-endian order."""
    strings: list[bytes] = []
    place = 0
    while place < len(binary) and len(strings) <= count:
        (length,) = struct.unpack("<I", binary[place : place + 4].ljust(4, b"\xff"))
        strings.append(binary[place + 4 : place + 4 + length])
        place += 4 + length
    if place != len(binary) or len(strings) != count:
        raise bad_request(f"inputs[0] is not {count} byte strings, each after its length.")
    return strings


def _parse_outputs(service: Service, request: InferRequest) -> list[OutputTensor]:
    raw = bytes(request.outputs)
    if len(raw) > _OUTPUTS_BYTES:
        raise bad_request("outputs is too long.")
    known = outputs_of(service.model)
    wanted = parse_json(raw, list[OutputTensor] | None, "outputs")  # type: ignore[arg-type]
    outputs: list[OutputTensor] = wanted or [OutputTensor(name) for name in known]
    for output in outputs:
        if output.name not in known:
            raise bad_request(f"outputs names {output.name[:80]!r}. Expected some of {', '.join(known)}.")
        if output.parameters.classification is not None:
            raise bad_request("classification (class_count) is not supported. Ask for probabilities.")
    return outputs


def _answer(name: str, answers: Answers, request: InferRequest, outputs: list[OutputTensor]) -> Response:
    values, kinds = columns(answers), outputs_of(answers.model)
    described, binaries = [], []
    for output in outputs:
        data = values[output.name]
        kind = kinds[output.name][0]
        entry: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": list(np.shape(data))}
        as_binary = output.parameters.binary_data
        if request.parameters.binary_data_output if as_binary is None else as_binary:
            content = _BINARY[kind](data)
            entry["parameters"] = {"binary_data_size": len(content)}
            binaries.append(content)
        else:
            entry["data"] = to_list(data.ravel() if isinstance(data, np.ndarray) else data)
        described.append(entry)
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": str(answers.model.version),
        "outputs": described,
        "parameters": {"weights_sha256": answers.model.source.weights_sha256},
    }
    if request.id is not None:
        answer["id"] = str(request.id)
    if not binaries:
        return json_response(answer)
    head = msgspec.json.encode(answer)
    return Response(
        head + b"".join(binaries),
        media_type="application/octet-stream",
        headers={_HEADER_LENGTH: str(len(head))},
    )


def _strings_to_binary(strings: list[str]) -> bytes:
    encoded = [text.encode("utf-8") for text in strings]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


#: The binary form of each type.
_BINARY: dict[str, Callable[[Any], bytes]] = {
    "FP32": lambda values: bytes(values.astype("<f4").tobytes()),
    "INT64": lambda values: bytes(values.astype("<i8").tobytes()),
    "BOOL": lambda values: bytes(values.astype(np.uint8).tobytes()),
    "BYTES": _strings_to_binary,
}
