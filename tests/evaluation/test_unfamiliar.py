"""Scores of unfamiliar images, against their definitions and against cases whose answer is known."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cifar_trainer import metrics
from cifar_trainer.data.splits import split_for
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError
from cifar_trainer.evaluation import unfamiliar
from cifar_trainer.evaluation.subject import Subject, load_subject
from cifar_trainer.evaluation.unfamiliar import measure_unfamiliar, other_kinds
from cifar_trainer.images import Preprocessing
from cifar_trainer.run import Run

Logits = tuple[np.ndarray, np.ndarray]


def test_the_energy_is_minus_the_log_of_the_sum_of_the_exponentials(small_logits: Logits) -> None:
    logits, _ = small_logits
    expected = [-math.log(sum(math.exp(value) for value in row)) for row in logits.tolist()]
    np.testing.assert_allclose(metrics.energy(logits), expected, rtol=1e-6)


def test_the_largest_probability_is_that_of_softmax(small_logits: Logits) -> None:
    logits, _ = small_logits
    expected = [
        max(math.exp(value) for value in row) / sum(math.exp(value) for value in row)
        for row in logits.tolist()
    ]
    np.testing.assert_allclose(metrics.max_probability(logits), expected, rtol=1e-6)


def test_the_thresholds_let_95_per_cent_of_the_images_pass_that_they_were_fitted_on() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2000, 10)).astype(np.float32)
    thresholds = metrics.fit_thresholds(logits)
    assert thresholds.is_unfamiliar(logits).mean() == pytest.approx(0.05, abs=0.001)
    assert (metrics.max_probability(logits) < thresholds.probability).mean() == pytest.approx(0.05, abs=0.001)


@pytest.fixture
def confident(make_subject: Callable[..., Subject]) -> Subject:
    """A subject that is sure about its own images, and about others as far as their first pixel is bright."""
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 500).astype(np.uint8)
    logits = draw.normal(0, 0.1, (500, 3)).astype(np.float32)
    logits[np.arange(500), labels] += draw.uniform(5, 10, 500).astype(np.float32)

    def predict(images: np.ndarray) -> np.ndarray:
        return np.pad(images[:, 0, 0, :1].astype(np.float32) / 255 * 20, ((0, 0), (0, 2)))

    return make_subject(logits, labels, predict_logits=predict)


def of_brightness(value: int) -> np.ndarray:
    return np.full((100, 32, 32, 3), value, np.uint8)


def test_images_that_give_flat_logits_are_told_apart_perfectly(confident: Subject) -> None:
    measured, _ = measure_unfamiliar(confident, {"dark": of_brightness(0)})
    (kind,) = measured.kinds
    assert (kind.energy.auroc, kind.energy.fpr95, kind.flagged) == (1.0, 0.0, 1.0)


def test_images_that_give_higher_logits_than_any_familiar_one_all_pass(confident: Subject) -> None:
    measured, _ = measure_unfamiliar(confident, {"bright": of_brightness(255)})
    (kind,) = measured.kinds
    assert (kind.energy.auroc, kind.energy.fpr95, kind.flagged) == (0.0, 1.0, 0.0)


def test_the_area_is_the_share_of_pairs_in_which_the_familiar_image_scores_higher(
    make_subject: Callable[..., Subject], small_logits: Logits
) -> None:
    logits, labels = small_logits
    other = np.random.default_rng(2).normal(0, 1, (40, 3)).astype(np.float32)
    subject = make_subject(logits, labels, predict_logits=lambda images: other)
    measured, _ = measure_unfamiliar(subject, {"other": of_brightness(0)[:40]})
    pairs = metrics.energy(logits)[:, None] < metrics.energy(other)[None, :]
    assert measured.kinds[0].energy.auroc == pytest.approx(pairs.mean())


def test_thresholds_are_fitted_on_held_out_images_where_there_are(
    make_subject: Callable[..., Subject], small_logits: Logits
) -> None:
    logits, labels = small_logits
    measured, _ = measure_unfamiliar(make_subject(logits, labels, (logits[:40] * 2, labels[:40])), {})
    assert (measured.fitted_on, measured.fitted_images) == ("validation", 40)
    assert measured.thresholds == metrics.fit_thresholds(logits[:40] * 2)


def test_without_held_out_images_the_thresholds_are_fitted_on_training_images_never_on_the_test_set(
    trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(trained_run, tmp_path / "run"))
    subject = load_subject(run, run.load_data(data_dir), "test")
    trained, _ = split_for(subject.dataset, subject.config)
    logits = subject.predict_logits(subject.dataset.train.images[trained])
    measured, _ = measure_unfamiliar(subject, {})
    assert (measured.fitted_on, measured.fitted_images) == ("train", 2000)
    assert measured.thresholds == metrics.fit_thresholds(logits)


@pytest.mark.parametrize(("brightness", "usable"), [(0, True), (255, False)])
def test_thresholds_are_not_used_if_any_kind_looks_more_familiar_than_real_images(
    confident: Subject, brightness: int, usable: bool
) -> None:
    kinds = {"noise": of_brightness(0), "drawn shapes": of_brightness(brightness)}
    measured, _ = measure_unfamiliar(confident, kinds)
    assert measured.usable == usable
    assert measured.kinds[1].worse_than_chance != usable


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (64, 64, 3)])
def test_other_kinds_have_the_shape_of_the_model(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    drawn = SimpleNamespace(splits={"test": load_dataset(data_dir, "synthetic").test})
    monkeypatch.setattr(unfamiliar, "draw_dataset", lambda: drawn)
    monkeypatch.setattr(unfamiliar, "IMAGES", 20)
    kinds = other_kinds("cifar10", Preprocessing(shape), None)
    assert {name: images.shape[1:] for name, images in kinds.items()} == {
        "drawn shapes": shape,
        "noise": shape,
    }


def test_a_model_of_the_drawn_shapes_is_not_measured_against_them() -> None:
    assert list(other_kinds("synthetic", Preprocessing((32, 32, 3)), None)) == ["noise"]


def test_a_folder_of_class_folders_is_read_whole_and_leftovers_are_passed_over(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.jpg", "b/3.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (50, 40), "red").save(tmp_path / name)
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "README.md").write_text("none of them")
    images = other_kinds("synthetic", Preprocessing((32, 32, 3)), tmp_path)[f"images in {tmp_path.name}"]
    assert images.shape == (3, 32, 32, 3)


def test_a_prepared_data_set_is_read_as_such(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfamiliar, "IMAGES", 20)
    images = other_kinds("flowers", Preprocessing((28, 28, 1)), data_dir / "synthetic")["images in synthetic"]
    assert images.shape == (20, 28, 28, 1)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        other_kinds("synthetic", Preprocessing((32, 32, 3)), tmp_path)


def test_a_damaged_image_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"half\.png cannot be used"):
        other_kinds("synthetic", Preprocessing((32, 32, 3)), tmp_path)
