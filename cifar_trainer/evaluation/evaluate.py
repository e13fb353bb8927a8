"""Evaluate a run: load its model, compute its logits, publish the report's folder whole."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cifar_trainer import files, records
from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.splits import check_split, evaluated_split
from cifar_trainer.errors import RunError
from cifar_trainer.evaluation.report import Report, make_report, read_robustness
from cifar_trainer.evaluation.report_page import describe_provenance, draw_figures, render_page
from cifar_trainer.evaluation.robustness import Robustness, measure_robustness
from cifar_trainer.model import LogitsFunction, load_model, weights_sha256
from cifar_trainer.run import Run, TrainResult, check_weights


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """What a model says about training images that it was not trained on.

    Attributes:
        logits: float32 [N, 10].
        labels: uint8 [N].
    """

    logits: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A run's model, and the images that it is evaluated on.

    Attributes:
        run, config, dataset: the run, its settings, its data.
        model: uint8 [N, 32, 32, 3] to float32 logits [N, 10], in the precision of the training.
        predictor: computes its logits, compiled once.
        split_name: `test` or `validation`.
        images: uint8 [N, 32, 32, 3].
        labels: uint8 [N].
        split_sha256: of the files that the split was taken from: it tells the order of the images.
        logits: float32 [N, 10], of the images.
        held_out: the logits and labels of the training images that the run held out, for
            what is fitted after training; None where it held none out.
        weights_sha256: over the model's weights.
        result: what result.json says of the training.
    """

    run: Run
    config: TrainConfig
    dataset: Dataset
    model: keras.Model
    predictor: LogitsFunction
    split_name: str
    images: np.ndarray
    labels: np.ndarray
    split_sha256: str
    logits: np.ndarray
    held_out: HeldOut | None
    weights_sha256: str
    result: TrainResult

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def predicted(self) -> np.ndarray:
        """The class of the largest logit, int64 [N]."""
        predicted: np.ndarray = self.logits.argmax(axis=1)
        return predicted


def load_subject(run: Run, dataset: Dataset, split_name: str) -> Subject:
    """Load a run's model and compute its logits for a split.

    Raises:
        UsageError: the run has no such split.
        RunError: its model is damaged, holds code, or is not the one of its result.json.
    """
    config = run.read_config()
    check_split(config, split_name)
    model = load_model(run.model)
    digest = weights_sha256(model)
    result = run.read_result()
    check_weights(run, result, digest)
    predictor = LogitsFunction(model)
    split = evaluated_split(dataset, config, split_name)
    logits = predictor(split.images)
    return Subject(
        run=run,
        config=config,
        dataset=dataset,
        model=model,
        predictor=predictor,
        split_name=split_name,
        images=split.images,
        labels=split.labels,
        split_sha256=split.sha256,
        logits=logits,
        held_out=_held_out(config, dataset, predictor, split_name, logits),
        weights_sha256=digest,
        result=result,
    )


def _held_out(
    config: TrainConfig, dataset: Dataset, predictor: LogitsFunction, split_name: str, logits: np.ndarray
) -> HeldOut | None:
    if config.validation != "holdout":
        return None
    split = evaluated_split(dataset, config, "validation")
    return HeldOut(logits if split_name == "validation" else predictor(split.images), split.labels)


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
