"""The report as one page: a single file with its pictures inside, which opens offline."""

import base64
from collections.abc import Sequence

import jinja2

from cifar_trainer import __version__
from cifar_trainer.evaluation.pictures import Picture
from cifar_trainer.evaluation.provenance import Provenance
from cifar_trainer.evaluation.report import Report


def render_page(
    report: Report, provenance: Provenance, pictures: Sequence[Picture], classes: Sequence[str]
) -> str:
    """The page's HTML; everything that comes from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_trainer.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "count": lambda number: f"{number:,}",
        "words": lambda name: name.replace("_", " "),
    }
    template = environment.get_template("report.html.j2")
    return template.render(
        report=report,
        provenance=provenance,
        pictures={picture.name: (_data_uri(picture.light), _data_uri(picture.dark)) for picture in pictures},
        classes=list(classes),
        version=__version__,
    )


def _percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
