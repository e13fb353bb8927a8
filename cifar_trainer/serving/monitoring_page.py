"""`GET /monitoring`: whether requests have drifted from the validation images, as JSON or as a page."""

import html

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.serving.drift import DriftReport
from cifar_trainer.serving.page import HEADERS
from cifar_trainer.serving.service import Service

_STYLE = """
:root { color-scheme: light dark; --now: #b4500f; --then: #8a94a3; }
@media (prefers-color-scheme: dark) { :root { --now: #f0a060; --then: #6b7686; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.now { fill: var(--now); } .then { fill: var(--then); }
"""


def routes(service: Service) -> list[Route]:
    """The path /monitoring."""

    async def show(request: Request) -> Response:
        report = await service.drift_report()
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(
                render(service.settings.name, report, service.model.baseline), headers=HEADERS
            )
        return JSONResponse(report.to_json())

    return [Route("/monitoring", show)]


def render(name: str, report: DriftReport, baseline: Baseline | None) -> str:
    """The page."""
    verdict = report.reason and f"Nothing is compared yet: {report.reason}."
    if verdict is None:
        changed = ", ".join(test.measure for test in report.tests if test.drifted)
        verdict = f"Drift: {changed}." if changed else "No drift is seen."
    rows = "".join(
        f"<tr><td>{html.escape(t.measure)}</td><td>{t.test}</td><td>{t.statistic:.3f}</td>"
        f"<td>{t.p_value:.2g}</td><td>{'yes' if t.drifted else 'no'}</td></tr>"
        for t in report.tests
    )
    table = (
        "<table><thead><tr><th>measure</th><th>test</th><th>statistic</th><th>p</th><th>drifted</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>Monitoring {html.escape(name)}</title>'
        f"<style>{_STYLE}</style><body><main><h1>Monitoring {html.escape(name)}</h1>"
        f"<p><strong>{html.escape(verdict)}</strong></p>"
        f"<p>The newest {report.images:,} images (at most {report.window:,}) "
        f"against the validation images.</p>"
        f"{_plot(report, baseline)}{table}</main></body></html>"
    )


def _plot(report: DriftReport, baseline: Baseline | None) -> str:
    """The share of each class: the window's above the validation images'."""
    if not report.images:
        return ""
    names = list(report.class_counts)
    now = [count / report.images for count in report.class_counts.values()]
    then = [count / sum(baseline.class_counts) for count in baseline.class_counts] if baseline else []
    largest = max([*now, *then])
    bars = []
    for i, name in enumerate(names):
        top = 28 * i
        bars.append(f'<text x="150" y="{top + 16}" text-anchor="end">{html.escape(name[:20])}</text>')
        bars.append(
            f'<rect class="now" x="160" y="{top + 3}" width="{400 * now[i] / largest:.1f}" height="9"/>'
        )
        if then:
            width = 400 * then[i] / largest
            bars.append(f'<rect class="then" x="160" y="{top + 13}" width="{width:.1f}" height="9"/>')
    label = "; ".join(f"{name} {share:.0%}" for name, share in zip(names, now, strict=True))
    return (
        f'<svg viewBox="0 0 600 {28 * len(names) + 24}" role="img" '
        f'aria-label="Share of each class: {html.escape(label)}">{"".join(bars)}'
        f'<text class="now" x="160" y="{28 * len(names) + 16}">now</text>'
        f'<text class="then" x="200" y="{28 * len(names) + 16}">validation images</text></svg>'
    )
