"""Which pictures a report has, drawn in light and in dark."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from cifar_trainer.evaluation import figures
from cifar_trainer.evaluation.curves import precision_recall_curves
from cifar_trainer.evaluation.gradcam import grad_cam, representative_images
from cifar_trainer.evaluation.report import Report
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.plots import DARK, LIGHT, Theme, confusion_figure, gallery_figure, png


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        name: of its file, without `.png`.
        light, dark: PNG bytes.
    """

    name: str
    light: bytes
    dark: bytes


def draw_pictures(
    subject: Subject,
    report: Report,
    history: Sequence[Mapping[str, float | None]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Picture]:
    """Draw every picture of a report; `on_progress` is told (done, total) after each."""
    drawings = _drawings(subject, report, history)
    drawn = []
    for name, draw in drawings.items():
        drawn.append(Picture(name, png(draw(LIGHT)), png(draw(DARK))))
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
