"""Evaluate a run: its model's figures on a split, published as one folder with a page."""

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
_REMEDY = "Make room, or give write access to the run's folder."
#: Called with what is being done, and how much of it: (what, done, total).
Progress = Callable[[str, int, int], None]


def evaluate(
    run: Path | None = None,
    *,
    split: str = "test",
    data_dir: Path | None = None,
    robustness_images: int | None = None,
    unfamiliar: Path | None = None,
    verbose: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> "Report":
    """Measure a run's model on a split, and replace the run's report on it whole.

    The report is the folder RUN/evaluation/SPLIT: report.html, report.json, the figures as
    PNG, and logits.npy. A look at the test set is recorded in the run's ledger.

    Args:
        run: the run's folder; None is the newest run.
        split: `test`, or `validation`: the training images that the run held out.
        data_dir: where the data lie; None is where the run found them.
        robustness_images: measure the robustness on so many images; None keeps what an
            earlier report measured with the same weights.
        unfamiliar: a folder of images of another kind, or a prepared data set, to measure
            whether they are recognized as such.
        verbose: show TensorFlow's own messages.
        on_progress: called with (what, done, total).

    Raises:
        UsageError: an argument is not possible, or the run has no such split.
        DataError: the run's data are missing or have changed, or `unfamiliar` holds no images.
        RunError: there is no such run, it has no model, one of its files is damaged, or the
            report cannot be written; the earlier report is left as it was.
    """
    check_choice("split", split, SPLITS)
    if robustness_images is not None:
        check_count("robustness-images", robustness_images)
    if unfamiliar is not None and not unfamiliar.is_dir():
        raise UsageError(f"--unfamiliar {unfamiliar} is not a folder. Expected a folder of images.")
    opened = open_run(run, with_model=True)
    config = opened.read_config()
    check_split(config, split)
    dataset = opened.load_data(data_dir)
    # A run that was trained on a GPU can be evaluated where there is none.
    device = "cpu" if config.device == "cpu" else "auto"
    devices.start(config, split=is_splittable(config), device=device, verbose=verbose)
    # TensorFlow is imported by these, and must be set up before.
    from cifar_trainer.evaluation.report import make_report
    from cifar_trainer.evaluation.report_page import draw_figures, render_page
    from cifar_trainer.evaluation.robustness import measure_robustness
    from cifar_trainer.evaluation.subject import load_subject
    from cifar_trainer.evaluation.unfamiliar import measure_unfamiliar, other_kinds

    folder = opened.evaluation(split)
    if split == "test":
        with files.writing(opened.path, _REMEDY):
            opened.record_look("evaluate", opened.read_result().epochs)
    subject = load_subject(opened, dataset, split)
    if robustness_images is None:
        robustness = _earlier_robustness(folder / REPORT_FILE, subject.weights_sha256)
    else:
        robustness = measure_robustness(
            subject, robustness_images, lambda done, total: on_progress("robustness", done, total)
        )
    others = other_kinds(dataset.name, dataset.preprocessing, unfamiliar)
    measured, energies = measure_unfamiliar(subject, others)
    report = make_report(subject, measured, robustness, len(opened.read_looks()))
    figures = draw_figures(subject, report, energies, lambda done, total: on_progress("figures", done, total))
    page = render_page(subject, report, figures)
    with files.writing(folder, _REMEDY), files.atomic_folder(folder, replace=True) as partial:
        files.write_json(partial / REPORT_FILE, report.record())
        for name, figure in figures.items():
            files.write_bytes(partial / f"{name}.png", figure.light)
        files.write_text(partial / "report.html", page)
        # What a comparison needs to know of each image.
        with files.atomic_writer(partial / LOGITS_FILE) as file:
            np.save(file, subject.logits, allow_pickle=False)
    return report


def _earlier_robustness(path: Path, weights_sha256: str) -> "Robustness | None":
    """The robustness in an earlier report, where it is about the same weights."""
    from cifar_trainer.evaluation.robustness import Robustness

    try:
        earlier = files.read_json(path, dict[str, object]).get("robustness")
        robustness = msgspec.convert(earlier, Robustness)
    except (RunError, msgspec.ValidationError):
        # There is none, or the report is damaged or by another version: this one takes its place.
        return None
    return robustness if robustness.weights_sha256 == weights_sha256 else None
