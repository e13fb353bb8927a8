"""Load a trained network, convert it to float32, and compute its logits."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.errors import RunError
from cifar_trainer.images import Preprocessing

#: Images per call, fewer if they are larger than 64×64. A different number may change the last bits.
BATCH_SIZE = 500


def images_per_call(shape: Sequence[int], most: int = BATCH_SIZE) -> int:
    """How many images [N, H, W, C] to compute at once: `most`, or fewer if they are larger than 64×64."""
    return max(1, min(most, most * 64 * 64 // math.prod(shape[1:3])))


class LogitsFunction:
    """Computes logits in batches of a fixed size, compiled once.

    On a CPU, the two halves of each batch are computed in parallel, as in training.

    Args:
        model: maps uint8 [N, H, W, C] to float32 logits [N, classes].
        predict: a recipe's `predict`, which maps the model and images to logits; None uses the model alone.
        batch_size: images per call, fewer if they are large.
    """

    def __init__(
        self,
        model: keras.Model,
        predict: Callable[[keras.Model, tf.Tensor], tf.Tensor] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._model, self._predict = model, predict
        self._batch_size = images_per_call(model.inputs[0].shape, batch_size)
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._shards = 1 if gpu else 2
        self._forward = tf.function(self._logits, autograph=False, jit_compile=gpu)

    def compile(self, images: tf.Tensor) -> None:
        """Trace and compile both batch sizes of a call with these images: full batches and the last one."""
        self(images[: self._batch_size])
        rest = len(images) % self._batch_size
        if rest and len(images) > self._batch_size:
            self(images[len(images) - rest :])

    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray:
        """Logits, float32 [N, classes], of uint8 images [N, H, W, C]. A tensor is not copied to the host."""
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


def hidden_features(model: keras.Model) -> LogitsFunction:
    """A function that computes the inputs of a network's last layer: float32 [N, F] of uint8 [N, H, W, C].

    They are summed over each image and its mirror image.

    Args:
        model: maps uint8 [N, H, W, C] to logits.
    """
    last = next(layer for layer in reversed(model.layers) if layer.weights)

    def both_sides(hidden: keras.Model, images: tf.Tensor) -> tf.Tensor:
        views = [tf.cast(hidden(view, training=False), tf.float32) for view in (images, images[:, :, ::-1])]
        return tf.reshape(tf.add_n(views), [images.shape[0], -1])

    return LogitsFunction(keras.Model(model.inputs, last.input), both_sides)


def accepting(model: keras.Model, images: tf.Tensor) -> keras.Model:
    """The same layers, and so the same weights, for images of another size or dtype.

    Keras would refuse another size, and cast float images to the uint8 of the network's input.

    Args:
        model: maps uint8 [B, H, W, C] to logits.
        images: uint8 or float [B, H', W', C]. If the size differs, no layer may depend on it.
    """
    expected = model.inputs[0]
    if (images.shape[1:], images.dtype.name) == (expected.shape[1:], expected.dtype):
        return model
    inputs = keras.Input(images.shape[1:], dtype=images.dtype.name)
    # Cloning a compiled model would also clone its optimizer.
    uncompiled = keras.Model(model.inputs[0], model.outputs[0])
    return keras.models.clone_model(uncompiled, input_tensors=inputs, clone_function=lambda layer: layer)


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over the raw bytes of the model's weights, in `model.weights` order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file without executing code that it may contain.

    Raises:
        RunError: it is missing, damaged, or contains code (a Lambda layer).
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras and h5py raise all kinds of exceptions for damaged or hostile files.
        # The path could contain the words that are searched for below.
        text = str(error).replace(str(path), "it")
        if isinstance(error, ValueError) and "safe_mode=False" in text:
            raise RunError(
                f"{path} contains Python code (a Lambda layer), which loading it would execute. "
                "Use a model built from Keras's own layers."
            ) from error
        raise RunError(f"{path} is not a complete Keras model: {type(error).__name__}: {text}") from error


def is_float32(model: keras.Model) -> bool:
    """Whether all layers of a model compute in float32."""
    config = model.get_config()
    return bool(config == _with_float32_policies(config))


def to_float32(model: keras.Model) -> keras.Model:
    """The same network and weights, with every layer computing in float32.

    A model trained in mixed precision has float32 weights; only its arithmetic has lower precision. Exports
    use float32 because other runtimes do not support bfloat16.
    """
    if is_float32(model):
        return model
    copy = type(model).from_config(_with_float32_policies(model.get_config()))
    copy.set_weights(model.get_weights())
    return copy


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
    """A model with everything needed for its predictions; each export format is made from one.

    Attributes:
        model: maps uint8 [N, H, W, C] to float32 logits [N, classes]; all layers in float32.
        classes: class names, by class_id.
        preprocessing: how an image becomes the model's input.
        temperature: divides the logits before the softmax; 1 without calibration
            (Guo et al. 2017, section 4.2).
    """

    model: keras.Model
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels (3 or 1) of the input."""
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
        """`outputs`, and class_name: string [N]."""
        outputs = self.outputs(images)
        return {**outputs, "class_name": tf.gather(tf.constant(self.classes), outputs["class_id"])}
