"""The network that every format is made from, with what belongs to its answers."""

import dataclasses

import keras
import tensorflow as tf

from cifar_trainer.images import Preprocessing


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """What every format is made from.

    Attributes:
        model: uint8 [N, H, W, C] to float32 logits [N, classes], all layers in float32.
        classes: the names, by class_id.
        preprocessing: how any image becomes the model's input.
        temperature: divides the logits before the softmax; 1 where nothing was calibrated
            (Guo et al. 2017, section 4.2).
    """

    model: keras.Model
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels (3 or 1) of the images that it takes."""
        return self.preprocessing.image_shape

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits, probabilities [N, classes] float32 and class_id [N] int64 of uint8 [N, H, W, C]."""
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
