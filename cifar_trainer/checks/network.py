"""Checks of a recipe that need no training step. Imports TensorFlow."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.checks.verdicts import Check
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.splits import holdout
from cifar_trainer.recipes import Recipe, diagnosis
from cifar_trainer.recipes.recipe import augmented

#: The sources of most checks.
KARPATHY = "Karpathy 2019, A Recipe for Training Neural Networks"
CS231N = "CS231n, Neural Networks"
OURS = "cifar-trainer"
#: Images to train on, images held out, and images per forward pass of a measurement.
TRAINED, HELD_OUT, MEASURED = 2048, 512, 128
#: Fraction by which the loss at the first step may exceed that of equal logits.
FIRST_LOSS = 0.5
#: Maximum relative error of a gradient, as CS231n allows for networks with kinks.
GRADIENT_ERROR = 1e-4
#: Steps of the numeric gradient, and images for which it is computed. The first is large enough for small
#: gradients; the second one crosses fewer of the millions of kinks in a large network's ReLUs.
_NUMERIC_STEPS, _GRADIENT_IMAGES = (1e-6, 1e-8), 4
#: The largest share of a layer's ReLUs that are zero for all images.
DEAD = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Training images for the checks, by purpose.

    Attributes:
        train, held_out: some training images, and others that are never trained on.
        augmented: the first images of `train` after the recipe's augmentation, uint8 or float [N, H, W, C].
        classes: number of classes.
    """

    train: Split
    held_out: Split
    augmented: np.ndarray
    classes: int

    @classmethod
    def of(cls, split: Split, recipe: Recipe, classes: int) -> "Samples":
        """Choose images of a training split, stratified; a fifth is held out if there are few."""
        aside = min(HELD_OUT, len(split) // 5)
        _, chosen = holdout(split.labels, min(TRAINED + aside, len(split)), seed=0)
        # Hold out some of the chosen images, not of the whole split, so that both parts have all classes.
        left, out = holdout(split.labels[chosen], aside, seed=1)
        train, held_out = split.take(chosen[left]), split.take(chosen[out])
        return cls(train, held_out, augmented(recipe, train.images[:MEASURED], 1)[0], classes)

    @property
    def images(self) -> np.ndarray:
        """The images that `augmented` shows, before augmentation."""
        return self.train.images[: len(self.augmented)]

    @property
    def labels(self) -> np.ndarray:
        """The labels of `images`."""
        return self.train.labels[: len(self.augmented)]


def check_network(recipe: Recipe, model: keras.Model, samples: Samples) -> Iterator[Check]:
    """The checks of the network, the loss and the augmentation before the first step."""
    logits = np.asarray(model(samples.images, training=False))
    yield _verdict(
        "output",
        diagnosis.softmax_fault(logits),
        "logits",
        "The network returns logits.",
        "Keras, from_logits",
    )
    loss = recipe.loss()
    try:
        fault = diagnosis.loss_fault(loss, samples.classes)
    except Exception as error:  # The recipe's code can raise any exception.
        text = str(error).strip().partition("\n")[0]
        fault = f"the loss does not accept integer labels and logits: {text}"
    yield _verdict(
        "loss function", fault, "lowest for the label",
        "The loss is lowest for the label, and depends on negative logits.", "Keras, from_logits",
    )  # fmt: skip
    spread, trained = (diagnosis.input_spread(model, each) for each in (samples.images, samples.augmented))
    yield _verdict(
        "input scale", diagnosis.scale_fault(spread, trained), "0.02 to 20, also in prediction",
        "Standard deviation of the inputs of the first trained layer.", f"{CS231N} 2, preprocessing", trained,
    )  # fmt: skip
    yield _verdict(
        "nonlinearities", diagnosis.linear_fault(model), "one between linear layers",
        "No two convolutions or dense layers follow each other directly.", f"{CS231N} 1",
    )  # fmt: skip
    yield _verdict(
        "dropout", diagnosis.dropout_fault(model, samples.images), "not on the logits",
        "No logit is dropped.", "Srivastava et al. 2014",
    )  # fmt: skip
    yield _verdict(
        "frozen layers", diagnosis.frozen_fault(model, recipe.initialize is not None), "no random weights",
        "Every layer is trained, or set by the recipe.", OURS,
    )  # fmt: skip
    yield _first_loss(recipe, model, samples)
    yield _augmentation_in_place(recipe, samples)
    yield from _gradient_checks(recipe, model, samples)


def _verdict(
    name: str, fault: str | None, expected: str, message: str, source: str, measured: float | None = None
) -> Check:
    text = message if fault is None else fault[0].upper() + fault[1:]
    return Check(name, fault is None, measured, expected, text, source)


def mean_loss(loss: keras.losses.Loss, labels: np.ndarray, logits: Any) -> float:
    """The mean loss of labels [N] and logits [N, K]."""
    return float(tf.reduce_mean(loss(labels, logits)))


def _first_loss(recipe: Recipe, model: keras.Model, samples: Samples) -> Check:
    loss = recipe.loss()
    equal = mean_loss(loss, samples.labels, np.zeros((len(samples.labels), samples.classes), np.float32))
    # As in training, where batch normalization uses the batch's statistics.
    measured = mean_loss(loss, samples.labels, model(samples.augmented, training=True))
    expected = f"{equal:.3f}"
    if abs(equal - math.log(samples.classes)) < 1e-3:
        expected = f"ln {samples.classes} = {expected}"
    fault = None
    if not measured < equal * (1 + FIRST_LOSS):
        fault = (
            f"the loss at the first step is {measured:.3g}: the untrained network is confident. Expected "
            f"about {equal:.3g}, the loss of equal logits. Scale the inputs, or "
            "initialize the last layer with smaller weights."
        )
    return _verdict(
        "loss at the first step", fault, expected, "The untrained network favours no class.",
        f"{KARPATHY}: verify loss @ init", measured,
    )  # fmt: skip


def _augmentation_in_place(recipe: Recipe, samples: Samples) -> Check:
    """Whether changing one image changes other augmented images."""
    name, expected = "augmentation keeps labels", "each image is augmented on its own"
    if recipe.augment is None:
        return Check(name, True, None, expected, "The recipe has no augmentation.", OURS)
    changed = samples.images.copy()
    changed[0] = 255 - changed[0]
    others = augmented(recipe, changed, 1)[0][1:] != samples.augmented[1:]
    count = int(others.any(axis=(1, 2, 3)).sum())
    fault = None
    if count:
        fault = (
            f"changing the first image of a batch changes {count} others after augmentation: images are "
            "mixed or move away from their labels. Augment each image on its own."
        )
    return _verdict(
        name, fault, expected, "Changing one image changes only that image after augmentation.", OURS, count
    )


def _gradient_checks(recipe: Recipe, model: keras.Model, samples: Samples) -> Iterator[Check]:
    leak, exact = "gradient of one image", "numeric gradient"
    sources = f"{KARPATHY}: use backprop to chart dependencies", f"{CS231N} 3, gradient checks"
    expected = "0 to the other images", f"relative error up to {GRADIENT_ERROR:g}"
    images = tf.constant(samples.images[:_GRADIENT_IMAGES], tf.float64)
    labels = tf.constant(samples.labels[:_GRADIENT_IMAGES])
    try:
        double = as_float64(model)
        leaks = [_leak(double, images, training) for training in (False, True)]
        errors = _gradient_errors(double, recipe.loss(), images, labels)
    except Exception as error:  # Operations that fix a dtype cannot compute in float64.
        text = f"Not measured: the network does not compute in float64 ({type(error).__name__})."
        yield Check(leak, True, None, expected[0], text, sources[0])
        yield Check(exact, True, None, expected[1], text, sources[1])
        return
    normalizes = any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in model._flatten_layers(include_self=False)
    )
    fault = None
    if leaks[0] > 0:
        fault = (
            f"in prediction, {leaks[0]:.1%} of the gradient of one image's logits reaches the other images: "
            "a prediction depends on the rest of the batch. Call normalization layers without training=True, "
            "and combine values within an image only."
        )
    elif leaks[1] > 0 and not normalizes:
        fault = (
            f"in training, {leaks[1]:.1%} of the gradient of one image's logits reaches the other images, "
            "and the network has no batch normalization. Combine values within an image only."
        )
    message = "A prediction depends on its own image only."
    if normalizes:
        message += f" In training, batch normalization sends {leaks[1]:.1%} of it to the other images."
    yield _verdict(leak, fault, expected[0], message, sources[0], leaks[0])
    worst = max(errors, key=lambda name: errors[name])
    fault = None
    if not errors[worst] <= GRADIENT_ERROR:
        fault = (
            f"the gradient of {worst} differs from the numeric one by {errors[worst]:.2g} of its size. Look "
            "for stop_gradient, rounding or a custom gradient in the loss or the network."
        )
    yield _verdict(
        exact, fault, expected[1], f"Largest relative error of a layer, in float64 ({worst}).", sources[1],
        errors[worst],
    )  # fmt: skip


def as_float64(model: keras.Model) -> keras.Model:
    """The same network and weights, with float64 images [N, H, W, C] as input and all layers in float64."""
    copy = type(model).from_config(_with_float64(model.get_config()))
    copy.set_weights(model.get_weights())
    return copy


def _with_float64(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return {**value, "config": {**value["config"], "name": "float64"}}
        items = {key: _with_float64(item) for key, item in value.items()}
        return {**items, "dtype": "float64"} if isinstance(value.get("dtype"), str) else items
    if isinstance(value, list | tuple):
        return type(value)(_with_float64(item) for item in value)
    return value


def _leak(model: keras.Model, images: tf.Tensor, training: bool) -> float:
    """The share of the gradient of the first image's logits that reaches the other images."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=training)
        # Combine the logits at random: the sum of normalized values would be constant.
        value = tf.reduce_sum(logits[0] * tf.cast(tf.range(1, logits.shape[1] + 1), logits.dtype))
    gradient = np.abs(tape.gradient(value, images).numpy()).reshape(len(images), -1).sum(axis=1)
    return float(gradient[1:].sum() / max(gradient.sum(), 1e-300))


def _gradient_errors(
    model: keras.Model, loss: keras.losses.Loss, images: tf.Tensor, labels: tf.Tensor
) -> dict[str, float]:
    """The relative error of each trainable variable's gradient along one direction, by its path."""

    def value() -> tf.Tensor:
        # Not `loss(...)`, which casts to float32.
        return tf.reduce_mean(loss.call(labels, model(images, training=False)))

    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        start = value()
    gradients = tape.gradient(start, [variable.value for variable in variables])
    generator, errors = np.random.default_rng(0), {}
    for variable, gradient in zip(variables, gradients, strict=True):
        slope = np.zeros(variable.shape) if gradient is None else np.asarray(gradient)
        direction = generator.normal(size=variable.shape)
        direction /= np.linalg.norm(direction)
        # A direction close to the gradient, so that the slope is not lost in rounding.
        direction += slope / max(np.linalg.norm(slope), 1e-300)
        at, analytic, error = np.asarray(variable), float((slope * direction).sum()), np.inf
        for step in _NUMERIC_STEPS:
            sides = []
            for sign in (1, -1):
                variable.assign(at + sign * step * direction)
                sides.append(float(value()))
            numeric = (sides[0] - sides[1]) / (2 * step)
            largest = max(abs(numeric), abs(analytic))
            # A smaller difference of two losses is rounding error.
            error = min(error, abs(numeric - analytic) / largest if largest > 1e-7 else 0.0)
            if error <= GRADIENT_ERROR:
                break
        variable.assign(at)
        errors[variable.path] = error
    return errors


def dead_units(model: keras.Model, images: np.ndarray) -> dict[str, float]:
    """The share of each ReLU layer's units that are zero for all images, by the layer's name."""
    relus = [layer for layer in model.layers if _is_relu(layer) and len(layer._inbound_nodes) == 1]
    if not relus:
        return {}
    outputs = keras.Model(model.inputs[0], [layer.output for layer in relus])(images, training=True)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return {
        layer.name: float((np.asarray(tf.reduce_max(output, axis=range(len(output.shape) - 1))) <= 0).mean())
        for layer, output in zip(relus, outputs, strict=True)
    }


def dead_check(dead: dict[str, float]) -> Check:
    """The check of the layer with the most dead ReLUs."""
    worst = max(dead, key=lambda layer: dead[layer])
    fault = None
    if dead[worst] > DEAD:
        fault = (
            f"{dead[worst]:.0%} of the units of {worst} are zero for all images, before training. Use a bias "
            "of zero, and an initializer such as he_normal."
        )
    return _verdict(
        "dead ReLUs", fault, f"at most {DEAD:.0%} of a layer",
        f"Largest share of units that are zero for all images, before training ({worst}).",
        f"{CS231N} 1, ReLU", dead[worst],
    )  # fmt: skip


def _is_relu(layer: keras.layers.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    return type(layer) is keras.layers.ReLU or activation is keras.activations.relu
