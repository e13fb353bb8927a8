"""The page at `/`: one file, nothing from elsewhere."""

import html
import importlib.resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cifar_trainer.serving.service import Service

#: Nothing is loaded from other hosts, and no other site may frame the page.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src blob: mediastream:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(service: Service) -> list[Route]:
    """The path /."""
    template = (importlib.resources.files(__package__) / "page.html").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        artefact = service.model.artefact
        height, width, _ = artefact.image_shape
        text = (
            template.replace("{{name}}", html.escape(service.settings.name))
            .replace("{{size}}", f"{width}×{height}")
            .replace("{{classes}}", html.escape(", ".join(artefact.classes)))
        )
        return HTMLResponse(text, headers=HEADERS)

    return [Route("/", show)]
