"""Self-contained HTML pages with a common style and figures for both colour schemes."""

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from cifar_trainer import __version__, plots
from cifar_trainer.plots import DARK, LIGHT, Figure, Theme


@dataclasses.dataclass(frozen=True)
class PageFigure:
    """A figure as PNG bytes, for the light and the dark colour scheme."""

    light: bytes
    dark: bytes


def draw_figures(
    drawings: Mapping[str, Callable[[Theme], Figure]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, PageFigure]:
    """Draw each figure in both themes; `on_progress` gets (done, total) after each."""
    drawn = {}
    for name, draw in drawings.items():
        drawn[name] = PageFigure(plots.render(draw(LIGHT), "png"), plots.render(draw(DARK), "png"))
        on_progress(len(drawn), len(drawings))
    return drawn


def render(package: str, template: str, figures: Mapping[str, PageFigure], **values: Any) -> str:
    """Render a page; all values are escaped.

    Args:
        package: the package whose `templates` folder contains the template.
        template: the template's file name; it extends `page.html.j2`.
        figures: by their names in the template.
        values: the template's other variables.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("cifar_trainer")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": lambda number: f"{number:,}"}
    uris = {name: (data_uri(each.light), data_uri(each.dark)) for name, each in figures.items()}
    return environment.get_template(template).render(figures=uris, version=__version__, **values)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage, such as `97.1 %`."""
    return f"{share * 100:.{digits}f} %"


def data_uri(image: bytes) -> str:
    """A PNG file's bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
