"""Convolutions in the training loop are those of Keras, without what max-pooling drops."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.recipes import get_recipe
from cifar_trainer.training import convolutions
from cifar_trainer.training.assembly import build_model
from cifar_trainer.training.convolutions import convolve, convolve_on_cpu
from cifar_trainer.training.layers import KernelVariants, choose_variants, replaced_layers

Pads = tuple[tuple[int, int], tuple[int, int]]


@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 1), (0, 1)), ((2, 0), (1, 3))])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_as_a_matrix_product_is_a_convolution(pads: Pads, stride: int) -> None:
    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(size=(3, 9, 8, 4)).astype(np.float32))
    kernel = tf.constant(draw.normal(size=(3, 2, 4, 5)).astype(np.float32))
    expected = tf.nn.conv2d(images, kernel, stride, [(0, 0), *pads, (0, 0)])
    np.testing.assert_allclose(convolve(images, kernel, (stride, stride), pads), expected, atol=1e-5)


@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 1), (0, 1)), ((1, 0), (0, 0))])
@pytest.mark.parametrize("small", [False, True])
def test_a_convolution_on_a_cpu_has_tensorflows_outputs_and_gradients(
    monkeypatch: pytest.MonkeyPatch, pads: Pads, small: bool
) -> None:
    monkeypatch.setattr(convolutions, "GRADIENT_IMAGES", 2)
    # In float32, so that rounding hides nothing.
    monkeypatch.setattr(convolutions, "_is_small", lambda size, dtype: small)
    draw = np.random.default_rng(0)
    inputs = [tf.constant(draw.normal(size=size).astype(np.float32)) for size in ((3, 9, 7, 4), (3, 2, 4, 5))]

    def plain(images: tf.Tensor, kernel: tf.Tensor, pads: Pads) -> tf.Tensor:
        return tf.nn.conv2d(tf.pad(images, [(0, 0), *pads, (0, 0)]), kernel, 1, "VALID")

    found = []
    for convolution in (convolve_on_cpu, plain):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = convolution(*inputs, pads)
            loss = tf.reduce_sum(outputs**2)
        found.append([outputs, *tape.gradient(loss, inputs)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "gpu", "conv", "left"),
    # The convolutions of both blocks of 14×14 outputs or more keep TensorFlow's gradient.
    [
        ("bfloat16", False, "auto", 3),
        ("bfloat16", False, "cudnn", 6),
        ("float32", False, "auto", 6),
        ("bfloat16", True, "cudnn", 6),
    ],
)
def test_on_a_cpu_in_bfloat16_the_kernel_gradients_of_small_convolutions_are_convolutions(
    precision: str, gpu: bool, conv: str, left: int
) -> None:
    model = build_model(get_recipe("fast94"), precision, (32, 32, 3), 10)
    variants = choose_variants(model, 64, gpu=gpu, conv=conv)

    @tf.function
    def backward(images: tf.Tensor) -> list[tf.Tensor]:
        with replaced_layers(model, variants, tf.constant(0)):
            loss = tf.reduce_sum(model(images, training=True))
        return tf.gradients(loss, [variable.value for variable in model.trainable_variables])

    graph = backward.get_concrete_function(tf.TensorSpec((64, 32, 32, 3), tf.uint8)).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("Conv2DBackpropFilter") == left


def conv(padding: str = "same", **settings: Any) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(5, 3, padding=padding, **settings)


def pool(size: int = 2, stride: int = 2, padding: str = "valid") -> keras.layers.MaxPooling2D:
    return keras.layers.MaxPooling2D(size, stride, padding)


def nested(x: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The outputs of a network within the network, of which the first is also pooled."""
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, [y := conv()(inputs), pool()(y)])(x)


def centred(x: tf.Tensor) -> tf.Tensor:
    return x - tf.reduce_mean(x, (1, 2), keepdims=True)


@pytest.mark.parametrize(
    ("network", "rows"),
    # Of images of 9×9 pixels.
    [
        (lambda x: pool()(conv()(x)), 8),
        (lambda x: pool()(conv(activation="relu", use_bias=False)(x)), 8),
        (lambda x: pool(4, 4)(conv()(x)), 8),
        (lambda x: pool(3, 3)(conv()(x)), 9),
        # Two rows are dropped, but the convolution pads by one.
        (lambda x: pool(3, 4)(conv()(x)), 8),
        (lambda x: pool()(conv("valid")(x)), 7),
        (lambda x: pool()(conv(strides=2)(x)), 5),
        (lambda x: pool(padding="same")(conv()(x)), 9),
        (lambda x: pool()(conv(activation=centred)(x)), 9),
        (lambda x: pool()(conv(activity_regularizer="l2")(x)), 9),
        (lambda x: pool()(keras.layers.BatchNormalization()(conv()(x))), 9),
        (lambda x: [y := conv()(x), pool()(y)], 9),
        (lambda x: [keras.layers.GlobalMaxPooling2D()(y := conv()(x)), pool()(y)], 9),
        (nested, 9),
        (lambda x: conv()(x), 9),
    ],
)
def test_a_convolution_does_not_compute_outputs_that_only_max_pooling_reads_and_drops(
    network: Callable[[keras.KerasTensor], Any], rows: int
) -> None:
    images = keras.Input((9, 9, 3))
    model = keras.Model(images, network(images))
    values = tf.constant(np.random.default_rng(0).normal(size=(4, 9, 9, 3)), tf.float32)

    def computed(variants: KernelVariants) -> tuple[list[tf.Tensor], int]:
        @tf.function
        def step() -> list[tf.Tensor]:
            with replaced_layers(model, variants, tf.constant(0)), tf.GradientTape() as tape:
                tape.watch(values)
                outputs = tf.nest.flatten(model(values, training=True))
                loss = tf.add_n([tf.reduce_sum(each**2) for each in outputs])
            weights = [weight.value for weight in model.trainable_weights]
            return [*outputs, *tape.gradient(loss, [values, *weights])]

        graph = step.get_concrete_function().graph
        first = next(operation for operation in graph.get_operations() if operation.type == "Conv2D")
        return step(), first.outputs[0].shape[1]

    ours, height = computed(choose_variants(model, 4, gpu=False, conv="auto"))
    assert height == rows
    for own, theirs in zip(ours, computed(KernelVariants())[0], strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=1e-3)
