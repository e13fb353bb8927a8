"""The figures of a subject, as one frozen report."""

import dataclasses
import math
from typing import Any

import numpy as np

from cifar_trainer import metrics
from cifar_trainer.evaluation.calibration import Calibration, calibrate
from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Unfamiliar
from cifar_trainer.metrics import (
    Confusion,
    Mistake,
    confident_mistakes,
    precision_recall_curves,
    top_confusions,
)
from cifar_trainer.recipes import EXPECTED_ON, Expected
from cifar_trainer.results import Result
from cifar_trainer.settings import Settings

#: Mistakes in the gallery, and pairs of classes in the list.
MISTAKES = 20
CONFUSIONS = 10
#: What `evaluate --json` prints of a report, in this order.
_CONTRACT = ("run_dir", "split", "images", "loss", "accuracy", "macro", "per_class", "confusion_matrix")
_CONTRACT_PER_CLASS = ("class", "precision", "recall", "f1", "support")


@dataclasses.dataclass(frozen=True)
class Report(Result):
    """How a model does on a split.

    Attributes:
        run_dir: the run's folder.
        split: `test`, or `validation`: the training images that were held out.
        data: what the images are, such as `CIFAR-10`.
        images: their number.
        loss: mean cross-entropy in nats.
        accuracy: share classified correctly.
        accuracy_interval: its 95 % interval (Wilson).
        expected: what earlier runs with these settings reached; None where none were measured.
        balanced_accuracy: the mean recall of the classes that have images.
        macro: precision, recall and F1, each the unweighted mean over the classes.
        mean_average_precision: over the classes that have images.
        per_class: `class`, precision, recall and F1 of each; `support`, the number of its images;
            the 95 % intervals of precision and recall (Wilson); the average precision, None for
            a class without images.
        confusion_matrix: counts, by true class, then by predicted class.
        confusions: the pairs of classes that are confused most.
        mistakes: the most confident ones.
        calibration: how well confidence matches accuracy.
        unfamiliar: how well images of other kinds are distinguished from these.
        robustness: under corruptions and attacks, where that was measured.
        test_looks: how often the run's test set was looked at so far.
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
    expected: Expected | None
    balanced_accuracy: float
    macro: dict[str, float]
    mean_average_precision: float
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]
    calibration: Calibration
    unfamiliar: Unfamiliar
    robustness: Robustness | None
    test_looks: int
    weights_sha256: str
    split_sha256: str

    @property
    def place(self) -> str:
        """Where the accuracy lies in the expected range: `below`, `within` or `above`; empty without one."""
        if self.expected is None:
            return ""
        if self.accuracy < self.expected.low:
            return "below"
        return "above" if self.accuracy > self.expected.high else "within"

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same number of images."""
        return len({row["support"] for row in self.per_class}) == 1

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints: the figures that scripts rely on."""
        per_class = [{key: row[key] for key in _CONTRACT_PER_CLASS} for row in self.per_class]
        return {**{key: getattr(self, key) for key in _CONTRACT}, "per_class": per_class}

    def record(self) -> dict[str, Any]:
        """All of it as a JSON object: report.json."""
        return dataclasses.asdict(self)


def make_report(
    subject: Subject, unfamiliar: Unfamiliar, robustness: Robustness | None, test_looks: int
) -> Report:
    """The figures of a subject; the other arguments are measured before, and passed on."""
    predicted, labels, count = subject.predicted, subject.split.labels, len(subject.classes)
    matrix = metrics.confusion_matrix(predicted, labels, count)
    per_class = _per_class(subject, matrix)
    averages = [row["average_precision"] for row in per_class if row["average_precision"] is not None]
    return Report(
        run_dir=str(subject.run.path),
        split=subject.split_name,
        data=subject.dataset.title,
        images=len(labels),
        loss=metrics.cross_entropy(subject.logits, labels),
        accuracy=metrics.accuracy(subject.logits, labels),
        accuracy_interval=metrics.wilson_interval(int(matrix.trace()), len(labels)),
        expected=_expected(subject),
        balanced_accuracy=metrics.balanced_accuracy(predicted, labels),
        macro=metrics.macro(predicted, labels, count),
        mean_average_precision=float(np.mean(averages)),
        per_class=per_class,
        confusion_matrix=matrix.tolist(),
        confusions=top_confusions(matrix, CONFUSIONS),
        mistakes=confident_mistakes(subject.logits, labels, MISTAKES),
        calibration=calibrate(
            subject.logits, labels, subject.held_out, same_images=subject.split_name == "validation"
        ),
        unfamiliar=unfamiliar,
        robustness=robustness,
        test_looks=test_looks,
        weights_sha256=subject.weights_sha256,
        split_sha256=subject.split.sha256,
    )


def _expected(subject: Subject) -> Expected | None:
    """What the recipe is expected to reach, where the run has the settings and the data of that."""
    config, recipe = subject.config, subject.recipe
    usual = Settings(recipe.name, EXPECTED_ON, recipe.epochs, recipe.batch_size, recipe.learning_rate)
    # A run that was ended early has not seen the end of its schedule.
    whole = subject.result.epochs == config.epochs
    same = whole and config.affecting_result() == usual.affecting_result() and subject.dataset.verified
    return recipe.expected if same and subject.split_name == "test" else None


def _per_class(subject: Subject, matrix: np.ndarray) -> list[dict[str, Any]]:
    labels = subject.split.labels
    figures = metrics.per_class(subject.predicted, labels, len(subject.classes))
    curves = precision_recall_curves(subject.logits, labels)
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(subject.classes):
        correct, average = int(matrix[label, label]), curves[label].average_precision
        rows.append(
            {
                "class": name,
                **dataclasses.asdict(figures[label]),
                "precision_interval": metrics.wilson_interval(correct, int(matrix[:, label].sum())),
                "recall_interval": metrics.wilson_interval(correct, int(matrix[label].sum())),
                "average_precision": None if math.isnan(average) else average,
            }
        )
    return rows
