"""Each number of a report, against an independent computation on a small case."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from cifar_trainer import metrics
from cifar_trainer.evaluation.figures import precision_recall_figure
from cifar_trainer.evaluation.report import Report
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.metrics import fit_temperature, precision_recall_curves, reliability
from cifar_trainer.plots import LIGHT
from cifar_trainer.recipes import EXPECTED_ON, Expected
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.settings import Settings

Logits = tuple[np.ndarray, np.ndarray]


ReportOn = Callable[[Subject], Report]


@pytest.fixture
def report(make_subject: Callable[..., Subject], report_on: ReportOn, small_logits: Logits) -> Report:
    return report_on(make_subject(*small_logits))


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> list[list[float]]:
    rows = []
    for row in logits.astype(float) / temperature:
        powers = [math.exp(value) for value in row]
        rows.append([power / sum(powers) for power in powers])
    return rows


def test_loss_and_accuracy(report: Report, small_logits: Logits) -> None:
    logits, labels = small_logits
    losses = [-math.log(row[label]) for row, label in zip(probabilities(logits), labels, strict=True)]
    right = [max(range(3), key=row.__getitem__) == y for row, y in zip(logits.tolist(), labels, strict=True)]
    assert report.loss == pytest.approx(sum(losses) / 60, rel=1e-9)
    assert report.accuracy == sum(right) / 60
    assert 0.2 < report.accuracy < 0.9


def test_precision_recall_f1_and_their_means(report: Report, small_logits: Logits) -> None:
    logits, labels = small_logits
    said = logits.argmax(axis=1).tolist()
    for label, row in enumerate(report.per_class):
        both = sum(s == label and y == label for s, y in zip(said, labels, strict=True))
        precision, recall = both / said.count(label), both / labels.tolist().count(label)
        assert row["precision"] == pytest.approx(precision)
        assert row["recall"] == pytest.approx(recall)
        assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert row["support"] == labels.tolist().count(label)
    for key in ("precision", "recall", "f1"):
        assert report.macro[key] == pytest.approx(sum(row[key] for row in report.per_class) / 3)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (7144, 10000)])
def test_the_interval_holds_the_shares_that_the_score_test_does_not_reject(
    successes: int, count: int
) -> None:
    """Wilson's bounds solve |share - p| = 1.96 · sqrt(p (1 - p) / n) for p."""
    share, z = successes / count, 1.959963984540054

    def excess(p: float) -> float:
        return abs(share - p) - z * math.sqrt(p * (1 - p) / count)

    low, high = metrics.wilson_interval(successes, count)
    assert low == pytest.approx(0 if successes == 0 else brentq(excess, 1e-12, share - 1e-12), abs=1e-9)
    assert high == pytest.approx(
        1 if successes == count else brentq(excess, share + 1e-12, 1 - 1e-12), abs=1e-9
    )


def test_the_intervals_of_a_report_are_those_of_its_own_counts(report: Report) -> None:
    matrix = np.array(report.confusion_matrix)
    assert report.accuracy_interval == metrics.wilson_interval(matrix.trace(), 60)
    for label, row in enumerate(report.per_class):
        right = matrix[label, label]
        assert row["precision_interval"] == metrics.wilson_interval(right, matrix[:, label].sum())
        assert row["recall_interval"] == metrics.wilson_interval(right, matrix[label].sum())


def test_the_confusion_matrix_and_the_pairs_that_are_mixed_up_most(
    report: Report, small_logits: Logits
) -> None:
    logits, labels = small_logits
    counted = [[0] * 3 for _ in range(3)]
    for said, label in zip(logits.argmax(axis=1), labels, strict=True):
        counted[label][said] += 1
    assert report.confusion_matrix == counted
    cells = {(i, j): counted[i][j] for i in range(3) for j in range(3) if i != j}
    assert report.confusions[0].images == max(cells.values())
    for pair in report.confusions:
        assert pair.images == cells[pair.true, pair.predicted]
        assert pair.share == pytest.approx(pair.images / sum(counted[pair.true]))


def test_average_precision(report: Report, small_logits: Logits) -> None:
    """The mean of the precision at the place of each image of the class, by falling probability."""
    logits, labels = small_logits
    chances = probabilities(logits)
    for label, row in enumerate(report.per_class):
        order = sorted(range(60), key=lambda i: -chances[i][label])
        found, precisions = 0, []
        for place, i in enumerate(order, start=1):
            if labels[i] == label:
                found += 1
                precisions.append(found / place)
        assert row["average_precision"] == pytest.approx(sum(precisions) / found)
    mean = sum(row["average_precision"] for row in report.per_class) / 3
    assert report.mean_average_precision == pytest.approx(mean)


def test_the_expected_calibration_error(report: Report, small_logits: Logits) -> None:
    logits, labels = small_logits
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities(logits), labels, strict=True):
        sure = max(row)
        bins.setdefault(math.ceil(sure * 15), []).append((sure, row.index(sure) == label))
    expected = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins.values()) / 60
    assert report.calibration.before.ece == pytest.approx(expected)
    assert sum(b.images for b in report.calibration.before.bins) == 60


def test_the_most_confident_errors_come_first(report: Report, small_logits: Logits) -> None:
    logits, labels = small_logits
    chances = probabilities(logits)
    wrong = [i for i in range(60) if chances[i].index(max(chances[i])) != labels[i]]
    expected = sorted(wrong, key=lambda i: -max(chances[i]))[:20]
    assert [mistake.index for mistake in report.mistakes] == expected
    for mistake in report.mistakes:
        assert mistake.true == labels[mistake.index] != mistake.predicted
        assert mistake.confidence == pytest.approx(chances[mistake.index][mistake.predicted])


def test_the_temperature_is_the_best_of_a_grid_and_moves_no_answer(small_logits: Logits) -> None:
    logits, labels = small_logits
    temperature = fit_temperature(logits, labels)

    def loss(t: float) -> float:
        return sum(-math.log(row[y]) for row, y in zip(probabilities(logits, t), labels, strict=True))

    best = min(np.arange(0.2, 5, 0.01), key=loss)
    assert temperature == pytest.approx(best, abs=0.01)
    after = reliability(logits, labels, temperature)
    assert sum(b.images * (b.accuracy or 0) for b in after.bins) == pytest.approx(
        (logits.argmax(axis=1) == labels).sum()
    )


def test_the_temperature_of_a_model_that_is_ten_times_too_sure_is_ten_times_higher(
    small_logits: Logits,
) -> None:
    logits, labels = small_logits
    assert fit_temperature(logits * 10, labels) == pytest.approx(
        10 * fit_temperature(logits, labels), rel=1e-3
    )


def test_the_temperature_comes_from_held_out_images_and_never_from_the_test_set(
    make_subject: Callable[..., Subject], report_on: ReportOn, small_logits: Logits
) -> None:
    logits, labels = small_logits
    held_out = (logits[::2] * 3, labels[::2])
    calibration = report_on(make_subject(logits, labels, held_out)).calibration
    assert calibration.temperature == fit_temperature(logits[::2] * 3, labels[::2])
    assert calibration.fitted_on == 30
    assert calibration.after is not None
    assert not calibration.same_images
    without = report_on(make_subject(logits, labels)).calibration
    assert (without.temperature, without.after) == (None, None)


def test_a_class_without_images_has_no_average_precision_and_spoils_no_mean(
    make_subject: Callable[..., Subject], report_on: ReportOn, small_logits: Logits
) -> None:
    logits, labels = small_logits
    some = labels != 2
    report = report_on(make_subject(logits[some], labels[some]))
    assert report.per_class[2]["average_precision"] is None
    assert 0 < report.mean_average_precision <= 1
    assert report.per_class[2]["recall_interval"] == (0.0, 1.0)
    curves = precision_recall_curves(logits[some], labels[some])
    figure = precision_recall_figure(curves, ("ant", "bee", "cow"), LIGHT)
    assert figure.axes[2].get_title(loc="left") == "cow  –"


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_images(
    make_subject: Callable[..., Subject], report_on: ReportOn, small_logits: Logits
) -> None:
    logits, labels = small_logits
    kept = np.concatenate([np.flatnonzero(labels == 0)[:3], np.flatnonzero(labels == 1)])
    report = report_on(make_subject(logits[kept], labels[kept]))
    predicted = logits[kept].argmax(axis=1)
    recalls = [(predicted[labels[kept] == label] == label).mean() for label in (0, 1)]
    assert report.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert report.accuracy != pytest.approx(report.balanced_accuracy)


@pytest.fixture
def usual(make_subject: Callable[..., Subject], small_logits: Logits) -> Callable[..., Subject]:
    """A subject with the recipe's own settings on verified CIFAR-10, where a range of accuracies is known."""
    recipe = dataclasses.replace(TUTORIAL, expected=Expected(0.5, 10, 0.45, 0.55))
    plain = make_subject(*small_logits)
    result = dataclasses.replace(plain.result, epochs=recipe.epochs)
    config = Settings("tutorial", EXPECTED_ON, recipe.epochs, recipe.batch_size, recipe.learning_rate, seed=7)
    dataset = dataclasses.replace(plain.dataset, name=EXPECTED_ON, verified_by="content")

    def make(**settings: Any) -> Subject:
        changed = dataclasses.replace(config, **settings)
        return dataclasses.replace(plain, recipe=recipe, config=changed, dataset=dataset, result=result)

    return make


@pytest.mark.parametrize(("accuracy", "place"), [(0.44, "below"), (0.45, "within"), (0.56, "above")])
def test_the_report_says_where_the_accuracy_lies_among_earlier_runs(
    usual: Callable[..., Subject], report_on: ReportOn, accuracy: float, place: str
) -> None:
    report = dataclasses.replace(report_on(usual()), accuracy=accuracy)
    assert report.position == place


def test_no_range_is_expected_on_other_data(usual: Callable[..., Subject], report_on: ReportOn) -> None:
    subject = usual()
    other = dataclasses.replace(subject, dataset=dataclasses.replace(subject.dataset, verified_by=None))
    assert report_on(other).expected is None
