"""Each ingredient of fast94 against a computation of its own."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.recipes import Batch
from cifar_trainer.recipes import fast94 as recipe
from cifar_trainer.recipes.fast94 import FAST94
from cifar_trainer.recipes.optimizers import Nesterov, Schedule
from cifar_trainer.training.assembly import build_model

DRAW = np.random.default_rng(0)
#: Images whose neighbouring pixels are alike, as those of photographs are.
IMAGES = np.clip(
    np.cumsum(DRAW.normal(0, 12, (300, 32, 32, 3)), axis=1) + DRAW.normal(128, 40, (300, 1, 32, 3)), 0, 255
).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    built = recipe.build_model((32, 32, 3), 10)
    recipe.initialize(built, IMAGES)
    return built


def test_what_is_trained_are_three_blocks_and_the_head(model: keras.Model) -> None:
    convolutions = sum(
        9 * a * b for a, b in ((24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256))
    )
    biases = 2 * (64 + 256 + 256)
    trained = convolutions + biases + 256 * 10
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == trained


def test_whitened_patches_have_unit_covariance(model: keras.Model) -> None:
    normalized = model.get_layer("normalize")(IMAGES.astype(np.float32))
    kernel = model.get_layer("whiten").kernel
    patches = tf.nn.conv2d(normalized, kernel, 1, "VALID").numpy().reshape(-1, 24)[:, :12].astype(np.float64)
    covariance = patches.T @ patches / len(patches)
    variances = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-4)
    # The epsilon makes the directions of least variance smaller than 1.
    assert variances[:6] == pytest.approx(1, abs=0.01)


def test_the_other_half_of_the_whitening_filters_is_the_first_negated(model: keras.Model) -> None:
    kernel = model.get_layer("whiten").kernel.numpy()
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_the_first_layer_computes_in_float32_at_every_precision(model: keras.Model) -> None:
    """In bfloat16, the last filters' outputs would be wrong by a tenth."""
    mixed = build_model(FAST94, "bfloat16", (32, 32, 3), 10)
    mixed.get_layer("whiten").kernel.assign(model.get_layer("whiten").kernel)
    found, expected = (
        each.get_layer("whiten")(each.get_layer("normalize")(IMAGES)) for each in (mixed, model)
    )
    np.testing.assert_array_equal(found, expected)


def test_the_whitening_kernel_is_not_trained(model: keras.Model) -> None:
    assert all(weight.path != "fast94/whiten/kernel" for weight in model.trainable_weights)
    assert model.get_layer("whiten").kernel.path.endswith("whiten/kernel")


def test_a_convolution_begins_by_passing_its_inputs_on(model: keras.Model) -> None:
    images = DRAW.normal(size=(2, 7, 7, 64)).astype(np.float32)
    passed = tf.nn.conv2d(images, model.get_layer("conv2a").kernel, 1, "SAME").numpy()
    np.testing.assert_allclose(passed[..., :64], images, atol=1e-5)


def batch_of(indices: np.ndarray, epoch: int, step: int = 3) -> Batch:
    seed = tf.constant([77, step], tf.int32)
    labels = tf.zeros(len(indices), tf.uint8)
    images = tf.constant(IMAGES[indices])
    return Batch(images, labels, tf.constant(indices), tf.constant(epoch), tf.constant(step), seed)


def test_two_epochs_show_each_image_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "TRANSLATION", 0)
    indices = DRAW.permutation(300)
    first, second = (recipe.augment(batch_of(indices, epoch)).numpy() for epoch in (4, 5))
    np.testing.assert_array_equal(first, second[:, :, ::-1])


def test_half_of_the_images_begin_flipped() -> None:
    flipped = recipe.flips_first(tf.range(50_000, dtype=tf.int64), tf.constant(5)).numpy()
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / 50_000**0.5


def test_which_images_begin_flipped_follows_from_the_seed() -> None:
    one, other = (recipe.flips_first(tf.range(1000, dtype=tf.int64), tf.constant(s)).numpy() for s in (1, 2))
    assert 0.4 < (one == other).mean() < 0.6


def test_a_moved_image_is_a_part_of_the_image_padded_by_its_reflection() -> None:
    indices = np.arange(60)
    moved = recipe.augment(batch_of(indices, 0)).numpy()
    flips = recipe.flips_first(tf.constant(indices), tf.constant(77)).numpy()
    padded = np.pad(IMAGES[:60], ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    for image, whole, flip in zip(moved, padded, flips, strict=True):
        straight = image[:, ::-1] if flip else image
        parts = [whole[y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
        assert any(np.array_equal(straight, part) for part in parts)


def by_hand(gradients: list[float], scale: float) -> list[float]:
    """PyTorch's SGD with Nesterov's momentum, of one weight that begins at 1; rate 0.1, m 0.5, decay 0.01."""
    weight, velocity, weights = 1.0, 0.0, []
    for gradient in gradients:
        total = gradient + 0.01 * weight
        velocity = 0.5 * velocity + total
        weight -= 0.1 * scale * (total + 0.5 * velocity)
        weights.append(weight)
    return weights


@pytest.mark.parametrize(("path", "scale"), [("kernel", 1.0), ("beta", 64.0)])
def test_a_step_is_that_of_nesterovs_momentum(path: str, scale: float) -> None:
    variable = keras.Variable([1.0], name=path.rpartition("/")[2])
    variable._path = path
    rate = Schedule("constant", 0.1, 10)
    optimizer = Nesterov(rate, 0.5, 0.01, {"beta": 64.0})
    optimizer.build([variable])
    found = []
    for gradient in (0.3, -0.2, 0.5, 0.1):
        optimizer.apply([tf.constant([gradient])], [variable])
        found.append(float(variable.numpy()[0]))
    assert found == pytest.approx(by_hand([0.3, -0.2, 0.5, 0.1], scale), rel=1e-5)


def test_predictions_are_the_weighted_mean_of_six_views(model: keras.Model) -> None:
    padded = np.pad(IMAGES[:4], ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    views = {(0, 0): IMAGES[:4], (-1, -1): padded[:, :32, :32], (1, 1): padded[:, 2:, 2:]}
    expected = np.zeros((4, 10))
    for move, view in views.items():
        both = model(view).numpy() + model(view[:, :, ::-1]).numpy()
        expected += (0.5 if move == (0, 0) else 0.25) / 2 * both
    found = recipe.predict(model, tf.constant(IMAGES[:4])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
