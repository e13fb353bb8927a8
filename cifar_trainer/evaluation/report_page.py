"""report.html: the figures, the provenance, the page."""

import base64
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from cifar_trainer import __version__
from cifar_trainer.evaluation import figures
from cifar_trainer.evaluation.gradcam import grad_cam, representative_images
from cifar_trainer.evaluation.report import Report
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.metrics import precision_recall_curves
from cifar_trainer.plots import DARK, LIGHT, Theme, confusion_figure, gallery_figure, png


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a reader needs to judge a report, or to repeat it.

    Attributes:
        rows: names and values for a table.
        choosing: what was and what was not used for choosing the model.
    """

    rows: tuple[tuple[str, str], ...]
    choosing: str


def describe_provenance(subject: Subject) -> Provenance:
    """The provenance of a subject, from the files of its run.

    Raises:
        RunError: environment.json or history.csv cannot be read.
    """
    run, config, dataset = subject.run, subject.config, subject.dataset
    environment, result = run.read_environment(), subject.result
    begun = (environment.get("earlier") or [environment])[0]
    rows_of_history = run.read_history()[: result.epochs]
    energy = [row["energy_joules"] for row in rows_of_history if row["energy_joules"] is not None]
    versions = environment.get("versions", {})
    rows = [
        ("run", _utf8(run.path.resolve().name)),
        ("command", _utf8(str(begun.get("command_line", "unknown")))),
        ("recipe", f"{config.recipe}, {result.parameters:,} parameters"),
        (
            "training",
            f"{result.epochs} epochs, batch {config.batch_size}, learning rate "
            f"{config.learning_rate:g}, seed {config.seed}, {config.precision}"
            + ("" if config.limit is None else f", {config.limit:,} images only"),
        ),
        ("device", str(environment.get("device", {}).get("description", "unknown"))),
        ("time", f"{result.seconds:,.0f} s, {result.images_per_second:,.0f} images/s"),
        *([("energy", f"{sum(energy):,.0f} J, of the GPU alone")] if energy else []),
        ("data", f"{dataset.title}{'; verified by its fingerprints' if dataset.verified else ''}"),
        ("training split", dataset.train.fingerprint),
        ("test split", dataset.test.fingerprint),
        ("weights, SHA-256", subject.weights_sha256),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("begun", _minute(begun.get("started_at")) + _resumed(environment)),
    ]
    return Provenance(tuple(rows), _choosing(subject))


def _choosing(subject: Subject) -> str:
    config = subject.config
    if config.validation == "test":
        return (
            "The test set was watched after each epoch, as the article does. Nothing was chosen by it: the "
            "model is the last epoch's. No training images were held out, so no temperature was fitted."
        )
    held_out = 0 if subject.held_out is None else len(subject.held_out.labels)
    return (
        f"{held_out:,} training images were held out and watched after each epoch; the model is the last "
        "epoch's. The temperature was fitted on them. "
        + (
            "The test set was used neither for training nor for any choice."
            if subject.split_name == "test"
            else "They are the images of this report; the test set was not looked at."
        )
    )


def _resumed(environment: Mapping[str, Any]) -> str:
    times = len(environment.get("earlier") or [])
    return "" if times == 0 else f"; resumed {'once' if times == 1 else f'{times} times'}"


def _minute(moment: Any) -> str:
    return str(moment)[:16].replace("T", " ") if moment else "unknown"


def _utf8(text: str) -> str:
    # A folder's name may be no UTF-8; the page is.
    return os.fsencode(text).decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class ReportFigure:
    """A drawn picture.

    Attributes:
        name: of its file, without `.png`.
        light, dark: PNG bytes.
    """

    name: str
    light: bytes
    dark: bytes


def draw_figures(
    subject: Subject,
    report: Report,
    history: Sequence[Mapping[str, float | None]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ReportFigure]:
    """Draw every picture of a report; `on_progress` is told (done, total) after each."""
    drawings = _drawings(subject, report, history)
    drawn = []
    for name, draw in drawings.items():
        drawn.append(ReportFigure(name, png(draw(LIGHT)), png(draw(DARK))))
        on_progress(len(drawn), len(drawings))
    return drawn


def _drawings(
    subject: Subject, report: Report, history: Sequence[Mapping[str, float | None]]
) -> dict[str, Callable[[Theme], Figure]]:
    classes, matrix = subject.classes, np.array(report.confusion_matrix)
    curves = precision_recall_curves(subject.logits, subject.labels)
    wrong = np.array([mistake.index for mistake in report.mistakes], np.int64)
    confidence = np.array([mistake.confidence for mistake in report.mistakes])
    shown, maps, captions = _explanations(subject)
    watched = "held-out training images" if subject.config.validation == "holdout" else "test set"
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "confusion_matrix": lambda theme: confusion_figure(matrix, classes, theme),
        "confusion_matrix_by_row": lambda theme: confusion_figure(matrix, classes, theme, shares=True),
        "per_class": lambda theme: figures.per_class_figure(report.per_class, theme),
        "reliability": lambda theme: figures.reliability_figure(report.calibration, theme),
        "precision_recall": lambda theme: figures.precision_recall_figure(curves, classes, theme),
        "mistakes": lambda theme: gallery_figure(
            subject.images[wrong], subject.labels[wrong], subject.predicted[wrong], confidence, classes, theme
        ),
        "grad_cam": lambda theme: figures.gradcam_figure(shown, maps, captions, theme),
        "learning_curves": lambda theme: figures.learning_curves_figure(history, watched, theme),
    }
    robustness = report.robustness
    if robustness is not None:
        drawings["robustness"] = lambda theme: figures.robustness_figure(robustness, theme)
    return drawings


def _explanations(subject: Subject) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, bool]]]:
    chosen = representative_images(subject.logits, subject.labels)
    labels = np.flatnonzero(chosen >= 0)
    images = np.ascontiguousarray(subject.images[chosen[labels]])
    maps = grad_cam(subject.model, images, labels)
    probabilities = softmax(subject.logits[chosen[labels]].astype(np.float64), axis=1)
    captions = []
    for label, row in zip(labels, probabilities, strict=True):
        guess = int(row.argmax())
        # Where it was taken for another class, the caption says which.
        said = f"{row[guess]:.0%}" if guess == label else f"{subject.classes[guess]} {row[guess]:.0%}"
        captions.append((subject.classes[label], said, guess == label))
    return images, maps, captions


def render_page(
    report: Report, provenance: Provenance, pictures: Sequence[ReportFigure], classes: Sequence[str]
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
