"""Predictions of a split to a frozen report, and the report to a run's folder."""

import dataclasses
from typing import Any

import numpy as np

from cifar_trainer import files, metrics
from cifar_trainer.evaluation.confusion import draw_confusion_matrix
from cifar_trainer.evaluation.subject import Subject


@dataclasses.dataclass(frozen=True)
class Report:
    """How a model does on a split; the keys of its JSON are the contract's.

    Attributes:
        run_dir: the run's folder.
        split: `test`, or `validation`: the training images that were held out.
        data: what the pictures are, such as `CIFAR-10`.
        images: their number.
        loss: mean cross-entropy in nats.
        accuracy: share classified rightly.
        macro: precision, recall and F1, each the plain mean over the classes.
        per_class: the same by class, with `support`, the number of its images.
        confusion_matrix: counts, by true class, then by predicted class.
    """

    run_dir: str
    split: str
    data: str
    images: int
    loss: float
    accuracy: float
    macro: dict[str, float]
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return dataclasses.asdict(self)


def evaluate(subject: Subject) -> Report:
    """Report on what a run's model says about a split, and replace the run's report on it whole.

    Raises:
        OSError: the report could not be written; the old one is untouched.
    """
    report = make_report(subject)
    with files.atomic_folder(subject.run.evaluation(subject.split_name), replace=True) as folder:
        files.write_json(folder / "report.json", report.to_json())
        title = f"{subject.dataset.title}, {subject.split_name}, accuracy {report.accuracy:.2%}"
        matrix = np.array(report.confusion_matrix)
        draw_confusion_matrix(matrix, subject.classes, title, folder / "confusion_matrix.png")
    return report


def make_report(subject: Subject) -> Report:
    """The figures of a subject."""
    predicted, labels, count = subject.predicted, subject.labels, len(subject.classes)
    figures = metrics.per_class(predicted, labels, count)
    mean = metrics.macro(figures)
    return Report(
        run_dir=str(subject.run.path),
        split=subject.split_name,
        data=subject.dataset.title,
        images=len(labels),
        loss=metrics.cross_entropy(subject.logits, labels),
        accuracy=metrics.accuracy(subject.logits, labels),
        macro={"precision": mean.precision, "recall": mean.recall, "f1": mean.f1},
        per_class=[
            {"class": name, **dataclasses.asdict(of_class)}
            for name, of_class in zip(subject.classes, figures, strict=True)
        ],
        confusion_matrix=metrics.confusion_matrix(predicted, labels, count).tolist(),
    )
