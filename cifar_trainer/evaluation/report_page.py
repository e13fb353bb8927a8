"""report.html: the figures and their text alternatives, the tables, the provenance."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from cifar_trainer import pages
from cifar_trainer.data import DATASETS
from cifar_trainer.errors import counted
from cifar_trainer.evaluation import figures
from cifar_trainer.evaluation.gradcam import GradCam, representative_images
from cifar_trainer.evaluation.report import Report, is_expected_data, predictions, unusual_settings
from cifar_trainer.evaluation.subject import Subject, total_energy
from cifar_trainer.metrics import FAMILIAR_SHARE, precision_recall_curves
from cifar_trainer.pages import PageFigure, percent
from cifar_trainer.plots import (
    NUMBERED_CLASSES,
    Figure,
    Theme,
    confusion_figure,
    drawable_names,
    gallery_figure,
    undrawable,
)
from cifar_trainer.run import TrainResult
from cifar_trainer.settings import VALIDATIONS

#: Maximum number of classes for Grad-CAM.
EXPLAINED_CLASSES = 12
#: Rows of the table of errors before "Show more".
FIRST_ERRORS = 100


def draw_figures(
    subject: Subject,
    report: Report,
    energies: Mapping[str, np.ndarray],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, PageFigure]:
    """Draw the figures of a report.

    Args:
        subject: the model and its logits.
        report: the measurements.
        energies: energies of the split's images and of other kinds (`unfamiliar.measure_unfamiliar`).
        on_progress: called with (done, total) after each figure.

    Returns:
        The figures by file name without `.png`.
    """
    classes, matrix, split = subject.classes, np.array(report.confusion_matrix), subject.split
    curves = precision_recall_curves(subject.logits, split.labels)
    wrong = np.array([error.index for error in report.mistakes], np.int64)
    confidence = np.array([error.confidence for error in report.mistakes])
    names = [split.files[i].rpartition("/")[2] for i in wrong] if split.files else None
    validation = VALIDATIONS[subject.config.validation]
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "confusion_matrix": lambda theme: confusion_figure(matrix, classes, theme),
        "per_class": lambda theme: figures.per_class_figure(report.per_class, theme),
        "reliability": lambda theme: figures.reliability_figure(report.calibration, theme),
        "precision_recall": lambda theme: figures.precision_recall_figure(curves, classes, theme),
        "mistakes": lambda theme: gallery_figure(
            split.images[wrong], split.labels[wrong], subject.predicted[wrong], confidence, classes, theme,
            columns=10, files=names,
        ),
        "unfamiliar": lambda theme: figures.unfamiliar_figure(
            energies, report.unfamiliar.thresholds.energy, theme
        ),
        "learning_curves": lambda theme: figures.learning_curves_figure(subject.history, validation, theme),
    }  # fmt: skip
    if len(classes) <= NUMBERED_CLASSES and not report.is_balanced:
        # In a balanced split the counts say the same; in a matrix without numbers, the colours do.
        drawings["confusion_matrix_by_row"] = lambda theme: confusion_figure(
            matrix, classes, theme, shares=True
        )
    explained = _explain(subject)
    if explained is not None:
        drawings["grad_cam"] = lambda theme: figures.gradcam_figure(*explained, theme)
    robustness = report.robustness
    if robustness is not None:
        drawings["robustness"] = lambda theme: figures.robustness_figure(robustness, theme)
    return pages.draw_figures(drawings, on_progress)


def _explain(subject: Subject) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, bool]]] | None:
    """Images, maps and captions of Grad-CAM; None if the network has no feature map."""
    chosen = representative_images(subject.logits, subject.split.labels)
    labels = np.flatnonzero(chosen >= 0)
    if len(labels) > EXPLAINED_CLASSES:
        labels = labels[np.linspace(0, len(labels) - 1, EXPLAINED_CLASSES).astype(int)]
    images = np.ascontiguousarray(subject.split.images[chosen[labels]])
    maps = GradCam(subject.model)(images, labels)
    if maps is None:
        return None
    names = drawable_names(subject.classes)
    probabilities = softmax(subject.logits[chosen[labels]].astype(np.float64), axis=1)
    captions = []
    for label, row in zip(labels, probabilities, strict=True):
        guess = int(row.argmax())
        # Name only a wrong prediction.
        caption = f"{row[guess]:.0%}" if guess == label else f"{names[guess]} {row[guess]:.0%}"
        captions.append((names[label], caption, guess == label))
    return images, maps, captions


def describe_figures(subject: Subject, report: Report) -> dict[str, str]:
    """Text alternatives of the figures."""
    classes, calibration, unfamiliar = subject.classes, report.calibration, report.unfamiliar
    worst = min(report.per_class, key=lambda row: row["f1"])
    best = max(report.per_class, key=lambda row: row["f1"])
    pairs = [
        f"{classes[pair.true]} as {classes[pair.predicted]}, {pair.images:,} images"
        for pair in report.confusions[:3]
    ]
    confusions = f"Most frequent errors: {'; '.join(pairs)}." if pairs else "There are no errors."
    first = next(iter(report.mistakes), None)
    last = subject.history[-1] if subject.history else None
    averages = [row["average_precision"] for row in report.per_class if row["average_precision"] is not None]
    texts = {
        "confusion_matrix": f"Confusion matrix. {confusions}",
        "confusion_matrix_by_row": f"Confusion matrix in per cent of each row. {confusions}",
        "per_class": f"Precision and recall by class. Highest F1: {best['class']}, {percent(best['f1'])}; "
        f"lowest: {worst['class']}, {percent(worst['f1'])}.",
        "precision_recall": "Precision-recall curves by class. Average precision from "
        f"{min(averages):.3f} to {max(averages):.3f}.",
        "reliability": f"Accuracy by confidence. Calibration error {calibration.before.ece:.3f}"
        + (
            "."
            if calibration.after is None
            else f", at temperature {calibration.temperature:.2f} {calibration.after.ece:.3f}."
        ),
        "mistakes": "There are no errors."
        if first is None
        else f"The {len(report.mistakes)} most confident errors. The first: {classes[first.true]} as "
        f"{classes[first.predicted]}, {percent(first.confidence)}.",
        "grad_cam": "An image of each class, with the parts that raised the class's score in red.",
        "unfamiliar": f"Histograms of the energy. Share above the threshold: {report.split} images "
        f"{percent(unfamiliar.flagged)}"
        + "".join(f", {kind.name} {percent(kind.flagged)}" for kind in unfamiliar.kinds)
        + ".",
        "learning_curves": "Loss and accuracy by epoch."
        if last is None
        else f"Loss and accuracy by epoch. After epoch {last['epoch']:.0f}: accuracy "
        f"{percent(last['accuracy'] or 0)} in training, {percent(last['val_accuracy'] or 0)} in validation.",
    }
    robustness = report.robustness
    if robustness is not None:
        weakest = min(robustness.corruptions, key=lambda each: each.mean)
        texts["robustness"] = (
            f"Accuracy under corruptions and attacks. Clean {percent(robustness.clean)}, mean of the "
            f"corruptions {percent(robustness.mean_corrupted)}, lowest under {_words(weakest.name)}, "
            f"{percent(weakest.mean)}."
        )
    return texts


def list_errors(subject: Subject, report: Report) -> list[list[str]]:
    """Rows of the table of errors, most confident first."""
    rows = [row for row in predictions(subject, report.unfamiliar) if row["label"] != row["predicted"]]
    return [
        [
            str(row["index"]),
            *([utf8(row["file"])] if subject.split.files else []),
            row["label"],
            row["predicted"],
            percent(row["probability"]),
            percent(row["margin"]),
            f"{row['loss']:.3f}",
            {None: "", True: "yes", False: "no"}[row["unfamiliar"]],
        ]
        for row in sorted(rows, key=lambda row: -row["probability"])
    ]


def provenance(subject: Subject) -> list[tuple[str, str]]:
    """Names and values that a reader needs to judge or to repeat a report.

    Raises:
        RunError: environment.json cannot be read.
    """
    run, config, dataset, result = subject.run, subject.config, subject.dataset, subject.result
    environment = run.read_environment()
    earlier = environment.get("earlier") or []
    start = (earlier or [environment])[0]
    energy = total_energy(subject.history)
    versions = environment.get("versions", {})
    times = f"; resumed {_times(len(earlier))}" if earlier else ""
    return [
        ("run", run_name(subject)),
        ("command", utf8(str(start.get("command_line") or "unknown"))),
        ("recipe", f"{config.recipe}, {result.parameters:,} parameters"),
        (
            "training",
            f"{counted(result.epochs, 'epoch')}, batch size {config.batch_size}, learning rate "
            f"{config.learning_rate:g}, seed {config.seed}, {config.precision}"
            + ("" if config.limit is None else f", {config.limit:,} images only"),
        ),
        ("device", str(environment.get("device", {}).get("description", "unknown"))),
        ("time", f"{result.seconds:,.0f} s, {result.images_per_second:,.0f} images/s"),
        *([] if energy is None else [("energy", f"{energy:,.0f} J, GPU only")]),
        ("data", dataset.title),
        ("training split", dataset.train.fingerprint),
        ("test split", dataset.test.fingerprint),
        ("test set looked at", _looks(subject)),
        ("weights, SHA-256", subject.weights_sha256),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("started", f"{str(start.get('started_at', 'unknown'))[:16].replace('T', ' ')}{times}"),
    ]


def data_note(subject: Subject) -> str:
    """A note on images that are not verified as a published data set; empty if they are."""
    dataset, spec = subject.dataset, DATASETS.get(subject.dataset.name)
    if dataset.verified:
        return ""
    if spec is not None and spec.draw is not None:
        return "These are synthetic images for quick tests: the numbers say nothing about photographs."
    if spec is not None:
        return (
            f"These images are not verified as {spec.title}. Do not compare these numbers with published "
            "results."
        )
    return "These images are your own: there are no published results to compare them with."


def expectation_note(subject: Subject) -> str:
    """Why the recipe's expected range does not apply; empty if it does, or if there is none."""
    expected, differing = subject.recipe.expected, unusual_settings(subject)
    if expected is None or not differing or not is_expected_data(subject):
        return ""
    listed = ", ".join(f"{_words(name)} {_value(value)}" for name, value in differing.items())
    return (
        f"With its own settings on all training images, the recipe reaches {percent(expected.low)} to "
        f"{percent(expected.high)} ({counted(expected.n, 'earlier run')}). This run differs: {listed}."
    )


_ENDED_BY = {
    "patience": "training ended early because validation accuracy had stopped rising",
    "time limit": "training ended early at its time limit",
    "end_after": "training ended early as requested",
    "callback": "a callback ended training early",
}


def choice(result: TrainResult) -> str:
    """A sentence on the selected epoch, and on why training ended."""
    if result.chosen_by == "last epoch":
        chosen = f"The model of the last epoch, {result.epochs}"
    elif result.chosen_epoch is None:
        chosen = "A model set by a callback"
    else:
        by = "its validation accuracy" if result.chosen_by == "best validation accuracy" else "a callback"
        chosen = f"The model of epoch {result.chosen_epoch} of {result.epochs}, selected by {by}"
    if result.ended_by is None:
        return f"{chosen}."
    return f"{chosen}; {_ENDED_BY[result.ended_by]} ({counted(result.planned_epochs or 0, 'epoch')} planned)."


def selection(subject: Subject) -> str:
    """A paragraph on what was used to select the model."""
    if subject.config.validation == "test":
        return (
            "The test set was evaluated after each epoch, as in TensorFlow's CNN tutorial, but not used to "
            "choose anything. No training images were held out, so no temperature was fitted."
        )
    if subject.config.validation == "train":
        return (
            "No training images were held out: after each epoch, a tenth of the images that the model was "
            "trained on were evaluated, so no temperature was fitted. Training did not look at the test set."
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


def run_files(subject: Subject) -> list[tuple[str, str]]:
    """Existing files of the run: path relative to the page, and description."""
    candidates = {
        "model.keras": "the model",
        "history.csv": "loss and accuracy by epoch",
        **{f"export/{name}": "exported model" for name in _exported(subject)},
        "export/model_card.md": "model card",
    }
    existing = [
        (f"../../{name}", what) for name, what in candidates.items() if (subject.run.path / name).exists()
    ]
    return [*existing, ("predictions.csv", "one row per image"), ("report.json", "all numbers of this page")]


def _exported(subject: Subject) -> list[str]:
    folder = subject.run.export
    models = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in models if name.startswith(("model.", "saved_model"))]


def _looks(subject: Subject) -> str:
    """Number of looks by command, such as `11 times (train 10, evaluate 1)`."""
    commands = [look.command for look in subject.run.read_looks()]
    if not commands:
        return "never"
    by_command = ", ".join(f"{name} {commands.count(name)}" for name in dict.fromkeys(commands))
    return f"{_times(len(commands))} ({by_command})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def run_name(subject: Subject) -> str:
    """The name of the run's folder."""
    return utf8(subject.run.path.resolve().name)


def utf8(text: str) -> str:
    """A path with bytes that are not UTF-8 escaped, so that the page is valid UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def render_page(subject: Subject, report: Report, drawn: Mapping[str, PageFigure]) -> str:
    """The page's HTML, with all external text escaped.

    Raises:
        RunError: environment.json cannot be read.
    """
    return pages.render(
        "cifar_trainer.evaluation",
        "report.html.j2",
        drawn,
        report=report,
        recipe=subject.config.recipe,
        run_name=run_name(subject),
        run_path=utf8(str(subject.run.path)),
        provenance=provenance(subject),
        choice=choice(subject.result),
        selection=selection(subject),
        data_note=data_note(subject),
        expectation_note=expectation_note(subject),
        alts=describe_figures(subject, report),
        errors=list_errors(subject, report),
        first_errors=FIRST_ERRORS,
        has_files=bool(subject.split.files),
        files=run_files(subject),
        exported=bool(_exported(subject)),
        classes=subject.classes,
        numbered_names=undrawable(subject.classes),
        numbered=len(subject.classes) <= NUMBERED_CLASSES,
        rows=figures.ROWS,
        panels=figures.PANELS,
        explained=EXPLAINED_CLASSES,
        familiar_share=FAMILIAR_SHARE,
    )
