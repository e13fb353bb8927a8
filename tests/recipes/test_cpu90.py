"""Muon, which trains fast94 and cpu90, rates that end early, and the mean of four views."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.recipes import cpu90
from cifar_trainer.recipes.optimizers import Muon, Nesterov, Schedule, orthogonalized

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(216, 32), (32, 216)])
def test_an_update_moves_all_directions_about_equally_and_keeps_their_order(shape: tuple[int, int]) -> None:
    """Its singular vectors are the matrix's; its singular values are near 1, unlike the matrix's."""
    left, _, right = np.linalg.svd(DRAW.normal(size=shape), full_matrices=False)
    matrix = (left * np.linspace(1, 0.1, 32)) @ right
    (update,) = (each.numpy() for each in orthogonalized([tf.constant(matrix, tf.float32)]))
    inside = left.T @ update @ right.T
    values = np.diag(inside)
    np.testing.assert_allclose(inside, np.diag(values), atol=1e-3)
    assert 0.5 < values.min() < values.max() < 1.3


def test_updates_of_several_kernels_are_those_of_each_alone() -> None:
    shapes = [(216, 32), (72, 16), (32, 216), (288, 32)]
    matrices = [tf.constant(DRAW.normal(size=shape), tf.float32) for shape in shapes]
    for matrix, update in zip(matrices, orthogonalized(matrices), strict=True):
        np.testing.assert_allclose(update, orthogonalized([matrix])[0], atol=1e-5)


def test_a_kernel_is_scaled_to_the_norm_of_its_filters_before_each_step() -> None:
    kernel = keras.Variable(DRAW.normal(size=(3, 3, 8, 16)), dtype="float32", name="kernel")
    optimizer = Muon(0.1, kernel_momentum=0.5, momentum=0.9)
    optimizer.build([kernel])
    gradients = [DRAW.normal(size=(3, 3, 8, 16)).astype(np.float32) for _ in range(2)]
    velocity = np.zeros((3, 3, 8, 16))
    for gradient in gradients:
        before = kernel.numpy()
        optimizer.apply([tf.constant(gradient)], [kernel])
        velocity = 0.5 * velocity + gradient
        ahead = tf.constant((gradient + 0.5 * velocity).reshape(72, 16), tf.float32)
        step = 0.1 * orthogonalized([ahead])[0].numpy().reshape(3, 3, 8, 16)
        np.testing.assert_allclose(kernel.numpy(), before * 4 / np.linalg.norm(before) - step, atol=1e-5)


def test_a_bias_takes_a_step_of_nesterov_momentum() -> None:
    bias = keras.Variable([1.0], name="bias")
    optimizer = Muon(0.1, kernel_momentum=0.5, momentum=0.9, scales={"bias": 2.0})
    optimizer.build([bias])
    optimizer.apply([tf.constant([0.5])], [bias])
    assert bias.numpy()[0] == pytest.approx(1 - 0.2 * (0.5 + 0.9 * 0.5))


def test_a_rate_that_ends_early_falls_linearly_to_0_and_stays_there() -> None:
    early, late = (keras.Variable([1.0], name=name) for name in ("early", "late"))
    rate = Schedule("linear", 0.1, 10)
    optimizer = Nesterov(rate, 0.0, ends={"early": 0.5}, total_steps=10)
    optimizer.build([early, late])
    moves = []
    for _ in range(10):
        before = float(early.numpy()[0]), float(late.numpy()[0])
        optimizer.apply([tf.constant([1.0])] * 2, [early, late])
        moves.append((before[0] - float(early.numpy()[0]), before[1] - float(late.numpy()[0])))
    expected = [(max(0.1 * (1 - step / 5), 0), 0.1 * (1 - step / 10)) for step in range(10)]
    np.testing.assert_allclose(moves, expected, atol=1e-6)


def test_predictions_are_the_mean_of_four_views() -> None:
    model = cpu90.build_model((32, 32, 3), 10)
    images = DRAW.integers(0, 256, (2, 32, 32, 3), np.uint8)
    right = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)), "reflect")[:, :-1, :-1]
    left = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), "reflect")[:, 1:, 1:]
    views = [images, images[:, :, ::-1], right, left[:, :, ::-1]]
    expected = np.mean([model(view).numpy() for view in views], axis=0)
    np.testing.assert_allclose(cpu90.predict(model, tf.constant(images)).numpy(), expected, atol=1e-5)
