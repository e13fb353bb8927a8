"""The listing of the article: a CNN of 122,570 parameters, Adam, ten epochs.

Source: TensorFlow's tutorial "Convolutional Neural Network (CNN)", which the
article's example follows. Pixels are divided by 255; the network scales them itself,
so that the saved model takes pictures as they are.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 0.001
SPLITTABLE = True
augment = None


def build_model() -> "keras.Model":
    """The network: uint8 [N, 32, 32, 3] named `images` to float32 logits [N, 10]."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype="uint8", name="images"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(64, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Conv2D(64, 3, activation="relu", name="conv3"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            # The logits stay float32 under mixed precision: softmax wants the range.
            layers.Dense(10, dtype="float32", name="logits"),
        ],
        name="document",
    )


def build_optimizer(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Adam with Keras's defaults (Kingma & Ba 2015); `total_steps` plays no part."""
    import keras

    return keras.optimizers.Adam(learning_rate)
