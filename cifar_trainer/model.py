"""A trained network: loaded, turned into float32, and asked for logits."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.errors import RunError
from cifar_trainer.images import Preprocessing

#: Images per call. Another size may change the last bits.
BATCH_SIZE = 500


class LogitsFunction:
    """Computes logits in batches of one size, compiled once.

    On a CPU each batch is computed as two halves in parallel, one thread each, as in training.

    Args:
        model: from uint8 [N, H, W, C] to float32 logits [N, classes].
        predict: a recipe's `predict`, from the model and images to logits; None uses the model alone.
        batch_size: images per call.
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
        """Trace and compile the batches of a call with these images: the full ones and the last one."""
        self(images[: self._batch_size])
        rest = len(images) % self._batch_size
        if rest and len(images) > self._batch_size:
            self(images[len(images) - rest :])

    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray:
        """Logits, float32 [N, classes], of uint8 images [N, H, W, C]. A tensor stays on its device."""
        batches = [
            self._forward(tf.convert_to_tensor(images[start : start + self._batch_size])).numpy()
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate(batches)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        cuts = np.linspace(0, images.shape[0], min(self._shards, images.shape[0]) + 1).astype(int)
        return tf.concat([self._shard(images[low:high]) for low, high in itertools.pairwise(cuts)], axis=0)

    def _shard(self, images: tf.Tensor) -> tf.Tensor:
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
    """Load a `.keras` file without executing code that it may hold.

    Raises:
        RunError: it is missing, damaged, or holds code (a Lambda layer).
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and h5py raise all kinds for a damaged or hostile file.
        # The path may contain any word.
        text = str(error).replace(str(path), "it")
        if isinstance(error, ValueError) and "safe_mode=False" in text:
            raise RunError(
                f"{path} holds Python code (a Lambda layer), which loading would execute, so it is refused. "
                "Use a model built of Keras's own layers."
            ) from error
        raise RunError(f"{path} is not a complete Keras model: {type(error).__name__}: {text}") from error


def is_float32(model: keras.Model) -> bool:
    """Whether all of a model's layers compute in float32."""
    config = model.get_config()
    return bool(config == _with_float32_policies(config))


def to_float32(model: keras.Model) -> keras.Model:
    """The same network and weights with every layer computing in float32.

    A model trained in mixed precision has float32 weights; only its arithmetic is narrower. Exports
    use this model, since other runtimes do not support bfloat16.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model with all that its answers need; every export format is made from one.

    Attributes:
        model: uint8 [N, H, W, C] to float32 logits [N, classes], all layers in float32.
        classes: the names, by class_id.
        preprocessing: how any image becomes the model's input.
        temperature: divides the logits before the softmax; 1 without calibration
            (Guo et al. 2017, section 4.2).
    """

    model: keras.Model
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels (3 or 1) of its input."""
        return self.preprocessing.image_shape

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits and probabilities, float32 [N, classes], and class_id, int64 [N], of uint8 [N, H, W, C]."""
        logits = self.model(images, training=False)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits / self.temperature),
            "class_id": tf.argmax(logits, axis=-1),
        }

    def named_outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same, with class_name: string [N]."""
        outputs = self.outputs(images)
        return {**outputs, "class_name": tf.gather(tf.constant(self.classes), outputs["class_id"])}
