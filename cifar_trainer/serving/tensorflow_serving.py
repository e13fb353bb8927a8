"""TensorFlow Serving's REST API: its paths, its forms of requests, answers and errors.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cifar_trainer.serving.payloads import as_bytes, as_images, columns, json_response, parse_object
from cifar_trainer.serving.problems import bad_request, not_found
from cifar_trainer.serving.service import Answers, Service

_BY_PIXELS = "serving_default"
_BY_FILES = "serving_bytes"
_INPUTS = {_BY_PIXELS: "images", _BY_FILES: "image_bytes"}
#: TensorFlow's names of the outputs' types.
_TYPES = {
    "logits": "DT_FLOAT", "probabilities": "DT_FLOAT", "class_id": "DT_INT64", "class_name": "DT_STRING",
    "confidence": "DT_FLOAT", "unfamiliar": "DT_BOOL",
}  # fmt: skip


def routes(service: Service) -> list[Route]:
    """The paths below /v1/models."""

    async def status(request: Request) -> Response:
        _check_model(service, request)
        problem = service.holder.failure
        entry = {
            "version": str(service.model.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": problem or ""},
        }
        return JSONResponse({"model_version_status": [entry]})

    async def metadata(request: Request) -> Response:
        _check_model(service, request)
        return JSONResponse(_metadata(service))

    async def predict(request: Request) -> Response:
        _check_model(service, request)
        body = parse_object(await request.body())
        signature = body.get("signature_name") or _BY_PIXELS
        if signature not in _INPUTS:
            raise bad_request(f'Serving signature name: "{signature}" not found in signature def')
        rows, in_rows = _rows(body, _INPUTS[signature])
        if signature == _BY_FILES:
            contents = [as_bytes(row, f"instances[{i}]") for i, row in enumerate(rows)]
            images = np.stack([(await service.decode(content)).pixels for content in contents])
        else:
            images = as_images(rows, service.model.artefact.image_shape, "instances")
        return json_response(_answer(await service.classify(images), in_rows))

    found = []
    for path in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}"):
        found += [
            Route(path + ":predict", predict, methods=["POST"]),
            Route(path + "/metadata", metadata),
            Route(path, status),
        ]
    return found


def _check_model(service: Service, request: Request) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != service.settings.name:
        raise not_found(f"Servable not found for request: Latest({name})")
    if version is not None and version != str(service.model.version):
        raise not_found(f"Servable not found for request: Specific({name}, {version})")


def _rows(body: dict[str, Any], input_name: str) -> tuple[list[Any], bool]:
    """The images of a request, and whether it has them in rows (`instances`) or in a column (`inputs`)."""
    if ("instances" in body) == ("inputs" in body):
        raise bad_request('Expected either "instances" or "inputs" in the body.')
    in_rows = "instances" in body
    value = body["instances" if in_rows else "inputs"]
    if not in_rows and isinstance(value, dict) and "b64" not in value:
        if set(value) != {input_name}:
            raise bad_request(f'"inputs" names {", ".join(sorted(value))}. Expected {input_name}.')
        value = value[input_name]
    if not isinstance(value, list) or not value:
        raise bad_request(f"{'instances' if in_rows else 'inputs'} is no list, or empty. Expected a list.")
    if in_rows:
        value = [row[input_name] if isinstance(row, dict) and input_name in row else row for row in value]
    return value, in_rows


def _answer(answers: Answers, in_rows: bool) -> dict[str, Any]:
    outputs = columns(answers)
    if not in_rows:
        return {"outputs": outputs}
    return {
        "predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    }


def _metadata(service: Service) -> dict[str, Any]:
    artefact = service.model.artefact
    classes = len(artefact.classes)
    shapes = {"logits": [-1, classes], "probabilities": [-1, classes]}

    def tensor(name: str, kind: str, shape: list[int]) -> dict[str, Any]:
        dims = [{"size": str(size), "name": ""} for size in shape]
        return {"dtype": kind, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}

    outputs = {name: tensor(name, kind, shapes.get(name, [-1])) for name, kind in _TYPES.items()}
    inputs = {
        _BY_PIXELS: {"images": tensor("images", "DT_UINT8", [-1, *artefact.image_shape])},
        _BY_FILES: {"image_bytes": tensor("image_bytes", "DT_STRING", [-1])},
    }
    signatures = {
        name: {"inputs": given, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
        for name, given in inputs.items()
    }
    spec = {"name": service.settings.name, "signature_name": "", "version": str(service.model.version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}
