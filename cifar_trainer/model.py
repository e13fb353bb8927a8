"""A run's trained model: loaded, checked against its run, and its logits."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.errors import RunError

#: Images a call. Fixed: another size may give other last bits.
BATCH_SIZE = 500


class LogitsFunction:
    """Computes logits in batches of one size, compiled once.

    On a CPU each batch runs as two halves side by side, one thread each, as in training.

    Args:
        model: takes uint8 [N, H, W, C], gives float32 logits [N, classes].
        predict: a recipe's `predict`: the model and images to logits; None is the model alone.
        batch_size: images a call.
    """

    def __init__(
        self,
        model: keras.Model,
        predict: Callable[[keras.Model, tf.Tensor], tf.Tensor] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._model, self._predict = model, predict
        self._batch_size = batch_size
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._shards = 1 if gpu else 2
        self._forward = tf.function(self._logits, autograph=False, jit_compile=gpu)

    def compile(self, images: tf.Tensor) -> None:
        """Trace and compile what a call with so many images needs, on its first and on its last batch."""
        self(images[: self._batch_size])
        rest = len(images) % self._batch_size
        if rest and len(images) > self._batch_size:
            self(images[len(images) - rest :])

    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray:
        """Logits, float32 [N, classes], of uint8 images [N, H, W, C]; a tensor stays on its device."""
        batches = [
            self._forward(tf.convert_to_tensor(images[start : start + self._batch_size])).numpy()
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate(batches)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        cuts = np.linspace(0, images.shape[0], min(self._shards, images.shape[0]) + 1).astype(int)
        return tf.concat([self._part(images[low:high]) for low, high in itertools.pairwise(cuts)], axis=0)

    def _part(self, images: tf.Tensor) -> tf.Tensor:
        if self._predict is None:
            return self._model(images, training=False)
        return self._predict(self._model, images)


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over the raw bytes of the model's weights, in `model.weights` order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file without running any code that it may hold.

    Raises:
        RunError: it is absent, damaged, or holds code (a Lambda layer).
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and h5py raise all sorts for a damaged or hostile file.
        # Without the path, which may hold any word.
        text = str(error).replace(str(path), "it")
        if isinstance(error, ValueError) and "safe_mode=False" in text:
            raise RunError(
                f"{path} holds Python code (a Lambda layer) that would run when it is loaded; it is refused. "
                "Use a model from cifar-trainer, or one built of Keras's own layers."
            ) from error
        raise RunError(f"{path} is not a whole Keras model: {type(error).__name__}: {text}") from error


def is_float32(model: keras.Model) -> bool:
    """Whether all of a model's layers compute in float32."""
    config = model.get_config()
    return bool(config == _with_float32_policies(config))


def to_float32(model: keras.Model) -> keras.Model:
    """The same network and weights with every layer computing in float32.

    A model that was trained in mixed precision keeps its weights in float32; only its
    arithmetic was narrower. Other runtimes have no bfloat16, so what is exported is this.
    """
    if is_float32(model):
        return model
    twin = type(model).from_config(_with_float32_policies(model.get_config()))
    twin.set_weights(model.get_weights())
    return twin


def _with_float32_policies(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return {**value, "config": {**value["config"], "name": "float32"}}
        return {key: _with_float32_policies(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_float32_policies(item) for item in value)
    return value
