"""The HTML pages: one to classify an image, monitoring, and one that asks for the key."""

import base64
import datetime
import hashlib
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.serving.api.bodies import json_response
from cifar_trainer.serving.monitoring import DriftReport
from cifar_trainer.serving.service import Service

_FILES = importlib.resources.files(__package__) / "templates"


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


_STYLE = _read("style.css")
#: The scripts by page; each follows the common part.
_SCRIPTS = {page: _read("common.js") + _read(f"{page}.js") for page in ("classify", "monitoring", "key")}


def _sources(*texts: str) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)


#: Only our own scripts and styles run, nothing comes from other hosts, and no other site may frame a page.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_sources(_STYLE)}; script-src {_sources(*_SCRIPTS.values())}; "
        "img-src 'self' data: blob:; media-src blob: mediastream:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: What happens to an image of another shape than the model's, by mode of `images.RESIZES`.
_RESIZED = {"stretch": "stretched to its shape", "crop": "cropped to its shape", "fit": "with white borders"}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(_read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)
_ENVIRONMENT.filters["percent"] = _percent


def _render(page: str, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    text = _ENVIRONMENT.get_template(f"{page}.html.j2").render(
        name=name, style=Markup(_STYLE), script=Markup(_SCRIPTS[page]), **values
    )
    return HTMLResponse(text, status, HEADERS)


def routes(service: Service) -> list[Route]:
    """The paths / and /monitoring."""

    async def classify(request: Request) -> Response:
        """A page on which to try the model."""
        artefact = service.model.artefact
        height, width, _ = artefact.image_shape
        # The page needs no key, so it must not show what a key protects.
        baseline = service.model.monitor.baseline if service.settings.api_key is None else None
        samples = [answer.png for answer in baseline.answers] if baseline else []
        return _render(
            "classify",
            service.settings.name,
            classes=artefact.classes,
            size=f"{width}×{height}",
            samples=samples,
            shape=width / height,
            resized=_RESIZED[artefact.preprocessing.resize],
        )

    async def monitoring(request: Request) -> Response:
        """Drift, rates and latency: JSON, or a page in a browser."""
        report = await service.drift_report()
        server = _server_state(service)
        if "text/html" in request.headers.get("accept", ""):
            return _render(
                "monitoring",
                service.settings.name,
                report=report,
                server=server,
                shares=_class_shares(report, service.model.monitor.baseline),
            )
        return json_response(report.to_json() | {"server": server})

    return [Route("/", classify), Route("/monitoring", monitoring)]


def key_page(name: str) -> HTMLResponse:
    """The answer to a browser without the key: a page that asks for it, and then opens the requested page."""
    response = _render("key", name, 401)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _server_state(service: Service) -> dict[str, Any]:
    recent = {key: round(value, 3) for key, value in service.metrics.recent().items()}
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": service.settings.name,
        "version": service.model.version,
        "weights_sha256": service.model.source.weights_sha256,
        "artefact": service.model.source.path.name,
        "queued_images": service.batcher.queued,
        "last_minute": recent,
    }


def _class_shares(report: DriftReport, baseline: Baseline | None) -> list[tuple[str, float, float | None]]:
    """Each class with its shares of the newest and of the validation images; empty without images."""
    if not report.images:
        return []
    now = [count / report.images for count in report.class_counts.values()]
    counts = baseline.class_counts if baseline else ()
    before: list[float | None] = [count / sum(counts) for count in counts] or [None] * len(now)
    return list(zip(report.class_counts, now, before, strict=True))
