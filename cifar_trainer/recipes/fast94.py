"""airbench94 with Muon in Keras, after "94% on CIFAR-10 in 3.29 seconds on a single GPU" (Jordan 2024).

Source: arXiv 2404.00498, to whose sections the numbers below refer, and airbench94_muon.py in
github.com/KellerJordan/cifar10-airbench. Differences: batches of 1,000 instead of 2,000; nine epochs instead
of eight, at five sixths of the rates; no weight decay; no bias in the whitening convolution, which is
computed from 1,000 images instead of 5,000. The biases' rate is 0.053 there, for the sum of the loss over a
batch, and 44 here, for the mean. The head's rate also follows from its logits, which are divided by 256
there, and by 9 here.

Made for a GPU, but not measured on one. On two CPU threads in bfloat16, it reached a mean of 93.96 % on the
test set (n = 5), and airbench94_muon.py, in PyTorch, 93.98 % (n = 3). docs/recipes.md lists the looks at the
test set that preceded it.
"""

from typing import TYPE_CHECKING

from cifar_trainer.recipes.recipe import Batch, Recipe, smoothed_cross_entropy

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

#: Mean and standard deviation of each channel of CIFAR-10, for pixels from 0 to 1.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
#: Number of images for computing the whitening layer, and the term added to its eigenvalues.
WHITENED_IMAGES, WHITENING_EPSILON = 1000, 5e-4
#: Maximum translation of an image, in pixels.
TRANSLATION = 2


def build_model(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[int, int, int] = (64, 256, 256),
    activation: str = "gelu",
    name: str = "fast94",
) -> "keras.Model":
    """A frozen whitening convolution and three blocks of two convolutions each (section 3.1)."""
    import keras
    from keras import layers

    channels = image_shape[-1]
    mean, deviation = (MEAN, DEVIATION) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    patch = 2 * 2 * channels

    def convolution(filters: int, name: str) -> keras.layers.Layer:
        # PyTorch's default: uniform in ±1 / sqrt(fan-in).
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        return layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer=initializer, name=name
        )

    def normalization(name: str) -> keras.layers.Layer:
        return layers.BatchNormalization(momentum=0.6, epsilon=1e-12, scale=False, name=name)

    def block(filters: int, index: int) -> list[keras.layers.Layer]:
        return [
            convolution(filters, f"conv{index}a"),
            layers.MaxPooling2D(2, name=f"pool{index}"),
            normalization(f"norm{index}a"),
            layers.Activation(activation, name=f"{activation}{index}a"),
            convolution(filters, f"conv{index}b"),
            normalization(f"norm{index}b"),
            layers.Activation(activation, name=f"{activation}{index}b"),
        ]

    model = keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8", name="images"),
            layers.Rescaling(
                [1 / (255 * d) for d in deviation],
                [-m / d for m, d in zip(mean, deviation, strict=True)],
                dtype="float32",
                name="normalize",
            ),
            # In bfloat16, the last filters would multiply rounding errors to a tenth of their outputs.
            layers.Conv2D(2 * patch, 2, use_bias=False, dtype="float32", name="whiten"),
            layers.Activation(activation, name=f"{activation}0"),
            *(layer for index, filters in enumerate(widths, 1) for layer in block(filters, index)),
            layers.GlobalMaxPooling2D(name="pool"),
            layers.Dense(
                classes,
                use_bias=False,
                kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
                dtype="float32",
                name="dense",
            ),
            layers.Rescaling(1 / 9, dtype="float32", name="logits"),
        ],
        name=name,
    )
    # Section 3.1: computed from the images, and not trained.
    model.get_layer("whiten").kernel.trainable = False
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D) and layer.name != "whiten":
            layer.kernel.assign(with_identity(layer.kernel.numpy()))
    return model


def with_identity(kernel: "np.ndarray") -> "np.ndarray":
    """A kernel, float [3, 3, I, O], whose first I filters are the identity (section 3.3)."""
    import numpy as np

    kernel = np.array(kernel)
    inputs = min(kernel.shape[2:])
    kernel[..., :inputs] = 0
    kernel[1, 1, range(inputs), range(inputs)] = 1
    return kernel


def initialize(model: "keras.Model", images: "np.ndarray") -> None:
    """Set the first layer to whiten the images' patches of 2×2 pixels (section 3.2).

    Its filters are the eigenvectors of the patches' covariance, divided by the square roots of their
    eigenvalues, followed by the same filters negated.

    Args:
        model: from `build_model`.
        images: uint8 [N, H, W, C].
    """
    import numpy as np

    normalized = np.asarray(model.get_layer("normalize")(images[:WHITENED_IMAGES].astype(np.float32)))
    windows = np.lib.stride_tricks.sliding_window_view(normalized.astype(np.float64), (2, 2), axis=(1, 2))
    # [N, H - 1, W - 1, C, 2, 2] to the order of a kernel.
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * images.shape[-1])
    eigenvalues, eigenvectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (eigenvectors / np.sqrt(eigenvalues + WHITENING_EPSILON))[:, ::-1]
    kernel = np.concatenate([filters, -filters], axis=1)
    model.get_layer("whiten").kernel.assign(kernel.reshape(2, 2, images.shape[-1], -1))


def build_optimizer(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Muon for the convolutions, Nesterov momentum for the rest; the rate falls linearly to 0."""
    from cifar_trainer.recipes.optimizers import Muon, Schedule

    return Muon(
        Schedule("linear", learning_rate, total_steps),
        kernel_momentum=0.6,
        momentum=0.85,
        scales={"dense/kernel": 3.5, "beta": 220.0},
    )


#: Cross-entropy with label smoothing of 0.2.
loss = smoothed_cross_entropy(0.2)


def augment(batch: Batch) -> "tf.Tensor":
    """Flip each image in every second epoch (section 3.6), and translate it by up to two pixels.

    Edges are padded by reflection.

    Returns:
        uint8 [B, H, W, C]; depends only on the batch.
    """
    import tensorflow as tf

    from cifar_trainer.recipes.augmentation import take_pixels

    count, (height, width) = tf.shape(batch.images)[0], batch.images.shape[1:3]
    flip = (flips_first(batch.indices, batch.seed[0]) + batch.epoch) % 2 == 1
    # Name Philox explicitly: by default, XLA draws different numbers than the CPU.
    moves = tf.random.stateless_uniform(
        [count, 2], batch.seed, -TRANSLATION, TRANSLATION + 1, tf.int32, alg="philox"
    )
    rows = reflected(tf.range(height) + moves[:, :1], height)
    columns = reflected(tf.range(width) + moves[:, 1:], width)
    columns = tf.where(flip[:, None], columns[:, ::-1], columns)
    return take_pixels(batch.images, rows[:, :, None], columns[:, None, :])


def flips_first(indices: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
    """Whether each image is flipped in even epochs: int32 [B], 0 or 1; the seed selects about half of them.

    Args:
        indices: int64 [B], the images' indices.
        seed: int32 scalar, the run's seed.
    """
    import tensorflow as tf

    # The finalizer of MurmurHash3, in which every output bit depends on every input bit.
    mixed = tf.bitcast(tf.cast(indices, tf.int32) * 2 + 1, tf.uint32) ^ tf.bitcast(seed, tf.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ tf.bitwise.right_shift(mixed, tf.constant(shift, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    return tf.cast(mixed & 1, tf.int32)


def reflected(positions: "tf.Tensor", size: int) -> "tf.Tensor":
    """Reflect positions from -size + 1 to 2 size - 2, int32, at the edges into 0 to size - 1."""
    import tensorflow as tf

    positions = tf.abs(positions)
    return tf.minimum(positions, 2 * (size - 1) - positions)


def predict(model: "keras.Model", images: "tf.Tensor") -> "tf.Tensor":
    """The weighted mean of the logits of six views: three translations, each also mirrored (section 3.5).

    The untranslated image has half of the weight. The images translated by one pixel, up and left or down
    and right, have a quarter each.

    Args:
        model: from `build_model`.
        images: uint8 [N, H, W, C].

    Returns:
        float32 [N, classes].
    """
    logits = 0.0
    for move, share in ((0, 0.5), (-1, 0.25), (1, 0.25)):
        moved = translated(images, move)
        for view in (moved, moved[:, :, ::-1]):
            logits += share / 2 * model(view, training=False)
    return logits


def translated(images: "tf.Tensor", move: int) -> "tf.Tensor":
    """Images, uint8 [N, H, W, C], translated up and left by `move` pixels; edges are padded by reflection."""
    import tensorflow as tf

    height, width = images.shape[1:3]
    rows = reflected(tf.range(height) + move, height)
    columns = reflected(tf.range(width) + move, width)
    return tf.gather(tf.gather(images, rows, axis=1), columns, axis=2)


FAST94 = Recipe(
    name="fast94",
    summary="airbench94 with Muon: whitening, dirac initialization; made for a GPU",
    epochs=9,
    batch_size=1000,
    learning_rate=0.2,
    build_model=build_model,
    build_optimizer=build_optimizer,
    loss=loss,
    augment=augment,
    initialize=initialize,
    predict=predict,
)
