"""Optimizers, learning-rate schedules, averages and losses that Keras does not have. Imports TensorFlow."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: Position of `triangular`'s peak, as a share of the steps, if --warmup is not set (as in Jordan 2024).
PEAK = 0.23
#: `plateau` multiplies the rate by this factor after this many epochs without a lower validation loss.
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.5, 3


# A schedule maps the steps done, the total steps and the warm-up steps to a share of the peak rate. Each is
# named in `settings.SCHEDULES` or used by a recipe.


def constant(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Always the peak rate."""
    return tf.ones_like(done)


def linear(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Linearly from the peak after the warm-up to 0."""
    return 1.0 - tf.maximum(done - warmup, 0.0) / max(1.0, float(total - warmup))


def cosine(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Half a cosine after the warm-up, from the peak to 0 (Loshchilov & Hutter 2017, without restarts)."""
    share = tf.maximum(done - warmup, 0.0) / max(1.0, float(total - warmup))
    return 0.5 * (1.0 + tf.cos(math.pi * share))


def triangular(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Linearly from 0 to the peak after the warm-up (default `PEAK`), then linearly to 0 (Smith 2017)."""
    top = float(warmup or max(1, round(PEAK * total)))
    down = tf.maximum(float(total) - done, 0.0) / max(1.0, total - top)
    return tf.minimum(done / top, tf.minimum(down, 1.0))


_SCHEDULES: dict[str, Callable[[tf.Tensor, int, int], tf.Tensor]] = {
    schedule.__name__: schedule for schedule in (constant, linear, cosine, triangular)
}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step (0-based).

    During the warm-up, the rate is multiplied by (step + 1) / warmup, but `triangular` includes its own.

    Args:
        kind: the name of a schedule function in this module.
        peak: the highest rate.
        total: number of steps of the run; later steps keep the last rate.
        warmup: number of warm-up steps, at most `total`.
    """

    def __init__(self, kind: str, peak: float, total: int, warmup: int = 0) -> None:
        self.kind, self.peak, self.total, self.warmup = kind, peak, total, warmup

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate, a float32 scalar, at a step, an integer scalar."""
        shape, at = _SCHEDULES[self.kind], tf.cast(step, tf.float32)
        rate = self.peak * shape(tf.minimum(at, float(self.total)), self.total, self.warmup)
        return rate if shape is triangular else _warmed_up(rate, at, self.warmup)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"kind": self.kind, "peak": self.peak, "total": self.total, "warmup": self.warmup}


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A warm-up before another schedule: the rate is multiplied by (step + 1) / warmup.

    Args:
        inner: a rate, or a recipe's own schedule.
        warmup: number of warm-up steps.
    """

    def __init__(self, inner: float | keras.optimizers.schedules.LearningRateSchedule, warmup: int) -> None:
        self.inner, self.warmup = inner, warmup

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate, a float32 scalar, at a step, an integer scalar."""
        rate = self.inner(step) if callable(self.inner) else self.inner
        return _warmed_up(tf.cast(rate, tf.float32), tf.cast(step, tf.float32), self.warmup)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        inner = self.inner
        if callable(inner):
            inner = keras.optimizers.schedules.serialize(inner)
        return {"inner": inner, "warmup": self.warmup}


def _warmed_up(rate: tf.Tensor, step: tf.Tensor, warmup: int) -> tf.Tensor:
    return rate * tf.minimum((step + 1.0) / warmup, 1.0) if warmup else rate


def plateau(losses: Sequence[float]) -> float:
    """The share of the peak rate after epochs with these validation losses.

    Depends on nothing else, so that a resumed run has the same rate.
    """
    factor, best, waited = 1.0, math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == PLATEAU_EPOCHS:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


def rate_of(
    optimizer: keras.optimizers.Optimizer,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The schedule of an optimizer, or its constant rate."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    return float(rate.numpy())


def last_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the last step that the optimizer has taken."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = rate_of(inner)
    if callable(rate):
        rate = rate(tf.maximum(inner.iterations.value - 1, 0))
    # The shortest representation of this float32: 0.001, not 0.0010000000474974513.
    return float(str(np.float32(rate)))


class Nesterov(keras.optimizers.Optimizer):
    """Nesterov momentum as in PyTorch's SGD.

    With gradient g, momentum m and the step's rate r: g += decay * weight; v = m v + g;
    weight -= r (g + m v). Unlike in Keras's SGD, v does not include the rate.

    Args:
        learning_rate: a number or a schedule.
        momentum: m.
        decay: factor of the weights that is added to the gradient; an L2 penalty of decay / 2.
        scales: factors of the rate, by the end of a variable's path.
        ends: the share of the run at which a variable's rate, if the schedule is linear, reaches 0, by the
            end of its path (FreezeOut; Brock et al. 2017). Other schedules are multiplied by the same factor.
        total_steps: steps of the run, for `ends`.
        settings: other arguments of Keras's optimizers.
    """

    def __init__(
        self,
        learning_rate: Any,
        momentum: float,
        decay: float = 0.0,
        scales: Mapping[str, float] = MappingProxyType({}),
        ends: Mapping[str, float] = MappingProxyType({}),
        total_steps: int = 0,
        name: str = "nesterov",
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **settings)
        self.momentum, self.decay = momentum, decay
        self.scales, self.ends = dict(scales), dict(ends)
        self.total_steps = total_steps

    def build(self, variables: Any) -> None:
        """Create a velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        self._scale_of = [by_path(self.scales, variable, 1.0) for variable in variables]
        self._end_of = [by_path(self.ends, variable, 1.0) for variable in variables]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update one variable."""
        index = self._get_variable_index(variable)
        velocity, scale = self._velocities[index], self._scale_of[index]
        rate = self._rate(index, learning_rate, variable.dtype) * scale
        gradient = tf.cast(gradient, variable.dtype) + self.decay * variable
        moved = self.momentum * velocity.value + gradient
        self.assign(velocity, moved)
        self.assign_sub(variable, rate * (gradient + self.momentum * moved))

    def _rate(self, index: int, learning_rate: tf.Tensor, dtype: str) -> tf.Tensor:
        rate, end = tf.cast(learning_rate, dtype), self._end_of[index]
        if end == 1:
            return rate
        done = tf.cast(tf.convert_to_tensor(self.iterations), dtype) / self.total_steps
        return rate * tf.maximum(1 - done / end, 0) / tf.maximum(1 - done, 1 / self.total_steps)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = ("momentum", "decay", "scales", "ends", "total_steps")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class Muon(Nesterov):
    """Muon for convolutions (Jordan et al. 2024, kellerjordan.github.io/posts/muon); Nesterov for the rest.

    A kernel's update is the nearest semi-orthogonal matrix to its momentum, so that all directions of its
    filters learn equally fast. Before each update, the kernel is scaled to the Frobenius norm sqrt(O), where
    O is the number of filters; batch normalization makes its scale irrelevant, except for the rate.
    Keras's Muon updates only matrices, and uses AdamW for the rest.

    Args:
        learning_rate: the kernels' rate; a number or a schedule. `scales` are relative to it.
        kernel_momentum: the momentum of the kernels' gradients.
        settings: arguments of `Nesterov`.
    """

    def __init__(
        self, learning_rate: Any, kernel_momentum: float, name: str = "muon", **settings: Any
    ) -> None:
        super().__init__(learning_rate, name=name, **settings)
        self.kernel_momentum = kernel_momentum

    def _backend_update_step(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[Any], learning_rate: tf.Tensor
    ) -> None:
        # Together, because a GPU takes time to start each operation.
        gradients = list(grads)
        kernels = [i for i, variable in enumerate(trainable_variables) if len(variable.shape) == 4]
        momenta = [self._next_momentum(gradients[i], trainable_variables[i]) for i in kernels]
        for i, update in zip(kernels, orthogonalized(momenta), strict=True):
            gradients[i] = tf.reshape(update, trainable_variables[i].shape)
        super()._backend_update_step(gradients, trainable_variables, learning_rate)

    def _next_momentum(self, gradient: tf.Tensor, kernel: Any) -> tf.Tensor:
        """Update the momentum of a kernel, [H, W, I, O]; returns Nesterov's look-ahead, [H W I, O]."""
        velocity = self._velocities[self._get_variable_index(kernel)]
        gradient = tf.cast(gradient, kernel.dtype)
        moved = self.kernel_momentum * velocity.value + gradient
        self.assign(velocity, moved)
        return tf.reshape(gradient + self.kernel_momentum * moved, [-1, kernel.shape[-1]])

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update one variable; for a kernel, `gradient` is its orthogonalized update."""
        if len(variable.shape) != 4:
            super().update_step(gradient, variable, learning_rate)
            return
        kernel = tf.convert_to_tensor(variable)
        kernel *= math.sqrt(variable.shape[-1]) / tf.norm(kernel)
        rate = self._rate(self._get_variable_index(variable), learning_rate, variable.dtype)
        self.assign(variable, kernel - rate * gradient)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "kernel_momentum": self.kernel_momentum}


def orthogonalized(matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """A semi-orthogonal matrix near each matrix, float [M, N], by three Newton-Schulz steps.

    The quintic's coefficients are those of Muon: they move the singular values near 1, not to 1. The steps
    are polynomials of the smaller Gram matrix, so only it is multiplied until the end, together with those of
    its size.
    """
    matrices = [matrix / (tf.norm(matrix) + 1e-7) for matrix in matrices]
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    grams = [
        tf.matmul(each, each, transpose_a=is_tall, transpose_b=not is_tall)
        for each, is_tall in zip(matrices, tall, strict=True)
    ]
    factors: dict[int, tf.Tensor] = {}
    for size in dict.fromkeys(gram.shape[0] for gram in grams):
        same = [i for i, gram in enumerate(grams) if gram.shape[0] == size]
        gram = tf.stack([grams[i] for i in same])
        product = identity = tf.eye(size)
        for _ in range(3):
            step = 3.4445 * identity - 4.7750 * gram + 2.0315 * tf.matmul(gram, gram)
            product = step if product is identity else tf.matmul(product, step)
            gram = tf.matmul(gram, tf.matmul(step, step))
        factors |= dict(zip(same, tf.unstack(product), strict=True))
    return [
        tf.matmul(each, factors[i]) if tall[i] else tf.matmul(factors[i], each)
        for i, each in enumerate(matrices)
    ]


def by_path(values: Mapping[str, float], variable: keras.Variable, default: Any) -> Any:
    """The value for the end of a variable's path."""
    return next((value for end, value in values.items() if variable.path.endswith(end)), default)


class StatisticsAverage:
    """The moving average of a network's statistics, such as batch normalization's.

    Keras's optimizers average only trainable weights, but averaged weights need matching statistics. The
    averages are variables of the optimizer, so that checkpoints include them.

    Args:
        model, optimizer: the network and its built optimizer.
        momentum: the average's momentum, the same as for the weights.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, momentum: float) -> None:
        self._momentum = momentum
        # An average of a frozen layer's constant statistics would differ in the last bit.
        frozen = {
            id(weight) for layer in model._flatten_layers() if not layer.trainable for weight in layer.weights
        }
        self._weights = [weight for weight in model.non_trainable_weights if id(weight) not in frozen]
        self._averages = [
            optimizer.add_variable_from_reference(weight, name="average") for weight in self._weights
        ]

    def update(self, step: tf.Tensor) -> None:
        """Update the averages after step `step` (from 1); the first step initializes them."""
        momentum = tf.where(step > 1, self._momentum, 0.0)
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign(momentum * average.value + (1.0 - momentum) * weight.value)

    def finalize(self) -> None:
        """Set the network's statistics to their averages."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average.value)


def reduce_rate(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable], share: float, first: int
) -> None:
    """Update some variables with a share of the learning rate, as if the optimizer had started later.

    Adam corrects the bias of its averages by the number of steps. Counted from the start of the run, the
    first updates of variables that start later would be far too large.

    Args:
        optimizer, variables: a built optimizer, and some of its variables.
        share: factor of the learning rate; decoupled weight decay keeps the full rate.
        first: the step from which these variables are updated.
    """
    indices = {optimizer._get_variable_index(variable) for variable in variables}
    update, own = optimizer.update_step, vars(optimizer)

    def update_step(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        if optimizer._get_variable_index(variable) not in indices:
            update(gradient, variable, learning_rate)
            return
        iterations = own["_iterations"]
        # Loss scaling may skip steps, so there may be fewer than `first`.
        own["_iterations"] = tf.maximum(tf.convert_to_tensor(iterations) - first, 0)
        try:
            update(gradient, variable, share * learning_rate)
        finally:
            own["_iterations"] = iterations

    own["update_step"] = update_step


def exclude_from_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Exclude biases and normalization parameters from weight decay."""
    if optimizer.weight_decay is not None:
        # By name: the biases of attention and of EinsumDense have two axes.
        small = [v for v in variables if v.name in ("bias", "gamma", "beta") or len(v.shape) <= 1]
        optimizer.exclude_from_weight_decay(var_list=small)


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels and logits with label smoothing (Szegedy et al. 2016, section 7).

    The target of the label's class is 1 - smoothing + smoothing / K; that of the others is smoothing / K.
    Keras's sparse cross-entropy does not support label smoothing.

    Args:
        smoothing: from 0 to below 1.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_cross_entropy")
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each image, float32 [B], for labels, integer [B], and logits, float32 [B, K]."""
        classes = y_pred.shape[-1]
        # A product with one-hot labels, because the gradient of a gather would be a scatter.
        targets = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        targets = (1.0 - self.smoothing) * targets + self.smoothing / classes
        return -tf.reduce_sum(targets * tf.nn.log_softmax(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"smoothing": self.smoothing}
