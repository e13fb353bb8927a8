"""Replacements for some Keras layers in the training loop, for speed and reproducibility.

- Batch normalization's moving statistics are usable after any number of steps.
- On a CPU, batch normalization and GELU are one operation forward and one backward, convolutions do not
  compute what max-pooling drops, and in bfloat16, the gradients of small ones' kernels are convolutions too.
- On a GPU, the gradient of max-pooling does not scatter, and small convolutions are matrix products, so that
  XLA can run the whole loop as one CUDA graph with bit-identical results.

The replacements apply only while the training step is traced; the layers and the saved model are unchanged.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from cifar_trainer.errors import UsageError
from cifar_trainer.training.convolutions import cpu_convolution, is_plain, matmul_convolution, patch_bytes
from cifar_trainer.training.distributed import Shard

#: Eta of polynomial-decay averaging: larger values give the last steps more weight.
ETA = 8
#: The size of an H100's L2 cache (50 MB). Larger patches go through memory, which is slower than cuDNN.
PATCH_BYTES = 50_000_000


@dataclasses.dataclass(frozen=True)
class KernelVariants:
    """The operations that compute a network's layers.

    Attributes:
        scatter_free: compute max-pooling and the loss with operations whose gradients do not scatter.
        matmul: compute convolutions as matrix products of patches.
        fused: compute batch normalization with TensorFlow's fused operation, and GELU with one of XLA's.
        cpu_convolutions: compute convolutions whose last outputs max-pooling drops, and small ones in
            bfloat16, with `convolve_on_cpu`.
    """

    scatter_free: bool = False
    matmul: bool = False
    fused: bool = False
    cpu_convolutions: bool = False


def choose_variants(
    model: keras.Model, batch_size: int, *, gpu: bool, conv: str, stacked: bool = False
) -> KernelVariants:
    """Choose the kernel variants for a network on a device.

    Args:
        model: the network.
        batch_size: images per step.
        gpu: whether the device is a GPU. On a CPU, Keras's own operations are the fastest, except for batch
            normalization, whose twenty operations took half of each step of `regularized`, GELU, whose ten
            took a fifth of each step of `fast94`, and some convolutions (`convolutions.cpu_convolution`).
        conv: `cudnn`, `matmul`, or `auto`: matrix products on a GPU if the patches of each convolution fit
            into its cache.
        stacked: whether several seeds are computed at once, which requires operations that can have a
            leading axis of seeds.
    """
    if stacked:
        return KernelVariants(scatter_free=True, matmul=True)
    fits = all(patch_bytes(layer, batch_size) <= PATCH_BYTES for layer in _layers(model) if is_plain(layer))
    return KernelVariants(
        scatter_free=gpu,
        matmul=conv == "matmul" or (conv == "auto" and gpu and fits),
        fused=not gpu,
        cpu_convolutions=not gpu and conv == "auto",
    )


@contextlib.contextmanager
def replaced_layers(
    model: keras.Model, variants: KernelVariants, step: tf.Tensor, shard: Shard | None = None
) -> Iterator[None]:
    """Compute the layers of `model` with these variants within the block.

    Args:
        model: the network.
        variants: the kernel variants.
        step: global step, an int32 scalar; determines the momentum of batch normalization's statistics.
        shard: the part of the batch that this process computes; None means all of it. For a shard, batch
            normalization sums its statistics over the processes, and dropout uses its rows of the whole
            batch's mask.
    """
    with contextlib.ExitStack() as stack:
        for layer in _layers(model):
            if variants.fused and getattr(layer, "activation", None) is keras.activations.gelu:
                stack.enter_context(_attribute(layer, "activation", gelu))
            if isinstance(layer, keras.layers.BatchNormalization):
                momentum = statistics_momentum(layer.momentum, step)
                stack.enter_context(_attribute(layer, "momentum", momentum))
                if shard is not None:
                    stack.enter_context(_attribute(layer, "_moments", _moments(layer, shard)))
                elif variants.fused and _is_fusible(layer):
                    stack.enter_context(_attribute(layer, "call", _normalization(layer)))
            elif shard is not None and type(layer) is keras.layers.Dropout:
                stack.enter_context(_attribute(layer, "call", _dropout(layer, shard)))
            elif variants.scatter_free and _is_halving(layer):
                stack.enter_context(_attribute(layer, "call", max_pool))
            elif variants.matmul and is_plain(layer):
                stack.enter_context(_attribute(layer, "call", matmul_convolution(layer)))
            elif variants.cpu_convolutions and is_plain(layer):
                stack.enter_context(_attribute(layer, "call", cpu_convolution(layer, model)))
        yield


def statistics_momentum(momentum: float, step: tf.Tensor) -> tf.Tensor:
    """The momentum of batch normalization's moving statistics at a step (0-based), float32.

    min(momentum, step / (step + 1 + ETA)): polynomial-decay averaging (Shamir & Zhang 2013, section 4)
    until the layer's own momentum is reached. The first step's statistics fully replace the initial 0 and 1,
    and the average covers about the last ninth of the steps. With Keras's constant momentum of 0.99, the
    initial values take some 600 steps to fade.
    """
    done = tf.cast(step, tf.float32)
    return tf.minimum(tf.constant(momentum, tf.float32), done / (done + (1 + ETA)))


@tf.custom_gradient
def gelu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """GELU, x Φ(x) (Hendrycks & Gimpel 2016, section 2), and its gradient, Φ(x) + x φ(x), in float32."""
    return _gelu(inputs), lambda upstream: _gelu_gradient(inputs, upstream)


# Without XLA, each would be several operations that write their results to memory.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=False)
def _gelu(inputs: tf.Tensor) -> tf.Tensor:
    x = tf.cast(inputs, tf.float32)
    return tf.cast(x * _normal_cdf(x), inputs.dtype)


@tf.function(jit_compile=True, autograph=False, reduce_retracing=False)
def _gelu_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    x = tf.cast(inputs, tf.float32)
    density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return tf.cast(tf.cast(upstream, tf.float32) * (_normal_cdf(x) + x * density), inputs.dtype)


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.math.erf(x / math.sqrt(2)))


@tf.custom_gradient
def max_pool(images: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Max-pooling with 2×2 windows: float [N, H, W, C] to [N, H // 2, W // 2, C].

    The gradient goes to a window's first maximum, as in TensorFlow's own pooling, which has no deterministic
    kernel under XLA on a GPU (tensorflow/tensorflow#69417). This version does not scatter.
    """
    height, width, channels = images.shape[1:]
    rows, columns = height // 2, width // 2
    parts = [images[:, i : 2 * rows : 2, j : 2 * columns : 2] for i in (0, 1) for j in (0, 1)]
    pooled = tf.maximum(tf.maximum(parts[0], parts[1]), tf.maximum(parts[2], parts[3]))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        taken = tf.zeros_like(pooled, tf.bool)
        shares = []
        for part in parts:
            hit = (part == pooled) & ~taken
            taken |= hit
            shares.append(tf.where(hit, upstream, tf.zeros_like(upstream)))
        whole = tf.stack([tf.stack(shares[:2], 3), tf.stack(shares[2:], 3)], 2)
        whole = tf.reshape(whole, [-1, 2 * rows, 2 * columns, channels])
        return tf.pad(whole, [[0, 0], [0, height - 2 * rows], [0, width - 2 * columns], [0, 0]])

    return pooled, gradient


def summed_loss(loss: keras.losses.Loss, variants: KernelVariants) -> Callable[..., tf.Tensor]:
    """A function of labels, logits and weights (or None) that returns the sum of `loss` over the images.

    TensorFlow's sparse cross-entropy gathers each image's logit. Its gradient scatters, which is slow if it
    must be deterministic. A product with one-hot labels does not scatter.
    """
    if (
        variants.scatter_free
        and type(loss) is keras.losses.SparseCategoricalCrossentropy
        and loss.from_logits
    ):

        def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
            targets = tf.one_hot(tf.cast(labels, tf.int32), logits.shape[-1], dtype=logits.dtype)
            if weights is not None:
                targets *= weights[:, None]
            return -tf.reduce_sum(targets * tf.nn.log_softmax(logits))

        return cross_entropy
    loss.reduction = "sum"
    return lambda labels, logits, weights: loss(labels, logits, sample_weight=weights)


def _normalization(layer: keras.layers.BatchNormalization) -> Callable[..., tf.Tensor]:
    """The layer's `call` in training, including statistics, with TensorFlow's fused operation."""

    def call(inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        # The operation computes in float32 anyway, and reads bfloat16 without a copy.
        if inputs.dtype != tf.bfloat16:
            inputs = tf.cast(inputs, tf.float32)
        channels = inputs.shape[-1]
        normalized = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=layer.gamma.value if layer.scale else tf.ones([channels]),
            offset=layer.beta.value if layer.center else tf.zeros([channels]),
            mean=[],
            variance=[],
            epsilon=layer.epsilon,
            is_training=True,
        )
        # Its variance divides by N - 1, Keras's by N.
        values = tf.cast(tf.size(inputs) // channels, tf.float32)
        share = 1 - layer.momentum
        mean = normalized.batch_mean * share
        variance = normalized.batch_variance * (tf.maximum(values - 1, 1) / values * share)
        for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + tf.stop_gradient(now))
        return tf.cast(normalized.y, layer.compute_dtype)

    return call


def _moments(
    layer: keras.layers.BatchNormalization, shard: Shard
) -> Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]:
    """Mean and variance of the whole batch, over the shards of all processes."""

    def moments(inputs: tf.Tensor, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        axes = layer._reduction_axes
        inner = [inputs.shape[axis] for axis in axes if axis > 0]
        count = float(shard.batch * math.prod(inner))
        mean = shard.replicas.differentiable_sum(tf.reduce_sum(inputs, axes)) / count
        squares = tf.reduce_sum(tf.math.squared_difference(inputs, mean), axes)
        return mean, shard.replicas.differentiable_sum(squares) / count

    return moments


def _dropout(layer: keras.layers.Dropout, shard: Shard) -> Callable[..., tf.Tensor]:
    """The layer's `call`, which draws the whole batch's mask and uses this shard's rows."""

    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or layer.rate == 0:
            return inputs
        noise_shape = layer.noise_shape or [None] * len(inputs.shape)
        inner = [size or inputs.shape[i] for i, size in enumerate(noise_shape) if i > 0]
        kept = keras.random.dropout(
            tf.ones([shard.batch, *inner], inputs.dtype), layer.rate, seed=layer.seed_generator
        )
        return inputs * kept[shard.low : shard.high]

    return call


def check_shardable(model: keras.Model) -> None:
    """Raise UsageError if a layer would compute something else in several processes than in one."""
    for layer in _layers(model):
        draws = getattr(layer, "seed_generator", None) is not None
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        if (draws and type(layer) is not keras.layers.Dropout) or (
            normalizes and (layer.axis not in (-1, len(layer.input.shape) - 1) or layer.renorm)
        ):
            raise UsageError(
                f"The layer {layer.name} ({type(layer).__name__}) cannot be trained by several processes: "
                "its random numbers or averages would differ. Use Dropout, and BatchNormalization over "
                "the last axis, or train in one process."
            )


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    # `Model.layers` does not include nested layers.
    return list(model._flatten_layers(include_self=False))


def _is_fusible(layer: keras.layers.BatchNormalization) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and len(layer.input.shape) == 4
        and layer.axis in (3, -1)
        and layer.trainable
        and not (layer.renorm or layer.synchronized)
    )


def _is_halving(layer: keras.layers.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.MaxPooling2D)
        and tuple(layer.pool_size) == tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
    )


@contextlib.contextmanager
def _attribute(layer: keras.layers.Layer, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute within the block, bypassing Keras's tracking."""
    own = vars(layer)
    absent = object()
    before = own.get(name, absent)
    own[name] = value
    try:
        yield
    finally:
        if before is absent:
            del own[name]
        else:
            own[name] = before
