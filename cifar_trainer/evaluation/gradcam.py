"""Grad-CAM: the parts of an image that raise a class's logit (Selvaraju et al. 2017)."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax


def last_feature_map(model: keras.Model) -> keras.layers.Layer | None:
    """The last layer with an output of [N, H, W, C] and more than one position; None if there is none.

    It has the most abstract features that still have a position (section 3). If the activation is a
    separate layer, that layer is returned.
    """
    for layer in reversed(model.layers):
        shape = tuple(getattr(getattr(layer, "output", None), "shape", ()))
        if len(shape) == 4 and None not in shape[1:3] and shape[1] * shape[2] > 1:
            return layer
    return None


class GradCam:
    """Explains a model's answers. Clones the network once, for any number of calls.

    Args:
        model: uint8 [N, H, W, C] to logits [N, classes], a functional or sequential model.
    """

    def __init__(self, model: keras.Model) -> None:
        # Clone it: layers of a loaded Sequential have several outputs, but those of a clone have one.
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        layer = last_feature_map(twin)
        self._parts = None
        if layer is not None:
            # Split the network, so that the tape can watch the feature maps.
            self._parts = keras.Model(twin.inputs, layer.output), keras.Model(layer.output, twin.outputs[0])

    def __call__(self, images: np.ndarray, classes: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """How much each position raises a class's logit.

        Equations 1 and 2: alpha_k is the mean over all positions of the derivative of the class's
        logit with respect to map k; the result is ReLU(sum of alpha_k times map k), enlarged
        bilinearly to the image's size.

        Args:
            images: uint8 [N, H, W, C].
            classes: a label for each image, [N].

        Returns:
            float32 [N, H, W] from 0 to 1, divided by the maximum of each image; all 0 if no position
            raises the logit. None if the model has no feature map.
        """
        if self._parts is None:
            return None
        to_maps, to_logits = self._parts
        maps = to_maps(tf.constant(images), training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            logits = to_logits(maps, training=False)
            score = tf.reduce_sum(tf.gather(logits, tf.constant(classes, tf.int32), batch_dims=1))
        gradients = tf.cast(tape.gradient(score, maps), tf.float32)
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        cam = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1, keepdims=True))
        large = tf.image.resize(cam, images.shape[1:3], method="bilinear")[..., 0]
        peak = tf.reduce_max(large, axis=(1, 2), keepdims=True)
        return np.asarray(tf.math.divide_no_nan(large, peak))


def representative_images(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Index of each class's most confident image: int64 [classes]; -1 for a class without images."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    chosen = np.full(logits.shape[1], -1, np.int64)
    for label in range(logits.shape[1]):
        of_class = np.flatnonzero(labels == label)
        if len(of_class):
            chosen[label] = of_class[probabilities[of_class, label].argmax()]
    return chosen
