"""Attacks on networks whose weakest point is known, and the table that is made of them."""

import dataclasses
import json
from collections.abc import Callable

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.errors import UsageError
from cifar_trainer.evaluation import robustness
from cifar_trainer.evaluation.corruptions import CORRUPTIONS
from cifar_trainer.evaluation.robustness import Attacker, Robustness, measure_robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.model import LogitsFunction, is_float32
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.training.assembly import build_model


@pytest.fixture(scope="module")
def linear() -> tuple[keras.Model, np.ndarray]:
    """Two logits, linear in the pixels from 0 to 1, and the weights' difference [3072]."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    weights = model.layers[-1].get_weights()[0]
    return model, weights[:, 0] - weights[:, 1]


@pytest.fixture(scope="module")
def mid_tones() -> np.ndarray:
    return np.random.default_rng(1).integers(60, 190, (6, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255])
def test_on_a_linear_model_an_attack_takes_epsilon_times_the_sum_of_the_weights(
    linear, mid_tones: np.ndarray, attack: str, epsilon: float
) -> None:
    """No change of at most epsilon can take more (Goodfellow et al. 2015, section 3), and none is clipped."""
    model, difference = linear
    labels = np.array([0, 1, 0, 1, 0, 1])
    before = LogitsFunction(model)(mid_tones)
    after = getattr(Attacker(model, seed=0), attack)(mid_tones, labels, epsilon)
    sign = np.where(labels == 0, 1, -1)
    lost = sign * ((before[:, 0] - before[:, 1]) - (after[:, 0] - after[:, 1]))
    np.testing.assert_allclose(lost, epsilon * np.abs(difference).sum(), rtol=1e-3)


def test_a_changed_picture_stays_within_black_and_white(linear) -> None:
    """On a white picture only darkening helps: an attack gains from half of the weights only."""
    model, difference = linear
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    before, after = LogitsFunction(model)(white), Attacker(model).fgsm(white, np.array([0]), 4 / 255)
    lost = (before[0, 0] - before[0, 1]) - (after[0, 0] - after[0, 1])
    assert lost == pytest.approx(4 / 255 * difference[difference > 0].sum(), rel=1e-3)


def test_no_strength_leaves_the_answers_as_they_are(linear, mid_tones: np.ndarray) -> None:
    model, _ = linear
    after = Attacker(model).pgd(mid_tones, np.zeros(6, np.int64), 0.0)
    np.testing.assert_allclose(after, LogitsFunction(model)(mid_tones), atol=1e-5)


def test_a_model_of_mixed_precision_is_attacked_in_float32(
    mid_tones: np.ndarray, make_subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a step of a quarter of a 255th is lost on most values, and the network looks robust."""
    attacked: list[keras.Model] = []

    class Watched(Attacker):
        def __init__(self, model: keras.Model, predict: object) -> None:
            attacked.append(model)
            super().__init__(model)

    monkeypatch.setattr(robustness, "Attacker", Watched)
    model = build_model(TUTORIAL, "bfloat16", (32, 32, 3), 10)
    predictor = LogitsFunction(model)
    labels = np.arange(6).astype(np.uint8)
    subject = make_subject(
        predictor(mid_tones), labels, model=model, predict_logits=predictor, images=mid_tones
    )
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"contrast": CORRUPTIONS["contrast"]})
    measure_robustness(subject, 6)
    assert not is_float32(model)
    assert is_float32(attacked[0])
    np.testing.assert_array_equal(attacked[0].get_weights()[0], model.get_weights()[0])


def test_the_table_has_every_corruption_severity_and_attack_and_repeats(
    linear, mid_tones: np.ndarray, make_subject: Callable[..., Subject]
) -> None:
    model, _ = linear
    labels = np.array([0, 1, 0, 1, 0, 1], np.uint8)
    predictor = LogitsFunction(model)
    logits = predictor(mid_tones)
    subject = make_subject(logits, labels, model=model, predict_logits=predictor, images=mid_tones)
    reported: list[tuple[int, int]] = []
    first = measure_robustness(subject, 4, lambda done, total: reported.append((done, total)))
    assert first.images == 4
    assert reported == [(i, 83) for i in range(1, 84)]
    assert [len(result.accuracy) for result in first.corruptions] == [5] * 15
    assert [(result.name, len(result.accuracy)) for result in first.attacks] == [("FGSM", 4), ("PGD", 4)]
    assert first.mean_corrupted == pytest.approx(np.mean([result.accuracy for result in first.corruptions]))
    assert measure_robustness(subject, 4) == first
    assert msgspec.convert(json.loads(json.dumps(dataclasses.asdict(first))), Robustness) == first


def test_attacks_start_at_the_accuracy_with_the_same_views(
    linear, mid_tones: np.ndarray, make_subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that predicts from several views is attacked through all of them."""
    monkeypatch.setattr(robustness, "EPSILONS", (0,))
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"contrast": CORRUPTIONS["contrast"]})
    model, _ = linear

    def predict(network: keras.Model, images: tf.Tensor) -> tf.Tensor:
        return -network(images[:, ::-1], training=False)

    predictor = LogitsFunction(model, predict)
    logits = predictor(mid_tones)
    recipe = dataclasses.replace(TUTORIAL, predict=predict)
    subject = make_subject(
        logits, logits.argmax(axis=1).astype(np.uint8), model=model, predict_logits=predictor,
        images=mid_tones, recipe=recipe,
    )  # fmt: skip
    measured = measure_robustness(subject, 6)
    assert measured.clean == 1
    assert [attack.accuracy for attack in measured.attacks] == [(1,), (1,)]


def test_a_recipe_without_a_gradient_is_refused_by_its_cause(linear, mid_tones: np.ndarray) -> None:
    model, _ = linear
    attacker = Attacker(model, lambda network, images: network(tf.round(tf.stop_gradient(images))))
    with pytest.raises(UsageError, match="`predict` has none"):
        attacker.fgsm(mid_tones, np.zeros(6, np.uint8), 0.1)
