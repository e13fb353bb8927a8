"""The server's paths, as one ASGI application."""

import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from cifar_trainer.serving import monitoring_page, open_inference, page, tensorflow_serving, upload
from cifar_trainer.serving.guard import FAILURE, Guard, error_response
from cifar_trainer.serving.problems import RequestError
from cifar_trainer.serving.service import Service

#: TensorFlow Serving's path for the same.
METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")


def make_app(service: Service, is_stopping: Callable[[], bool]) -> ASGIApp:
    """All paths of `service`, behind the guard, which closes connections once the server is stopping."""

    async def metrics(request: Request) -> Response:
        await service.drift_report()
        return Response(service.telemetry.render(), media_type=service.telemetry.content_type)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        service.telemetry.problems.labels(error.cause).inc()
        return error_response(error)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    routes = [
        *page.routes(service),
        *upload.routes(service),
        *tensorflow_serving.routes(service),
        *open_inference.routes(service),
        *monitoring_page.routes(service),
        *(Route(path, metrics) for path in METRICS_PATHS),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, RequestError: refuse, Exception: _failure},
    )

    plain = {route.path for route in routes if not route.param_convertors}

    def route_of(scope: Scope) -> str:
        path: str = scope["path"]
        if path in plain:
            return path
        for route in routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(route.path)
        return "other"

    return Guard(
        app,
        limits=service.settings.limits,
        api_key=service.settings.api_key,
        telemetry=service.telemetry,
        route_of=route_of,
        is_stopping=is_stopping,
    )


async def _failure(request: Request, error: Exception) -> Response:
    """An unexpected exception; the guard logs and counts it."""
    return error_response(FAILURE)


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or method that does not exist, in the protocols' form."""
    assert isinstance(error, HTTPException)
    text = (
        f"Malformed request: {request.method} {request.url.path}"
        if error.status_code in (404, 405)
        else str(error.detail)
    )
    return JSONResponse({"error": text}, error.status_code, error.headers)
