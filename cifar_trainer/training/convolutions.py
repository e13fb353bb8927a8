"""Convolutions with the results of TensorFlow's, and faster on some devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

#: Maximum height times width of outputs for which a kernel's gradient is a convolution. oneDNN's own
#: gradients are faster for larger ones (docs/performance.md).
SMALL_AREA = 64
#: Images per convolution of these gradients: those of larger batches do not stay in the cache.
GRADIENT_IMAGES = 128


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
    TensorFlow's own takes up to 60 times as long. That of the kernel, if the outputs are small and bfloat16,
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
            if not is_small(upstream.shape[1:3], upstream.dtype):
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


def is_small(size: Sequence[int], dtype: tf.DType) -> bool:
    """Whether the gradient of a kernel for outputs of this height and width is computed as a convolution."""
    return dtype == tf.bfloat16 and size[0] * size[1] <= SMALL_AREA
