"""The Open Inference Protocol, version 2, over HTTP with JSON; KServe's and Triton's clients speak it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import math
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cifar_trainer import __version__
from cifar_trainer.serving.payloads import OUTPUTS, as_bytes, as_images, columns, json_response, parse_object
from cifar_trainer.serving.problems import RequestError, bad_request, not_found
from cifar_trainer.serving.service import Answers, Service

_EXPECTED = 'Expected one input: "images", UINT8, or "image_bytes", BYTES, base64 of image files.'


def routes(service: Service) -> list[Route]:
    """The paths below /v2."""

    async def server(request: Request) -> Response:
        return JSONResponse({"name": "cifar-trainer", "version": __version__, "extensions": []})

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def model_ready(request: Request) -> Response:
        _check_model(service, request)
        return await ready(request)

    async def metadata(request: Request) -> Response:
        _check_model(service, request)
        artefact = service.model.artefact
        shapes = {"logits": [-1, len(artefact.classes)], "probabilities": [-1, len(artefact.classes)]}
        return JSONResponse(
            {
                "name": service.settings.name,
                "versions": [str(service.model.version)],
                "platform": f"cifar-trainer_{artefact.format}",
                "inputs": [
                    {"name": "images", "datatype": "UINT8", "shape": [-1, *artefact.image_shape]},
                    {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
                ],
                "outputs": [
                    {"name": name, "datatype": kind, "shape": shapes.get(name, [-1])}
                    for name, kind in OUTPUTS.items()
                ],
            }
        )

    async def infer(request: Request) -> Response:
        _check_model(service, request)
        if "inference-header-content-length" in request.headers:
            raise bad_request("Binary tensors are not read. Send JSON: binary_data=False in tritonclient.")
        body = parse_object(await request.body())
        images = await _images(service, body.get("inputs"))
        wanted = _wanted(body.get("outputs"))
        answers = await service.classify(images)
        answer: dict[str, Any] = {
            "model_name": service.settings.name,
            "model_version": str(answers.model.version),
            "outputs": _outputs(answers, wanted),
        }
        if isinstance(body.get("id"), str):
            answer["id"] = body["id"]
        return json_response(answer)

    found = [Route("/v2", server), Route("/v2/health/live", live), Route("/v2/health/ready", ready)]
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route(path, metadata),
            Route(path + "/ready", model_ready),
            Route(path + "/infer", infer, methods=["POST"]),
        ]
    return found


def _check_model(service: Service, request: Request) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != service.settings.name:
        raise not_found(f"There is no model {name!r}. Expected {service.settings.name!r}.")
    if version is not None and version != str(service.model.version):
        raise not_found(f"There is no version {version!r}. Expected {str(service.model.version)!r}.")


async def _images(service: Service, inputs: Any) -> np.ndarray:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad_request(f"inputs does not hold one object. {_EXPECTED}")
    given = inputs[0]
    name, kind, shape, data = (given.get(key) for key in ("name", "datatype", "shape", "data"))
    if (name, kind) not in (("images", "UINT8"), ("image_bytes", "BYTES")):
        raise bad_request(f"inputs[0] is {name!r} of {kind!r}. {_EXPECTED}")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise bad_request(f"inputs[0].shape is {shape!r}. Expected a list of numbers above 0.")
    if not isinstance(data, list):
        raise bad_request("inputs[0].data is no list.")
    if kind == "BYTES":
        if len(data) != math.prod(shape):
            raise bad_request(f"inputs[0].data has {len(data)} elements, its shape {shape}.")
        files = [as_bytes({"b64": text}, f"inputs[0].data[{i}]") for i, text in enumerate(data)]
        return np.stack([(await service.decode(content)).pixels for content in files])
    expected = service.model.artefact.image_shape
    if tuple(shape[1:]) != expected:
        raise bad_request(f"inputs[0].shape is {shape}. Expected [N, {', '.join(map(str, expected))}].")
    if data and not isinstance(data[0], list):
        # Flat, row by row, as the protocol allows beside nested lists.
        if len(data) != math.prod(shape):
            raise bad_request(
                f"inputs[0].data has {len(data)} values, its shape asks for {math.prod(shape)}."
            )
        size = math.prod(expected)
        flat = as_images(
            [[[data[i : i + size]]] for i in range(0, len(data), size)], (1, 1, size), "inputs[0]"
        )
        return flat.reshape(-1, *expected)
    images = as_images(data, expected, "inputs[0].data")
    if len(images) != shape[0]:
        raise bad_request(f"inputs[0].data has {len(images)} images, its shape says {shape[0]}.")
    return images


def _wanted(outputs: Any) -> list[str] | None:
    if outputs is None or outputs == []:
        return None
    names = (
        [each.get("name") if isinstance(each, dict) else None for each in outputs]
        if isinstance(outputs, list)
        else [None]
    )
    for name in names:
        if name not in OUTPUTS:
            raise bad_request(f"outputs names {name!r}. Expected some of {', '.join(OUTPUTS)}.")
    return [str(name) for name in names]


def _outputs(answers: Answers, wanted: list[str] | None) -> list[dict[str, Any]]:
    given = columns(answers)
    for name in wanted or ():
        if name not in given:
            raise RequestError(400, "bad_request", f"The model has no thresholds, so it has no {name!r}.")
    found = []
    for name in wanted or given:
        values = np.array(given[name])
        data = given[name] if values.ndim == 1 else values.ravel().tolist()
        found.append({"name": name, "datatype": OUTPUTS[name], "shape": list(values.shape), "data": data})
    return found
