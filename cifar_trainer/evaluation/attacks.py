"""Pictures changed on purpose, by so little that nobody sees it, to mislead a network.

Both attacks know the network. They move each value of a picture, taken as 0 to 1, by at
most epsilon, in the direction in which the loss grows.
"""

import keras
import numpy as np
import tensorflow as tf

#: Iterations of PGD; each step is 2.5 · epsilon / STEPS long (Madry et al. 2018, as in their code).
STEPS = 10
BATCH_SIZE = 500


class Attacker:
    """Attacks a model.

    Args:
        model: uint8 [N, 32, 32, 3] to logits [N, classes], whose first layer takes 0 to 255.
        seed: of PGD's random starts.
    """

    def __init__(self, model: keras.Model, seed: int = 0) -> None:
        # The same network on pictures that need not be whole numbers, so that there is a gradient.
        self._model = keras.models.clone_model(model, input_tensors=keras.Input((32, 32, 3), dtype="float32"))
        self._model.set_weights(model.get_weights())
        self._seed = seed
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._compiled_fgsm = tf.function(self._fgsm, autograph=False, jit_compile=gpu)
        self._compiled_pgd = tf.function(self._pgd, autograph=False, jit_compile=gpu)

    def fgsm(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """One step along the sign of the gradient (Goodfellow et al. 2015, section 4).

        Args:
            images: uint8 [N, 32, 32, 3].
            labels: integer [N].
            epsilon: the most that a value changes, of 0 to 1.

        Returns:
            The logits of the changed pictures, float32 [N, classes].
        """
        return np.concatenate(
            [
                self._compiled_fgsm(pictures, truth, tf.constant(epsilon, tf.float32)).numpy()
                for pictures, truth, _ in _batches(images, labels)
            ]
        )

    def pgd(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """Many small steps from a random start, kept within epsilon (Madry et al. 2018, section 2.1).

        Arguments and result as of `fgsm`.
        """
        return np.concatenate(
            [
                self._compiled_pgd(
                    pictures, truth, tf.constant(epsilon, tf.float32), tf.constant([self._seed, start])
                ).numpy()
                for pictures, truth, start in _batches(images, labels)
            ]
        )

    def _fgsm(self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
        changed = images + epsilon * tf.sign(self._gradient(images, labels))
        return self._logits(tf.clip_by_value(changed, 0.0, 1.0))

    def _pgd(self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        low = tf.maximum(images - epsilon, 0.0)
        high = tf.minimum(images + epsilon, 1.0)
        start = images + tf.random.stateless_uniform(tf.shape(images), seed, -1, 1, alg="philox") * epsilon
        step = 2.5 * epsilon / STEPS

        def ascend(i: tf.Tensor, changed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = changed + step * tf.sign(self._gradient(changed, labels))
            return i + 1, tf.clip_by_value(moved, low, high)

        _, changed = tf.while_loop(
            lambda i, _: i < STEPS, ascend, (tf.constant(0), tf.clip_by_value(start, low, high))
        )
        return self._logits(changed)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(images * 255.0, training=False)

    def _gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self._logits(images))
            loss = tf.reduce_sum(losses)
        return tape.gradient(loss, images)


def _batches(images: np.ndarray, labels: np.ndarray) -> list[tuple[tf.Tensor, tf.Tensor, int]]:
    starts = range(0, len(images), BATCH_SIZE)
    return [
        (
            tf.constant(images[start : start + BATCH_SIZE].astype(np.float32) / np.float32(255)),
            tf.constant(labels[start : start + BATCH_SIZE].astype(np.int32)),
            start,
        )
        for start in starts
    ]
