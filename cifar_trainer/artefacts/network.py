"""The network that every format is made from, with what belongs to its answers."""

import dataclasses

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """What every format is made from.

    Attributes:
        model: uint8 [N, 32, 32, 3] to float32 logits [N, 10], all layers in float32.
        classes: the ten names, by class_id.
        temperature: divides the logits before the softmax; 1 where nothing was calibrated
            (Guo et al. 2017, section 4.2).
    """

    model: keras.Model
    classes: tuple[str, ...]
    temperature: float = 1.0

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits, probabilities [N, 10] float32 and class_id [N] int64 of uint8 [N, 32, 32, 3]."""
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
