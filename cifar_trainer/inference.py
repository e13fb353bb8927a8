"""Logits of a Keras model for many images, the same to the bit wherever they are asked for.

Training's validation, `evaluate` and the proof of an export all go through here, so that
one process repeats another's figures.
"""

import hashlib
import itertools

import keras
import numpy as np
import tensorflow as tf

#: Images a call. Fixed: another size may give other last bits.
BATCH_SIZE = 500


class Predictor:
    """Computes logits in batches of one size, compiled once.

    On a CPU each batch runs as two halves side by side, one thread each, as in training.

    Args:
        model: takes uint8 [N, 32, 32, 3], gives float32 logits [N, classes].
        batch_size: images a call.
    """

    def __init__(self, model: keras.Model, batch_size: int = BATCH_SIZE) -> None:
        self._model = model
        self._batch_size = batch_size
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._shards = 1 if gpu else 2
        self._forward = tf.function(self._logits, autograph=False, jit_compile=gpu)

    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray:
        """Logits, float32 [N, classes], of uint8 images [N, 32, 32, 3]; a tensor stays on its device."""
        batches = [
            self._forward(tf.convert_to_tensor(images[start : start + self._batch_size])).numpy()
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate(batches)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        cuts = np.linspace(0, images.shape[0], min(self._shards, images.shape[0]) + 1).astype(int)
        parts = [self._model(images[low:high], training=False) for low, high in itertools.pairwise(cuts)]
        return tf.concat(parts, axis=0)


def predict_logits(model: keras.Model, images: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Logits, float32 [N, classes], of uint8 images [N, 32, 32, 3]."""
    return Predictor(model, batch_size)(images)


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over the raw bytes of the model's weights, in `model.weights` order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()
