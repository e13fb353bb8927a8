"""Convolutions with the results of TensorFlow's, and faster on some devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

#: Maximum height times width of outputs for which a kernel's gradient is a convolution. oneDNN's own
#: gradients are faster for larger ones (docs/performance.md).
SMALL_AREA = 64
#: Images per convolution of these gradients: those of larger batches do not stay in the cache.
GRADIENT_IMAGES = 128


def is_plain(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution that the functions below can compute."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.padding in ("valid", "same")
        and layer.data_format == "channels_last"
    )


def patch_bytes(layer: keras.layers.Conv2D, batch_size: int) -> int:
    """The size of the patches that `convolve` multiplies."""
    _, rows, columns, _ = layer.output.shape
    high, wide, channels, _ = layer.kernel.shape
    return int(batch_size * rows * columns * high * wide * channels * tf.as_dtype(layer.compute_dtype).size)


def matmul_convolution(layer: keras.layers.Conv2D) -> Callable[[tf.Tensor], tf.Tensor]:
    """The layer's `call`, by `convolve`."""

    def call(inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(layer.kernel)
        return _activated(layer, convolve(inputs, kernel, tuple(layer.strides), _padding(layer, inputs)))

    return call


def cpu_convolution(layer: keras.layers.Conv2D, model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The layer's `call`, by `convolve_on_cpu` where that is faster.

    That is where max-pooling drops the last row or column of outputs, which then are not computed, and where
    the kernel's gradient is a convolution.

    Args:
        layer: a layer of `model`.
        model: the whole network.
    """
    keras_call: Callable[[tf.Tensor], tf.Tensor] = layer.call
    if tuple(layer.strides) != (1, 1):
        return keras_call
    pooling = _only_pooling(layer, model)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        pads = whole = _padding(layer, inputs)
        axes = zip(inputs.shape[1:3], layer.kernel_size, whole, strict=True)
        sizes = [low + size + high - span + 1 for size, span, (low, high) in axes]
        if pooling is not None:
            windows = zip(sizes, pooling.pool_size, pooling.strides, strict=True)
            dropped = [(size - window) % stride for size, window, stride in windows]
            pads = [(low, max(0, high - rest)) for (low, high), rest in zip(whole, dropped, strict=True)]
        if pads == whole and not _is_small(sizes, inputs.dtype):
            return keras_call(inputs)
        return _activated(layer, convolve_on_cpu(inputs, tf.convert_to_tensor(layer.kernel), pads))

    return call


def _only_pooling(layer: keras.layers.Conv2D, model: keras.Model) -> keras.layers.MaxPooling2D | None:
    """The max-pooling that alone uses a convolution's outputs, if there is one."""
    # Building a network layer by layer adds the same users repeatedly.
    users = {node.operation for node in layer._outbound_nodes}
    pooling: Any = users.pop() if len(users) == 1 else None
    if (
        type(pooling) is keras.layers.MaxPooling2D
        and pooling.padding == "valid"
        and pooling.data_format == "channels_last"
        and layer.activity_regularizer is None
        # Any other function could depend on several positions.
        and layer.activation in vars(keras.activations).values()
        and not any(
            output._keras_history.operation is layer
            for network in model._flatten_layers()
            if isinstance(network, keras.Model)
            for output in getattr(network, "outputs", ())
        )
    ):
        return pooling
    return None


def _padding(layer: keras.layers.Conv2D, images: tf.Tensor) -> list[tuple[int, int]]:
    """The rows above and below, and the columns left and right, that a convolution adds to images."""
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    sizes = zip(images.shape[1:3], layer.kernel_size, layer.strides, strict=True)
    totals = [max(0, (-(-size // stride) - 1) * stride + span - size) for size, span, stride in sizes]
    return [(total // 2, total - total // 2) for total in totals]


def _activated(layer: keras.layers.Conv2D, outputs: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        outputs += tf.convert_to_tensor(layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def convolve(
    images: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int], pads: Sequence[tuple[int, int]]
) -> tf.Tensor:
    """A convolution as one matrix product of patches (im2col; Chellapilla et al. 2006).

    Args:
        images: float [N, H, W, C].
        kernel: float [K, L, C, F].
        strides: vertical and horizontal.
        pads: rows of zeros above and below the images, and columns left and right.

    Returns:
        float [N, H', W', F].
    """
    high, wide, channels, filters = kernel.shape
    images = tf.pad(images, [(0, 0), *pads, (0, 0)])
    rows = (images.shape[1] - high) // strides[0] + 1
    columns = (images.shape[2] - wide) // strides[1] + 1
    patches = tf.concat(
        [
            images[:, i : i + strides[0] * (rows - 1) + 1 : strides[0],
                   j : j + strides[1] * (columns - 1) + 1 : strides[1]]
            for i in range(high)
            for j in range(wide)
        ],
        axis=-1,
    )  # fmt: skip
    product = tf.reshape(patches, [-1, high * wide * channels]) @ tf.reshape(kernel, [-1, filters])
    return tf.reshape(product, [-1, rows, columns, filters])


def convolve_on_cpu(images: tf.Tensor, kernel: tf.Tensor, pads: Sequence[tuple[int, int]]) -> tf.Tensor:
    """A convolution as `convolve`, with strides of 1, whose gradients are convolutions themselves.

    That of the images convolves the outputs' gradients with the mirrored kernel: for explicit padding,
    TensorFlow's own took up to 58 times as long. That of the kernel, if the outputs are small and bfloat16,
    convolves the images with the outputs' gradients: the channels take the place of the batch, and the batch
    that of the channels, so each product sums over many images.
    """
    padding = [(0, 0), *pads, (0, 0)]
    spans = zip(kernel.shape[:2], pads, strict=True)
    mirrored_pads = [(span - 1 - low, span - 1 - high) for span, (low, high) in spans]

    @tf.custom_gradient
    def convolved(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            mirrored = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
            of_images = tf.nn.conv2d(upstream, mirrored, 1, [(0, 0), *mirrored_pads, (0, 0)])
            if not _is_small(upstream.shape[1:3], upstream.dtype):
                return of_images, tf.raw_ops.Conv2DBackpropFilter(
                    input=tf.pad(images, padding),
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=[1, 1, 1, 1],
                    padding="VALID",
                )
            parts = []
            for first in range(0, images.shape[0], GRADIENT_IMAGES):
                part = slice(first, first + GRADIENT_IMAGES)
                swapped = tf.transpose(images[part], [3, 1, 2, 0]), tf.transpose(upstream[part], [1, 2, 0, 3])
                parts.append(tf.cast(tf.nn.conv2d(*swapped, 1, padding), tf.float32))
            of_kernel = functools.reduce(tf.add, parts)
            return of_images, tf.cast(tf.transpose(of_kernel, [1, 2, 0, 3]), kernel.dtype)

        return tf.nn.conv2d(images, kernel, 1, padding), gradient

    return convolved(images, kernel)


def _is_small(size: Sequence[int], dtype: tf.DType) -> bool:
    """Whether the gradient of a kernel for outputs of this height and width is computed as a convolution."""
    return dtype == tf.bfloat16 and size[0] * size[1] <= SMALL_AREA
