"""Histograms of the weights and of the gradient's norm, for whoever asks for them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.data.dataset import Split
from cifar_trainer.training.tensorboard import EventWriter

#: Batches whose gradients are looked at.
BATCHES = 32


class EpochHistograms(keras.callbacks.Callback):
    """Writes each weight's values, and the norms of the loss's gradient over some batches.

    The gradients are computed anew at the epoch's last weights, without dropout and with
    batch normalization's moving averages: nothing that training goes on with is touched.

    Args:
        events: where they go.
        train: the training split.
        indices: of the images that are trained on, int64 [N]; the first batches of them are used.
        batch_size: images a batch.
    """

    def __init__(self, events: EventWriter, train: Split, indices: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self._events = events
        chosen = indices[: BATCHES * batch_size]
        starts = range(0, len(chosen), batch_size)
        self._batches = [
            (train.images[chosen[s : s + batch_size]], train.labels[chosen[s : s + batch_size]])
            for s in starts
        ]
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._norm = tf.function(self._gradient_norm, autograph=False, reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        norms = [float(self._norm(tf.constant(x), tf.constant(y))) for x, y in self._batches]
        self._events.write("train", lambda: self._write(norms, epoch + 1))

    def _gradient_norm(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.model(images, training=False))
        variables = [variable.value for variable in self.model.trainable_variables]
        return tf.linalg.global_norm(tape.gradient(loss, variables))

    def _write(self, norms: list[float], step: int) -> None:
        tf.summary.histogram("gradient_norm", norms, step=step)
        for variable in self.model.trainable_variables:
            tf.summary.histogram(f"weights/{variable.path}", variable.numpy(), step=step)
