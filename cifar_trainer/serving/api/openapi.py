"""`GET /openapi.json`: the paths of the server as an OpenAPI document, from its routes and body types.

https://spec.openapis.org/oas/v3.1.1.html
"""

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cifar_trainer import __version__
from cifar_trainer.serving.api.bodies import json_response
from cifar_trainer.serving.api.open_inference import InferRequest
from cifar_trainer.serving.api.predict import Explanation, Prediction
from cifar_trainer.serving.api.tensorflow_serving import PredictRequest
from cifar_trainer.serving.errors import ErrorBody

#: An image file, as the body or as a field of a form.
_FILE = {
    "application/octet-stream": {},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"image": {"type": "string", "contentMediaType": "application/octet-stream"}},
        }
    },
}
#: Query parameters, by path.
_QUERIES: dict[str, list[dict[str, Any]]] = {
    "/predict": [{"name": "explain", "in": "query", "schema": {"type": "boolean"}}],
    "/explain": [{"name": "class_id", "in": "query", "required": True, "schema": {"type": "integer"}}],
}


def route(others: Sequence[Route], *, needs_key: bool) -> Route:
    """The path that describes itself and the others."""

    async def openapi(request: Request) -> Response:
        """This document."""
        return json_response(document)

    own = Route("/openapi.json", openapi)
    document = _describe([*others, own], needs_key)
    return own


def _describe(routes: Sequence[Route], needs_key: bool) -> dict[str, Any]:
    kinds = (PredictRequest, InferRequest, Prediction, Explanation, ErrorBody)
    references, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    json = {
        kind: {"application/json": {"schema": schema}} for kind, schema in zip(kinds, references, strict=True)
    }
    bodies = {
        "/predict": _FILE,
        "/explain": _FILE,
        ":predict": json[PredictRequest],
        "/infer": json[InferRequest],
    }
    # Those of the two protocols are in their specifications.
    answers = {"/predict": json[Prediction], "/explain": json[Explanation]}
    paths: dict[str, dict[str, Any]] = {}
    for each in routes:
        name = each.path.rpartition("}")[2]
        operation: dict[str, Any] = {
            "summary": (inspect.getdoc(each.endpoint) or "").partition("\n")[0],
            "parameters": [
                {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
                for parameter in each.param_convertors
            ]
            + _QUERIES.get(name, []),
            "responses": {
                "200": {"description": "The answer.", "content": answers.get(name, {})},
                "default": {"description": "An error.", "content": json[ErrorBody]},
            },
        }
        if name in bodies:
            operation["requestBody"] = {"required": True, "content": bodies[name]}
        for method in (each.methods or set()) - {"HEAD"}:
            paths.setdefault(each.path, {})[method.lower()] = operation
    document: dict[str, Any] = {
        "openapi": "3.1.1",
        "info": {"title": "cifar-trainer serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document
