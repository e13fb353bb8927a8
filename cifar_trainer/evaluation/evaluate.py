"""Evaluate a run: load its model, compute its logits, publish the report's folder whole."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cifar_trainer import files, records
from cifar_trainer.errors import RunError
from cifar_trainer.evaluation.report import Report, make_report, read_robustness
from cifar_trainer.evaluation.report_page import describe_provenance, draw_figures, render_page
from cifar_trainer.evaluation.robustness import Robustness, measure_robustness
from cifar_trainer.evaluation.subject import Subject

REPORT_FILE = "report.json"
LOGITS_FILE = "logits.npy"
#: Told what is being done, and how much of it: (what, done, total).
Progress = Callable[[str, int, int], None]


def evaluate(
    subject: Subject,
    *,
    robustness_images: int | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Report:
    """Report on what a run's model says about a split, and replace the run's report on it whole.

    Args:
        subject: the model and the split.
        robustness_images: measure the robustness on so many images; None keeps what an
            earlier report measured with the same weights.
        on_progress: told (what, done, total).

    Raises:
        RunError: one of the run's files cannot be read.
        OSError: the report could not be written; the old one is untouched.
    """
    # Where a longer run was begun and stopped, the history goes on beyond the model.
    provenance, history = (
        describe_provenance(subject),
        subject.run.read_history()[: subject.result.epochs],
    )
    if robustness_images is None:
        robustness = _earlier_robustness(subject)
    else:
        robustness = measure_robustness(
            subject, robustness_images, lambda done, total: on_progress("robustness", done, total)
        )
    report = make_report(subject, robustness)
    pictures = draw_figures(
        subject, report, history, lambda done, total: on_progress("pictures", done, total)
    )
    with files.atomic_folder(subject.run.evaluation(subject.split_name), replace=True) as folder:
        files.write_json(folder / REPORT_FILE, report.to_json())
        for picture in pictures:
            files.write_bytes(folder / f"{picture.name}.png", picture.light)
        page = render_page(report, provenance, pictures, subject.classes)
        files.write_text(folder / "report.html", page)
        # What a comparison needs to know of each image.
        with files.atomic_writer(folder / LOGITS_FILE) as file:
            np.save(file, subject.logits, allow_pickle=False)
    return report


def _earlier_robustness(subject: Subject) -> Robustness | None:
    path = subject.run.evaluation(subject.split_name) / REPORT_FILE
    try:
        return read_robustness(records.read(path, dict[str, Any]), subject.weights_sha256)
    except RunError:
        # There is none, or it is damaged: this one takes its place.
        return None
