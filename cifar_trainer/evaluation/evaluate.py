"""Evaluate a run: measure its model on a split and write a report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.data.splits import check_split
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.recipes import is_splittable
from cifar_trainer.run import open_run
from cifar_trainer.settings import check_choice, check_count

if TYPE_CHECKING:
    from cifar_trainer.evaluation.report import Report
    from cifar_trainer.evaluation.robustness import Robustness

SPLITS = ("test", "validation")
REPORT_FILE = "report.json"
LOGITS_FILE = "logits.npy"
_REMEDY = "Free some disk space, or make the run's folder writable."
#: Called with a task's name, and its progress: (name, done, total).
Progress = Callable[[str, int, int], None]


def evaluate(
    run: str | Path | None = None,
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    robustness: bool = False,
    robustness_images: int = 2000,
    unfamiliar: str | Path | None = None,
    verbose: bool = False,
    on_progress: Progress = lambda name, done, total: None,
) -> "Report":
    """Measure a run's model on a split, and replace the run's report on that split.

    The report is the folder RUN/evaluation/SPLIT: report.html, report.json, predictions.csv,
    logits.npy, and the figures as PNG. A look at the test set is recorded in the run.

    Args:
        run: the run's folder; by default, the newest run.
        split: `test`, or `validation`: the training images that the run held out.
        data_dir: the data folder; by default, the one that the run used.
        robustness: also measure accuracy under corruptions and attacks. Otherwise, the report keeps
            the results of an earlier one on the same weights.
        robustness_images: number of images to corrupt and attack.
        unfamiliar: a folder of images of another kind, or a prepared data set, to measure whether
            they are recognized as unfamiliar.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Raises:
        UsageError: an argument is invalid, or the run has no such split.
        DataError: the run's data are missing or have changed, or `unfamiliar` has no images.
        RunError: the run does not exist, has no model, one of its files is damaged, or the report
            cannot be written; the earlier report stays as it was.
    """
    check_choice("split", split, SPLITS)
    check_count("robustness-images", robustness_images)
    if unfamiliar is not None and not Path(unfamiliar).is_dir():
        raise UsageError(f"--unfamiliar {unfamiliar} is not a folder. Expected a folder of images.")
    opened = open_run(run, with_model=True)
    config = opened.read_config()
    check_split(config, split)
    dataset = opened.load_data(data_dir)
    # Imports SciPy and scikit-learn: only after usage errors have been ruled out.
    from cifar_trainer.evaluation.unfamiliar import measure_unfamiliar, other_kinds

    # Before anything slow, and before any look at the test set.
    path = None if unfamiliar is None else Path(unfamiliar)
    others = other_kinds(dataset.name, dataset.preprocessing, path)
    # A run that was trained on a GPU can be evaluated without one.
    device = "cpu" if config.device == "cpu" else "auto"
    devices.start(config, split=is_splittable(config), device=device, verbose=verbose)
    # These import TensorFlow, which `devices.start` has to configure first.
    from cifar_trainer.evaluation.coverage import measure_coverage
    from cifar_trainer.evaluation.report import COLUMNS, make_report, predictions
    from cifar_trainer.evaluation.report_page import draw_figures, render_page
    from cifar_trainer.evaluation.robustness import measure_robustness
    from cifar_trainer.evaluation.subject import load_subject

    folder = opened.evaluation(split)
    subject = load_subject(opened, dataset, split)
    if robustness:
        robust: Robustness | None = measure_robustness(
            subject, robustness_images, lambda done, total: on_progress("robustness", done, total)
        )
    else:
        robust = _earlier_robustness(folder / REPORT_FILE, subject.weights_sha256)
    measured, energies = measure_unfamiliar(subject, others)
    report = make_report(subject, measured, robust, len(opened.read_looks()))
    report = dataclasses.replace(report, coverage=measure_coverage(subject))
    figures = draw_figures(subject, report, energies, lambda done, total: on_progress("figures", done, total))
    page = render_page(subject, report, figures)
    table = files.format_csv(COLUMNS, predictions(subject, measured))
    with files.writing(folder, _REMEDY), files.atomic_folder(folder, replace=True) as partial:
        files.write_json(partial / REPORT_FILE, report.record())
        for name, figure in figures.items():
            files.write_bytes(partial / f"{name}.png", figure.light)
        files.write_text(partial / "report.html", page)
        files.write_text(partial / "predictions.csv", table)
        # `compare` needs the answer to each image.
        with files.atomic_writer(partial / LOGITS_FILE) as file:
            np.save(file, subject.logits, allow_pickle=False)
    return report


def _earlier_robustness(path: Path, weights_sha256: str) -> "Robustness | None":
    """Robustness from an earlier report on the same weights; None if there is none."""
    from cifar_trainer.evaluation.robustness import Robustness

    try:
        earlier = files.read_json(path, dict[str, object]).get("robustness")
        robustness = msgspec.convert(earlier, Robustness)
    except (RunError, msgspec.ValidationError):
        # A missing or damaged report, or one of another version: replace it.
        return None
    return robustness if robustness.weights_sha256 == weights_sha256 else None
