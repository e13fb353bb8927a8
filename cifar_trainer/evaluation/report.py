"""The measurements of a report, and the table of predictions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cifar_trainer import metrics
from cifar_trainer.conformal import Coverage
from cifar_trainer.data.check_record import read_check
from cifar_trainer.data.splits import split_for
from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Unfamiliar
from cifar_trainer.recipes import EXPECTED_ON, Expected
from cifar_trainer.results import Result
from cifar_trainer.settings import Settings

#: Number of errors in the gallery, and of pairs of classes in the list.
ERRORS = 20
CONFUSIONS = 10
#: What `evaluate --json` prints of a report, in this order.
_CONTRACT = (
    "run_dir", "split", "images", "loss", "accuracy", "without_near_duplicates", "macro", "per_class",
    "confusion_matrix",
)  # fmt: skip
_CONTRACT_PER_CLASS = ("class", "precision", "recall", "f1", "support")


@dataclasses.dataclass(frozen=True)
class WithoutNearDuplicates:
    """Accuracy without the images that have a copy or near-duplicate in the run's training images.

    Attributes:
        near_duplicates: number of images left out.
        images, accuracy, interval: for the remaining images; the interval is as in `Report`.
    """

    near_duplicates: int
    images: int
    accuracy: float
    interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Report(Result):
    """The measurements of a model on a split.

    Attributes:
        split: `test`, or `validation`: the training images that were held out.
        data: title of the data set, such as `CIFAR-10`.
        loss: mean cross-entropy in nats.
        accuracy_interval: 95 % interval (Wilson), like all intervals.
        without_near_duplicates: None if `check data` has not checked these data.
        expected: accuracies of earlier runs with these settings; None if none were measured.
        balanced_accuracy: mean recall of the classes that have images.
        macro: precision, recall and F1, each the unweighted mean over the classes.
        mean_average_precision: over the classes that have images.
        per_class: one row per class; its average precision is None without images.
        confusion_matrix: counts by true class, then by predicted class.
        mistakes: the most confident errors.
        robustness: None if it was not measured.
        test_looks: number of looks at the test set by this run so far.
        split_sha256: hash of the split's files, which include the order of the images.
        coverage: thresholds of class sets; None if the run held out no images.
    """

    run_dir: str
    split: str
    data: str
    images: int
    loss: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    without_near_duplicates: WithoutNearDuplicates | None
    expected: Expected | None
    balanced_accuracy: float
    macro: dict[str, float]
    mean_average_precision: float
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]
    confusions: tuple[metrics.Confusion, ...]
    mistakes: tuple[metrics.Mistake, ...]
    calibration: metrics.Calibration
    unfamiliar: Unfamiliar
    robustness: Robustness | None
    test_looks: int
    weights_sha256: str
    split_sha256: str
    coverage: Coverage | None = None

    @property
    def position(self) -> str:
        """`below`, `within` or `above` the expected range; empty without one."""
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
        """What `evaluate --json` prints: the keys that scripts rely on."""
        per_class = [{key: row[key] for key in _CONTRACT_PER_CLASS} for row in self.per_class]
        values = dataclasses.asdict(self)
        return {**{key: values[key] for key in _CONTRACT}, "per_class": per_class}

    def record(self) -> dict[str, Any]:
        """Everything as a JSON object: report.json."""
        return dataclasses.asdict(self)


def make_report(
    subject: Subject, unfamiliar: Unfamiliar, robustness: Robustness | None, test_looks: int
) -> Report:
    """Measure a subject, and add the other measurements."""
    predicted, labels, count = subject.predicted, subject.split.labels, len(subject.classes)
    matrix = metrics.confusion_matrix(predicted, labels, count)
    per_class = _per_class(subject, matrix)
    averages = [row["average_precision"] for row in per_class if row["average_precision"] is not None]
    recipe = subject.recipe
    return Report(
        run_dir=str(subject.run.path),
        split=subject.split_name,
        data=subject.dataset.title,
        images=len(labels),
        loss=metrics.cross_entropy(subject.logits, labels),
        accuracy=metrics.accuracy(subject.logits, labels),
        accuracy_interval=metrics.wilson_interval(int(matrix.trace()), len(labels)),
        without_near_duplicates=leave_out_near_duplicates(subject),
        expected=recipe.expected if is_expected_data(subject) and not unusual_settings(subject) else None,
        balanced_accuracy=metrics.balanced_accuracy(predicted, labels),
        macro={key: float(np.mean([row[key] for row in per_class])) for key in ("precision", "recall", "f1")},
        mean_average_precision=float(np.mean(averages)),
        per_class=per_class,
        confusion_matrix=matrix.tolist(),
        confusions=metrics.top_confusions(matrix, CONFUSIONS),
        mistakes=metrics.most_confident_errors(subject.logits, labels, ERRORS),
        calibration=metrics.calibrate(
            subject.logits, labels, subject.held_out, same_images=subject.split_name == "validation"
        ),
        unfamiliar=unfamiliar,
        robustness=robustness,
        test_looks=test_looks,
        weights_sha256=subject.weights_sha256,
        split_sha256=subject.split.sha256,
    )


def leave_out_near_duplicates(subject: Subject) -> WithoutNearDuplicates | None:
    """Accuracy on the images that have no near-duplicate in the run's training images.

    None if `check data` has not checked the data set, or if no images are left.
    """
    check = read_check(subject.dataset)
    if check is None:
        return None
    split, own = subject.split, "test" if subject.split_name == "test" else "train"
    positions = np.arange(len(split)) if split.indices is None else split.indices
    trained = {("train", index) for index in split_for(subject.dataset, subject.config)[0].tolist()}
    copied = {image for group in check.groups if not trained.isdisjoint(group) for image in group}
    kept = np.array([(own, index) not in copied for index in positions.tolist()], bool)
    if not kept.any():
        return None
    correct, count = int((subject.predicted == split.labels)[kept].sum()), int(kept.sum())
    return WithoutNearDuplicates(
        len(split) - count, count, correct / count, metrics.wilson_interval(correct, count)
    )


def is_expected_data(subject: Subject) -> bool:
    """Whether the expected accuracies of recipes apply to these images."""
    dataset = subject.dataset
    return dataset.name == EXPECTED_ON and dataset.verified and subject.split_name == "test"


def unusual_settings(subject: Subject) -> dict[str, Any]:
    """Settings that affect the result and differ from the recipe's own."""
    config, recipe = subject.config, subject.recipe
    usual = Settings(recipe.name, config.dataset, recipe.epochs, recipe.batch_size, recipe.learning_rate)
    own = usual.affecting_result()
    differing = {name: value for name, value in config.affecting_result().items() if value != own[name]}
    if subject.result.epochs != config.epochs:
        # A run that ended early did not complete its schedule.
        differing["epochs"] = f"{subject.result.epochs} of {config.epochs}"
    return differing


def _per_class(subject: Subject, matrix: np.ndarray) -> list[dict[str, Any]]:
    labels = subject.split.labels
    figures = metrics.per_class(subject.predicted, labels, len(subject.classes))
    curves = metrics.precision_recall_curves(subject.logits, labels)
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(subject.classes):
        correct, predicted = int(matrix[label, label]), int(matrix[:, label].sum())
        average = curves[label].average_precision
        rows.append(
            {
                "class": name,
                **figures[label],
                "predicted": predicted,
                "precision_interval": metrics.wilson_interval(correct, predicted),
                "recall_interval": metrics.wilson_interval(correct, int(matrix[label].sum())),
                "average_precision": None if math.isnan(average) else average,
            }
        )
    return rows


#: The columns of predictions.csv.
COLUMNS = ("index", "file", "label", "predicted", "probability", "margin", "loss", "unfamiliar")


def predictions(subject: Subject, unfamiliar: Unfamiliar) -> list[Mapping[str, Any]]:
    """One row per image, in the order of the split, with the keys of `COLUMNS`.

    `index` is the image's position in the prepared data: among the test images, or among the training
    images for the validation split. `file` is empty if the source had no file names, and `unfamiliar`
    is None if the thresholds cannot be used. Probabilities are at temperature 1.
    """
    labels, logits, split, classes = subject.split.labels, subject.logits, subject.split, subject.classes
    flags = unfamiliar.thresholds.is_unfamiliar(logits)
    columns = zip(
        range(len(labels)) if split.indices is None else split.indices.tolist(),
        split.files or [""] * len(labels),
        (classes[label] for label in labels),
        (classes[label] for label in subject.predicted),
        metrics.max_probability(logits).tolist(),
        metrics.margins(logits).tolist(),
        metrics.image_losses(logits, labels).tolist(),
        flags.tolist() if unfamiliar.usable else [None] * len(labels),
        strict=True,
    )
    return [dict(zip(COLUMNS, row, strict=True)) for row in columns]
