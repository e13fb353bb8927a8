"""Find faults of a recipe without training it. Imports TensorFlow.

Each function returns what is wrong as a sentence with its remedy, or None. `train` calls them for custom
recipes before the first step; `check training` calls them for every recipe.
"""

import keras
import numpy as np
import tensorflow as tf

#: Standard deviation of the values that reach the first trained layer: 0.25 for pixels divided by 255, 1 for
#: standardized pixels, 64 for pixels from 0 to 255, 0.001 for pixels that were divided by 255 twice.
INPUT_SCALE = (0.02, 20.0)
#: The largest ratio of that standard deviation in training to the one in prediction.
SCALE_RATIO = 3.0
#: How much a logit is raised, and all logits are lowered, to test a loss.
_RAISED, _LOWERED = 5.0, 20.0
#: Layers that are affine functions of their input in prediction.
_AFFINE = (
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
)


def softmax_fault(logits: np.ndarray) -> str | None:
    """Whether a network's output, float [N, K], is the output of a softmax."""
    if logits.shape[1] > 1 and (logits >= 0).all() and np.allclose(logits.sum(axis=-1), 1, atol=1e-3):
        return (
            "the network ends in a softmax. Expected logits: remove the activation of the last layer; the "
            "loss and predictions apply the softmax."
        )
    return None


def loss_fault(loss: keras.losses.Loss, classes: int) -> str | None:
    """Whether a loss does not rank the label's logit first, or has no gradient for negative logits.

    Raises:
        Exception: the loss does not accept labels, uint8 [B], and logits, float32 [B, classes].
    """
    if classes == 1:
        return None
    labels = np.arange(classes, dtype=np.uint8)
    right = np.eye(classes, dtype=np.float32) * _RAISED
    # The raised logit is that of the next class.
    wrong = np.roll(right, 1, axis=1)
    for label in range(classes):
        pair = [
            float(np.mean(loss(labels[label : label + 1], logits[label : label + 1])))
            for logits in (right, wrong)
        ]
        if not pair[0] < pair[1]:
            return (
                f"the loss is {pair[0]:.4g} if the logit of label {label} is the highest, and {pair[1]:.4g} "
                "if another one is. Expected a lower loss for the label: use a cross-entropy of integer "
                "labels, such as SparseCategoricalCrossentropy(from_logits=True)."
            )
    logits = tf.constant(wrong - _LOWERED)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = tf.reduce_mean(loss(labels, logits))
    gradient = tape.gradient(value, logits)
    if gradient is None or not np.abs(gradient.numpy()).max() > 1e-6:
        return (
            "the loss does not change with negative logits: it expects probabilities. Expected a loss from "
            "logits: pass from_logits=True."
        )
    return None


def first_trained_input(model: keras.Model) -> keras.Model | None:
    """The part of a network before its first layer with trainable weights; None if it cannot be cut there."""
    for layer in model.layers:
        if layer.trainable_weights and layer._inbound_nodes:
            source = layer.input
            return None if isinstance(source, list | dict) else keras.Model(model.inputs[0], source)
    return None


def input_spread(model: keras.Model, images: np.ndarray | tf.Tensor) -> float | None:
    """Standard deviation of what reaches the first trained layer for images [N, H, W, C], or None."""
    before = first_trained_input(model)
    if before is None:
        return None
    return float(np.std(np.asarray(tf.cast(before(images, training=False), tf.float32))))


def scale_fault(spread: float | None, trained: float | None = None) -> str | None:
    """Whether inputs are scaled badly, in prediction or (`trained`) after augmentation."""
    low, high = INPUT_SCALE
    for name, value in (("in training", trained), ("", spread)):
        if value is None:
            continue
        where = "the first trained layer" + (f" {name}" if name else "")
        if value < 1e-6:
            return f"the inputs of {where} are constant, whatever the image. Expected its pixels."
        if value < low:
            return (
                f"the inputs of {where} have a standard deviation of {value:.2g}; expected about 0.2 to 1. "
                "Are the pixels scaled twice?"
            )
        if value > high:
            return (
                f"the inputs of {where} have a standard deviation of {value:.2g}; expected about 0.2 to 1. "
                "Scale the pixels in the network, such as with Rescaling(1 / 255)."
            )
    if spread and trained and max(spread / trained, trained / spread) > SCALE_RATIO:
        return (
            f"the inputs of the first trained layer have a standard deviation of {trained:.2g} in training "
            f"and {spread:.2g} in prediction. Scale the pixels in the network only, not in augment."
        )
    return None


def linear_fault(model: keras.Model) -> str | None:
    """Whether a convolution or dense layer follows another one without a nonlinearity in between."""
    for layer in model._flatten_layers(include_self=False):
        before = _linear_before(layer) if _is_linear(layer) else None
        if before is None:
            continue
        # A narrow middle is a factorization into two smaller layers, which is a choice.
        middle, around = before.kernel.shape[-1], (before.kernel.shape[-2], layer.kernel.shape[-1])
        if middle >= min(around):
            return (
                f"the layers {before.name!r} and {layer.name!r} have no nonlinearity in between, so they can "
                f"do no more than one layer. Add an activation, such as activation='relu' in {before.name!r}."
            )
    return None


def _is_linear(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
        and bool(layer.trainable_weights)
        and layer.activation is keras.activations.linear
    )


def _linear_before(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The linear layer whose output reaches `layer` through affine layers only."""
    while len(layer._inbound_nodes) == 1:
        parents = layer._inbound_nodes[0].parent_nodes
        if len(parents) != 1:
            return None
        layer = parents[0].operation
        if _has_activation(layer):
            return None
        if type(layer) in (keras.layers.Conv2D, keras.layers.Dense):
            # A frozen layer, such as a whitening transform, is preprocessing.
            return layer if _is_linear(layer) else None
        if not isinstance(layer, _AFFINE):
            return None
    return None


def _has_activation(layer: keras.layers.Layer) -> bool:
    activation = getattr(layer, "activation", keras.activations.linear)
    return activation is not keras.activations.linear


def dropout_fault(model: keras.Model, images: np.ndarray) -> str | None:
    """Whether logits are dropped in training: exact zeros that are not there in prediction."""
    dropped = (np.asarray(model(images, training=True)) == 0).mean()
    if dropped > 0.01 and not (np.asarray(model(images, training=False)) == 0).mean() > 0.01:
        return (
            f"{dropped:.0%} of the logits are zero in training: dropout acts on the logits. Move it before "
            "the last layer."
        )
    return None


def frozen_fault(model: keras.Model, initialized: bool) -> str | None:
    """Whether a layer has weights, but trains none of them.

    Args:
        model: the network.
        initialized: whether the recipe's `initialize` sets weights, such as pretrained ones.
    """
    frozen = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if getattr(layer, "kernel", None) is not None and not layer.trainable_weights
    ]
    if not frozen or initialized:
        return None
    return (
        f"the weights of {', '.join(map(repr, frozen[:3]))} are frozen at their random initial values. "
        "Remove trainable=False, or set the weights in the recipe's initialize."
    )
