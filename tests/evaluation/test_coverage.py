"""Class sets keep the promised coverage, and everything that uses them gives the same ones."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cifar_trainer import files
from cifar_trainer.artefacts.formats import open_artefact
from cifar_trainer.conformal import MIN_CLASS_IMAGES, Coverage, fit_coverage, parse_coverage
from cifar_trainer.errors import UsageError
from cifar_trainer.evaluation.coverage import measure_coverage, measure_sets
from cifar_trainer.evaluation.subject import Subject


def draw(count: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a classifier that knows some classes better than others, and labels."""
    source = np.random.default_rng(seed)
    labels = source.integers(0, classes, count).astype(np.uint8)
    logits = source.normal(0, 1.5, (count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1 + labels / 3
    return logits, labels


@pytest.mark.parametrize("percent", [80, 90, 95, 99])
def test_over_50_random_halves_the_coverage_is_the_promised_one(percent: int) -> None:
    logits, labels = draw(4000)
    measured, by_class = [], []
    for seed in range(50):
        order = np.random.default_rng(seed).permutation(len(labels))
        fitted, rest = order[:2000], order[2000:]
        coverage = fit_coverage(logits[fitted], labels[fitted])
        assert coverage.by_class
        contained = coverage.at(percent).contain(logits[rest])[np.arange(2000), labels[rest]]
        measured.append(contained.mean())
        by_class.append([contained[labels[rest] == label].mean() for label in range(10)])
    assert np.mean(measured) == pytest.approx(percent / 100, abs=0.01)
    assert np.mean(by_class, axis=0) == pytest.approx(percent / 100, abs=0.02)


def test_a_threshold_is_the_finite_sample_quantile_of_angelopoulos_and_bates() -> None:
    """Equation 1: the ceil((n + 1)(1 - alpha)) / n quantile of the scores, 1 - probability."""
    logits, labels = draw(95)
    powers = np.exp(logits.astype(float))
    shares = powers / powers.sum(axis=1, keepdims=True)
    scores = 1 - shares[np.arange(95), labels]
    quantile = np.quantile(scores, np.ceil(96 * 0.9) / 95, method="inverted_cdf")
    coverage = fit_coverage(logits, labels)
    assert not coverage.by_class
    assert coverage.at(90).thresholds == pytest.approx([1 - quantile], rel=2e-3)
    right = coverage.at(90).contain(logits)[np.arange(95), labels]
    assert right.tolist() == (scores <= quantile).tolist()
    assert right.sum() == 87


@pytest.mark.parametrize("least", [MIN_CLASS_IMAGES - 1, MIN_CLASS_IMAGES])
def test_classes_have_their_own_thresholds_if_each_has_enough_images(least: int) -> None:
    labels = np.repeat([0, 1], [MIN_CLASS_IMAGES, least])
    coverage = fit_coverage(draw(len(labels), 2)[0], labels)
    assert coverage.by_class == (least == MIN_CLASS_IMAGES)
    assert len(coverage.at(99).thresholds) == (2 if coverage.by_class else 1)


def test_a_coverage_that_needs_more_images_has_no_thresholds() -> None:
    coverage = fit_coverage(*draw(12, 2))
    assert max(map(int, coverage.thresholds)) == 92
    assert coverage.at(92).coverage == 0.92
    assert fit_coverage(*draw(14, 2)).at(93).coverage == 0.93


@pytest.mark.parametrize(("text", "percent"), [("90%", 90), ("0.9", 90), (0.57, 57), (" 99 %", 99)])
def test_a_coverage_is_a_percentage_or_a_fraction(text: str | float, percent: int) -> None:
    assert parse_coverage(text) == percent


@pytest.mark.parametrize("text", ["90", "49%", "1", "100%", "92.5%", "nan", "inf%", "high", "", "%", -0.9])
def test_another_coverage_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError, match=f"--coverage {text}: expected 50% to 99%"):
        parse_coverage(text)


def test_an_image_without_a_likely_class_has_an_empty_set() -> None:
    sure = np.eye(3, dtype=np.float32)[np.arange(300) % 3] * 9
    sets = fit_coverage(sure, np.arange(300) % 3).at(90)
    flat, torn = np.zeros(3, np.float32), np.array([9, 9, 0], np.float32)
    assert sets.contain(np.stack([sure[0], flat, torn])).sum(axis=1).tolist() == [1, 0, 0]


def test_the_measurements_are_those_of_the_sets() -> None:
    """Four images of two classes: sets {0}, {}, {0, 1} and {1} for the classes 0, 0, 1 and 0."""
    logits = np.log(np.array([[0.9, 0.1], [0.55, 0.45], [0.7, 0.3], [0.2, 0.8]]))
    coverage = Coverage(100, True, {"90": (0.6, 0.25)})
    row = measure_sets(coverage, 90, logits, np.array([0, 0, 1, 1]))
    assert [row[name] for name in ("coverage", "measured", "mean_size", "unknown")] == [0.9, 0.75, 1.25, 0.0]
    strict = dataclasses.replace(coverage, thresholds={"90": (0.6,)})
    row = measure_sets(strict, 90, logits, np.array([0, 0, 1, 1]))
    assert [row[name] for name in ("measured", "mean_size", "unknown")] == [0.5, 0.75, 0.25]
    assert row["interval"][0] < 0.5 < row["interval"][1]


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_trainer.evaluation.coverage.is_float32", lambda model: True)


def test_thresholds_are_fitted_on_held_out_images_and_measured_on_test_images(
    make_subject: Callable[..., Subject], float32: None
) -> None:
    held_out, (logits, labels) = draw(400, 3, seed=1), draw(60, 3)
    assert measure_coverage(make_subject(logits, labels)) is None
    coverage = measure_coverage(make_subject(logits, labels, held_out))
    assert coverage is not None
    assert dataclasses.replace(coverage, measured=()) == fit_coverage(*held_out)
    assert [row["coverage"] for row in coverage.measured] == [0.8, 0.9, 0.95, 0.99]
    alone = measure_coverage(make_subject(*held_out, held_out, split_name="validation"))
    assert alone == fit_coverage(*held_out)


def test_thresholds_are_read_back_to_the_bit(tmp_path: Path) -> None:
    coverage = fit_coverage(*draw(1500))
    files.write_json(tmp_path / "coverage.json", dataclasses.asdict(coverage))
    assert msgspec.json.decode((tmp_path / "coverage.json").read_bytes(), type=Coverage) == coverage


def test_onnx_and_litert_give_the_sets_of_keras(artefacts: Mapping[str, Path], data_dir: Path) -> None:
    """Also for the held-out images that are the thresholds."""
    folder = data_dir / "synthetic"
    images = np.load(folder / "test_images.npy", mmap_mode="r")[:400]
    labels = np.load(folder / "test_labels.npy", mmap_mode="r")[:400]
    keras = open_artefact(artefacts["keras"]).predict(images).logits
    coverage = fit_coverage(keras[:200], labels[:200])
    for name in {"saved_model", "onnx", "litert"} & set(artefacts):
        logits = open_artefact(artefacts[name]).predict(images).logits
        for percent in (80, 90, 95, 99):
            sets = coverage.at(percent)
            assert (sets.contain(logits) == sets.contain(keras)).all(), (name, percent)
