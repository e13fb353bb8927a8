"""report.html: the figures, where the model comes from, the page."""

import base64
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import numpy as np
from scipy.special import softmax

from cifar_trainer import __version__
from cifar_trainer.evaluation import figures
from cifar_trainer.evaluation.gradcam import grad_cam, representative_images
from cifar_trainer.evaluation.report import Report
from cifar_trainer.evaluation.subject import Subject, total_energy
from cifar_trainer.metrics import FAMILIAR_SHARE, precision_recall_curves
from cifar_trainer.plots import DARK, LIGHT, NUMBERED_CLASSES, Figure, Theme, confusion_figure, gallery_figure
from cifar_trainer.plots import render as render_figure
from cifar_trainer.run import TrainResult
from cifar_trainer.settings import WATCHED

#: Grad-CAM is shown for at most so many classes.
EXPLAINED_CLASSES = 12


@dataclasses.dataclass(frozen=True)
class ReportFigure:
    """A figure in both themes, as PNG bytes."""

    light: bytes
    dark: bytes


def draw_figures(
    subject: Subject,
    report: Report,
    energies: Mapping[str, np.ndarray],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, ReportFigure]:
    """Draw every figure of a report.

    Args:
        subject: what the report is about.
        report: its figures.
        energies: of the split's images and of other kinds, by name (`unfamiliar.measure_unfamiliar`).
        on_progress: called with (done, total) after each figure.

    Returns:
        The figures by the name of their file, without `.png`.
    """
    drawings = _drawings(subject, report, energies)
    drawn = {}
    for name, draw in drawings.items():
        drawn[name] = ReportFigure(render_figure(draw(LIGHT), "png"), render_figure(draw(DARK), "png"))
        on_progress(len(drawn), len(drawings))
    return drawn


def _drawings(
    subject: Subject, report: Report, energies: Mapping[str, np.ndarray]
) -> dict[str, Callable[[Theme], Figure]]:
    classes, matrix = subject.classes, np.array(report.confusion_matrix)
    curves = precision_recall_curves(subject.logits, subject.split.labels)
    wrong = np.array([mistake.index for mistake in report.mistakes], np.int64)
    confidence = np.array([mistake.confidence for mistake in report.mistakes])
    validation = WATCHED[subject.config.validation]
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "confusion_matrix": lambda theme: confusion_figure(matrix, classes, theme),
        "per_class": lambda theme: figures.per_class_figure(report.per_class, theme),
        "reliability": lambda theme: figures.reliability_figure(report.calibration, theme),
        "precision_recall": lambda theme: figures.precision_recall_figure(curves, classes, theme),
        "mistakes": lambda theme: gallery_figure(
            subject.split.images[wrong],
            subject.split.labels[wrong],
            subject.predicted[wrong],
            confidence,
            classes,
            theme,
        ),
        "unfamiliar": lambda theme: figures.unfamiliar_figure(
            energies, report.unfamiliar.thresholds.energy, theme
        ),
        "learning_curves": lambda theme: figures.learning_curves_figure(subject.history, validation, theme),
    }
    if len(classes) <= NUMBERED_CLASSES:
        # Without numbers in its cells it would be the same figure.
        drawings["confusion_matrix_by_row"] = lambda theme: confusion_figure(
            matrix, classes, theme, shares=True
        )
    explained = _explain(subject)
    if explained is not None:
        drawings["grad_cam"] = lambda theme: figures.gradcam_figure(*explained, theme)
    robustness = report.robustness
    if robustness is not None:
        drawings["robustness"] = lambda theme: figures.robustness_figure(robustness, theme)
    return drawings


def _explain(subject: Subject) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, bool]]] | None:
    """Images, maps and captions of Grad-CAM; None where the network has no feature map."""
    chosen = representative_images(subject.logits, subject.split.labels)
    labels = np.flatnonzero(chosen >= 0)
    if len(labels) > EXPLAINED_CLASSES:
        labels = labels[np.linspace(0, len(labels) - 1, EXPLAINED_CLASSES).astype(int)]
    images = np.ascontiguousarray(subject.split.images[chosen[labels]])
    maps = grad_cam(subject.model, images, labels)
    if maps is None:
        return None
    probabilities = softmax(subject.logits[chosen[labels]].astype(np.float64), axis=1)
    captions = []
    for label, row in zip(labels, probabilities, strict=True):
        guess = int(row.argmax())
        # A wrong prediction is named.
        caption = f"{row[guess]:.0%}" if guess == label else f"{subject.classes[guess]} {row[guess]:.0%}"
        captions.append((subject.classes[label], caption, guess == label))
    return images, maps, captions


def provenance(subject: Subject) -> list[tuple[str, str]]:
    """What a reader needs to judge a report or to repeat it, as names and values for a table.

    Raises:
        RunError: environment.json cannot be read.
    """
    run, config, dataset, result = subject.run, subject.config, subject.dataset, subject.result
    environment = run.read_environment()
    begun = (environment.get("earlier") or [environment])[0]
    energy = total_energy(subject.history)
    versions = environment.get("versions", {})
    resumed = len(environment.get("earlier") or [])
    times = "" if resumed == 0 else f"; resumed {'once' if resumed == 1 else f'{resumed} times'}"
    return [
        ("run", _run_name(subject)),
        ("command", _utf8(str(begun.get("command_line", "unknown")))),
        ("recipe", f"{config.recipe}, {result.parameters:,} parameters"),
        (
            "training",
            f"{result.epochs} epochs, batch size {config.batch_size}, learning rate "
            f"{config.learning_rate:g}, seed {config.seed}, {config.precision}"
            + ("" if config.limit is None else f", {config.limit:,} images only"),
        ),
        ("device", str(environment.get("device", {}).get("description", "unknown"))),
        ("time", f"{result.seconds:,.0f} s, {result.images_per_second:,.0f} images/s"),
        *([] if energy is None else [("energy", f"{energy:,.0f} J, of the GPU alone")]),
        ("data", f"{dataset.title}{'; verified by its fingerprints' if dataset.verified else ''}"),
        ("training split", dataset.train.fingerprint),
        ("test split", dataset.test.fingerprint),
        ("test set looked at", _looks(subject)),
        ("weights, SHA-256", subject.weights_sha256),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("begun", f"{_minute(begun.get('started_at'))}{times}"),
    ]


_ENDED_BY = {
    "patience": "training ended early, when validation accuracy had stopped rising",
    "time limit": "training ended early, at its time limit",
    "end_after": "training ended early, as it was asked to",
    "callback": "a callback ended training early",
}


def choice(result: TrainResult) -> str:
    """Whose epoch's weights the model has, what chose it, and why training ended, in a sentence."""
    if result.chosen_by == "last epoch":
        chosen = f"The model of the last epoch, {result.epochs}"
    elif result.chosen_epoch is None:
        chosen = "The model of a callback"
    else:
        by = "its validation accuracy" if result.chosen_by == "best validation accuracy" else "a callback"
        chosen = f"The model of epoch {result.chosen_epoch} of {result.epochs}, chosen by {by}"
    if result.ended_by is None:
        return f"{chosen}."
    return f"{chosen}; {_ENDED_BY[result.ended_by]} ({result.planned_epochs} epochs were planned)."


def selection(subject: Subject) -> str:
    """How the model was chosen, and what was not used for it."""
    if subject.config.validation == "test":
        return (
            "The test set was evaluated after each epoch, as in TensorFlow's CNN tutorial, and cifar-trainer "
            "chose nothing by it. No training images were held out, so no temperature was fitted."
        )
    if subject.config.validation == "train":
        return (
            "No training images were held out: after each epoch a tenth of those that it was trained on were "
            "evaluated, so no temperature was fitted. The test set was not looked at during training."
        )
    held_out = 0 if subject.held_out is None else len(subject.held_out[1])
    return (
        f"{held_out:,} training images were held out and evaluated after each epoch. The temperature was "
        "fitted on them. "
        + (
            "The test set was used neither for training nor for any choice."
            if subject.split_name == "test"
            else "They are the images of this report; it does not use the test set."
        )
    )


def _looks(subject: Subject) -> str:
    """How often, and by which commands, such as `11 times (train 10, evaluate 1)`."""
    commands = [look.command for look in subject.run.read_looks()]
    if not commands:
        return "never"
    by_command = ", ".join(f"{name} {commands.count(name)}" for name in dict.fromkeys(commands))
    return f"{'once' if len(commands) == 1 else f'{len(commands)} times'} ({by_command})"


def _run_name(subject: Subject) -> str:
    return _utf8(subject.run.path.resolve().name)


def _minute(moment: Any) -> str:
    return str(moment)[:16].replace("T", " ") if moment else "unknown"


def _utf8(text: str) -> str:
    # A folder's name may not be UTF-8; the page is.
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def render_page(subject: Subject, report: Report, drawn: Mapping[str, ReportFigure]) -> str:
    """The page's HTML; everything that comes from outside is escaped.

    Raises:
        RunError: environment.json cannot be read.
    """
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
    return environment.get_template("report.html.j2").render(
        report=report,
        run_name=_run_name(subject),
        provenance=provenance(subject),
        choice=choice(subject.result),
        selection=selection(subject),
        figures={name: (_data_uri(each.light), _data_uri(each.dark)) for name, each in drawn.items()},
        classes=subject.classes,
        comparable=subject.dataset.verified,
        numbered=len(subject.classes) <= NUMBERED_CLASSES,
        rows=figures.ROWS,
        panels=figures.PANELS,
        explained=EXPLAINED_CLASSES,
        familiar_share=FAMILIAR_SHARE,
        version=__version__,
    )


def _percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
