"""The server's paths and middleware, as one ASGI application."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from cifar_trainer.serving import limits, pages
from cifar_trainer.serving.api import open_inference, openapi, predict, tensorflow_serving
from cifar_trainer.serving.service import Service

#: The second is TensorFlow Serving's path.
METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")


def make_app(service: Service) -> ASGIApp:
    """All paths of `service`, behind its limits."""

    async def metrics(request: Request) -> Response:
        """Metrics for Prometheus."""
        await service.drift_report()
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with service.running():
            yield

    settings = service.settings
    routes = [
        *pages.routes(service),
        *predict.routes(service),
        *tensorflow_serving.routes(service),
        *open_inference.routes(service),
        *(Route(path, metrics) for path in METRICS_PATHS),
    ]
    routes.append(openapi.route(routes, needs_key=settings.api_key is not None))
    # A redirect to the path without its last slash would follow the client's Host header.
    router = Router(routes, redirect_slashes=False, lifespan=lifespan)
    plain = {route.path for route in routes if not route.param_convertors}

    def route_of(scope: Scope) -> str:
        path: str = scope["path"]
        if path in plain:
            return path
        return next((each.path for each in routes if each.matches(scope)[0] is not Match.NONE), "other")

    app = limits.limited(router, settings)
    app = limits.authorized(app, settings.api_key, pages.key_page(settings.name))
    app = limits.same_site(app, settings)
    app = limits.measured(app, service.metrics, route_of, service.is_stopping)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # With this, Starlette raises its 404 and 405 instead of sending them as text.
        scope["app"] = router
        await (app if scope["type"] == "http" else router)(scope, receive, send)

    return dispatch
