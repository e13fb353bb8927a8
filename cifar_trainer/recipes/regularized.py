"""The document's network with the usual remedies for overfitting.

Batch normalization after each convolution (Ioffe & Szegedy 2015), dropout before
the head (Srivastava et al. 2014), flips and crops padded by four pixels (as in He et
al. 2016, section 4.2), and Adam with a cosine schedule (Loshchilov & Hutter 2017,
without restarts).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 0.002
SPLITTABLE = False
PADDING = 4


def build_model() -> "keras.Model":
    """The network: uint8 [N, 32, 32, 3] named `images` to float32 logits [N, 10]."""
    import keras
    from keras import layers

    def block(filters: int, index: int) -> list[keras.layers.Layer]:
        return [
            layers.Conv2D(filters, 3, use_bias=False, name=f"conv{index}"),
            layers.BatchNormalization(name=f"norm{index}"),
            layers.ReLU(name=f"relu{index}"),
        ]

    return keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype="uint8", name="images"),
            layers.Rescaling(1 / 255, name="scale"),
            *block(32, 1),
            layers.MaxPooling2D(2, name="pool1"),
            *block(64, 2),
            layers.MaxPooling2D(2, name="pool2"),
            *block(64, 3),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(10, dtype="float32", name="logits"),
        ],
        name="regularized",
    )


def build_optimizer(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Adam whose rate falls along a cosine from `learning_rate` to 0 over `total_steps`."""
    import keras

    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, total_steps))


def augment(images: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
    """Flip each picture left to right with probability 1/2 and crop it from a padded one.

    Args:
        images: uint8 [B, 32, 32, 3].
        seed: int32 [2]; the same seed gives the same pictures.

    Returns:
        uint8 [B, 32, 32, 3].
    """
    import tensorflow as tf

    count, size = tf.shape(images)[0], 32
    # Philox by name: left to choose, XLA would draw other numbers than the CPU.
    draws = tf.random.stateless_uniform([count, 3], seed, 0, 2 * (2 * PADDING + 1), tf.int32, alg="philox")
    flip = draws[:, 0] % 2 == 1
    offsets = draws[:, 1:] // 2
    padded = tf.pad(images, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    # One gather of whole pixels serves crop and flip; it needs no loop over the pictures.
    along = tf.range(size)
    rows = offsets[:, :1] + along
    columns = offsets[:, 1:] + tf.where(flip[:, None], along[::-1], along)
    pixels = tf.stack(
        [
            tf.broadcast_to(rows[:, :, None], [count, size, size]),
            tf.broadcast_to(columns[:, None, :], [count, size, size]),
        ],
        axis=-1,
    )
    return tf.gather_nd(padded, pixels, batch_dims=1)
