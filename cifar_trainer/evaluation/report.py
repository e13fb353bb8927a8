"""The figures of a subject, as one frozen report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cifar_trainer import metrics
from cifar_trainer.evaluation.calibration import Calibration, calibrate
from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.metrics import (
    Confusion,
    Mistake,
    confident_mistakes,
    precision_recall_curves,
    top_confusions,
)

#: Mistakes in the gallery, and pairs of classes in the list.
MISTAKES = 20
CONFUSIONS = 5
#: What `evaluate --json` prints of a report, in this order.
_CONTRACT = ("run_dir", "split", "images", "loss", "accuracy", "macro", "per_class", "confusion_matrix")
_CONTRACT_PER_CLASS = ("class", "precision", "recall", "f1", "support")


@dataclasses.dataclass(frozen=True)
class Report:
    """How a model does on a split.

    Attributes:
        run_dir: the run's folder.
        split: `test`, or `validation`: the training images that were held out.
        data: what the pictures are, such as `CIFAR-10`.
        images: their number.
        loss: mean cross-entropy in nats.
        accuracy: share classified rightly.
        accuracy_interval: its 95 % interval (Wilson).
        macro: precision, recall and F1, each the plain mean over the classes.
        per_class: the same by class, with `support`, the number of its images; the 95 %
            intervals of precision and recall (Wilson); the average precision, None for a
            class without images.
        confusion_matrix: counts, by true class, then by predicted class.
        confusions: the pairs of classes that are mixed up most.
        mistakes: the most confident ones.
        calibration: how confidence and accuracy go together.
        robustness: under corruptions and attacks, where that was measured.
        weights_sha256: of the model that was evaluated.
        split_sha256: of the files that the images were taken from, in which they have an order.
    """

    run_dir: str
    split: str
    data: str
    images: int
    loss: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro: dict[str, float]
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]
    calibration: Calibration
    robustness: Robustness | None
    weights_sha256: str
    split_sha256: str

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes that have images."""
        known = [row["average_precision"] for row in self.per_class if row["average_precision"] is not None]
        return float(np.mean(known))

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object: report.json."""
        return {
            **dataclasses.asdict(self),
            "mean_average_precision": self.mean_average_precision,
            "robustness": None if self.robustness is None else self.robustness.to_json(),
        }

    def summary(self) -> dict[str, Any]:
        """What `evaluate --json` prints: the contract's keys, no others."""
        whole = self.to_json()
        per_class = [{key: row[key] for key in _CONTRACT_PER_CLASS} for row in self.per_class]
        return {**{key: whole[key] for key in _CONTRACT}, "per_class": per_class}


def make_report(subject: Subject, robustness: Robustness | None = None) -> Report:
    """The figures of a subject; `robustness` is passed on."""
    predicted, labels, count = subject.predicted, subject.labels, len(subject.classes)
    matrix = metrics.confusion_matrix(predicted, labels, count)
    figures = metrics.per_class(predicted, labels, count)
    mean = metrics.macro(figures)
    return Report(
        run_dir=str(subject.run.path),
        split=subject.split_name,
        data=subject.dataset.title,
        images=len(labels),
        loss=metrics.cross_entropy(subject.logits, labels),
        accuracy=metrics.accuracy(subject.logits, labels),
        accuracy_interval=metrics.wilson_interval(int(matrix.trace()), len(labels)),
        macro={"precision": mean.precision, "recall": mean.recall, "f1": mean.f1},
        per_class=_per_class(subject, figures),
        confusion_matrix=matrix.tolist(),
        confusions=top_confusions(matrix, CONFUSIONS),
        mistakes=confident_mistakes(subject.logits, labels, MISTAKES),
        calibration=calibrate(subject),
        robustness=robustness,
        weights_sha256=subject.weights_sha256,
        split_sha256=subject.split_sha256,
    )


def _per_class(subject: Subject, figures: tuple[metrics.ClassFigures, ...]) -> list[dict[str, Any]]:
    matrix = metrics.confusion_matrix(subject.predicted, subject.labels, len(subject.classes))
    curves = precision_recall_curves(subject.logits, subject.labels)
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(subject.classes):
        right, average = int(matrix[label, label]), curves[label].average_precision
        rows.append(
            {
                "class": name,
                **dataclasses.asdict(figures[label]),
                "precision_interval": metrics.wilson_interval(right, int(matrix[:, label].sum())),
                "recall_interval": metrics.wilson_interval(right, int(matrix[label].sum())),
                "average_precision": None if math.isnan(average) else average,
            }
        )
    return rows


def read_robustness(record: Mapping[str, Any], weights_sha256: str) -> Robustness | None:
    """The robustness in an earlier report.json, where it is about the same weights."""
    value = record.get("robustness")
    if not isinstance(value, dict) or value.get("weights_sha256") != weights_sha256:
        return None
    try:
        return Robustness.from_json(value)
    except (KeyError, TypeError, ValueError):
        return None
