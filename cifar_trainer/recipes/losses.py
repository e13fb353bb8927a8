"""Losses that Keras lacks. Importing this imports TensorFlow."""

from typing import Any

import keras
import tensorflow as tf


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels and logits with label smoothing (Szegedy et al. 2016, section 7).

    The target of the label's class is 1 - smoothing + smoothing / K, that of the K - 1 others smoothing / K.
    Keras's sparse cross-entropy has no label smoothing.

    Args:
        smoothing: from 0 to below 1.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_cross_entropy")
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """float32 [B], of labels, integer [B], and logits, float32 [B, K]."""
        classes = y_pred.shape[-1]
        # A product with one-hot labels, since picking each label's logit has a gradient that scatters.
        targets = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        targets = (1.0 - self.smoothing) * targets + self.smoothing / classes
        return -tf.reduce_sum(targets * tf.nn.log_softmax(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"smoothing": self.smoothing}
