"""Optimizers, learning-rate schedules, averages and losses that Keras lacks. Imports TensorFlow."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: Where `triangular` peaks, as a share of the steps, unless --warmup says otherwise (as in Jordan 2024).
PEAK = 0.23
#: `plateau` multiplies the rate by this after so many epochs without a lower validation loss.
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.5, 3


# A schedule is a function of the steps done, of all steps and of the warm-up's, to a share of the peak rate.
# Its name is one of `settings.SCHEDULES`, or a recipe uses it.


def constant(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """The peak rate, always."""
    return tf.ones_like(done)


def cosine(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Half a cosine after the warm-up, from the peak to 0 (Loshchilov & Hutter 2017, without restarts)."""
    share = tf.maximum(done - warmup, 0.0) / max(1.0, float(total - warmup))
    return 0.5 * (1.0 + tf.cos(math.pi * share))


def triangular(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """Linearly from 0 to the peak, which is after the warm-up or at `PEAK`; linearly to 0 (Smith 2017)."""
    top = float(warmup or max(1, round(PEAK * total)))
    down = tf.maximum(float(total) - done, 0.0) / max(1.0, total - top)
    return tf.minimum(done / top, tf.minimum(down, 1.0))


def airbench(done: tf.Tensor, total: int, warmup: int) -> tf.Tensor:
    """From 0.2 of the peak to it, which is at 0.23 of the steps; to 0.07 of it (Jordan 2024)."""
    start, end = 0.2, 0.07
    top = max(1, int(PEAK * total))
    rising = start + (1 - start) * done / top
    falling = 1 + (end - 1) * (done - top) / max(1, total - top)
    return tf.minimum(rising, falling)


#: Schedules whose shape includes the warm-up.
_WARM = (triangular, airbench)
_SCHEDULES: dict[str, Callable[[tf.Tensor, int, int], tf.Tensor]] = {
    schedule.__name__: schedule for schedule in (constant, cosine, triangular, airbench)
}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step, from 0.

    During the warm-up, the rate is multiplied by (step + 1) / warmup, unless the schedule itself includes it.

    Args:
        kind: the name of a schedule function in this module.
        peak: the highest rate.
        total: steps of the run; later steps keep the last rate.
        warmup: steps, at most `total`.
    """

    def __init__(self, kind: str, peak: float, total: int, warmup: int = 0) -> None:
        self.kind, self.peak, self.total, self.warmup = kind, peak, total, warmup

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate, a float32 scalar, at a step, an integer scalar."""
        shape, at = _SCHEDULES[self.kind], tf.cast(step, tf.float32)
        rate = self.peak * shape(tf.minimum(at, float(self.total)), self.total, self.warmup)
        return rate if shape in _WARM else _warmed_up(rate, at, self.warmup)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"kind": self.kind, "peak": self.peak, "total": self.total, "warmup": self.warmup}


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A warm-up before another schedule: the rate is multiplied by (step + 1) / warmup.

    Args:
        inner: a rate, or a recipe's own schedule.
        warmup: steps.
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

    It depends on them alone, so that a resumed run has the same rate.
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
    # The shortest number that is this float32: 0.001, not 0.0010000000474974513.
    return float(str(np.float32(rate)))


class Nesterov(keras.optimizers.Optimizer):
    """Nesterov's momentum as PyTorch's SGD computes it.

    With gradient g, momentum m and the step's rate r: g += decay * weight; v = m v + g;
    weight -= r (g + m v). Unlike in Keras's SGD, v does not include the rate.

    Args:
        learning_rate: a number or a schedule.
        momentum: m.
        decay: multiplied by the weights and added to the gradient; an L2 penalty of half of it.
        scales: factors of the rate, by the end of a variable's path; `decay` is divided by them.
        frozen: steps after which a variable stays unchanged, by the end of its path.
        total_steps: of the run, for `after_step` functions of recipes; the optimizer does not use it.
        settings: other arguments of Keras's optimizers.
    """

    def __init__(
        self,
        learning_rate: Any,
        momentum: float,
        decay: float = 0.0,
        scales: Mapping[str, float] = MappingProxyType({}),
        frozen: Mapping[str, int] = MappingProxyType({}),
        total_steps: int = 0,
        name: str = "nesterov",
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **settings)
        self.momentum, self.decay = momentum, decay
        self.scales, self.frozen = dict(scales), dict(frozen)
        self.total_steps = total_steps

    def build(self, variables: Any) -> None:
        """Create the velocities of these variables."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        self._scale_of = [_by_path(self.scales, variable, 1.0) for variable in variables]
        self._frozen_at = [_by_path(self.frozen, variable, None) for variable in variables]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Take one step of one variable."""
        index = self._get_variable_index(variable)
        velocity, scale, last = self._velocities[index], self._scale_of[index], self._frozen_at[index]
        rate = tf.cast(learning_rate, variable.dtype) * scale
        if last is not None:
            rate *= tf.cast(self.iterations.value < last, rate.dtype)
        gradient = tf.cast(gradient, variable.dtype) + self.decay / scale * variable
        moved = self.momentum * velocity.value + gradient
        self.assign(velocity, moved)
        self.assign_sub(variable, rate * (gradient + self.momentum * moved))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = ("momentum", "decay", "scales", "frozen", "total_steps")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _by_path(values: Mapping[str, Any], variable: keras.Variable, default: Any) -> Any:
    return next((value for end, value in values.items() if variable.path.endswith(end)), default)


def lookahead(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    total: int,
    first: int,
    every: int,
    momentum: Callable[[tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor], None]:
    """Lookahead over weights and statistics (Zhang et al. 2019), as a recipe's `after_step`.

    From step `first`, after every so many steps, the slow weights move towards the network's, and the network
    takes the slow ones. At the end of the run it takes them once more.

    Args:
        model, optimizer: the optimizer is built, and receives the slow weights as variables.
        total: steps of the run.
        first: the step at which the slow weights start; a multiple of `every`.
        every: steps between two updates of the slow weights.
        momentum: the share of the slow weights that an update keeps, after a share of the run, float32.
    """
    weights = list(model.weights)
    slow = [optimizer.add_variable_from_reference(weight, name="slow") for weight in weights]

    def after_step(step: tf.Tensor) -> None:
        due = (step >= first) & (step % every == 0)
        kept = momentum(tf.cast(step, tf.float32) / total)
        # The first update keeps nothing.
        kept = tf.where(step == first, 0.0, kept)
        kept = tf.where(due, kept, 1.0)
        taken = (due & (step > first)) | ((step == total) & (step > first))
        for weight, average in zip(weights, slow, strict=True):
            average.assign(kept * average.value + (1.0 - kept) * weight.value)
            weight.assign(tf.where(taken, average.value, weight.value))

    return after_step


class StatisticsAverage:
    """The moving average of a network's statistics, such as batch normalization's.

    Keras's optimizers average the weights that they train and no others; averaged weights need the statistics
    that belong to them. The averages are variables of the optimizer, so that checkpoints include them.

    Args:
        model, optimizer: built.
        momentum: of the average, as of the weights'.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, momentum: float) -> None:
        self._momentum = momentum
        self._weights = list(model.non_trainable_weights)
        self._averages = [
            optimizer.add_variable_from_reference(weight, name="average") for weight in self._weights
        ]

    def update(self, step: tf.Tensor) -> None:
        """Average the values after `step` steps, from 1; the first are taken as they are."""
        momentum = tf.where(step > 1, self._momentum, 0.0)
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign(momentum * average.value + (1.0 - momentum) * weight.value)

    def finalize(self) -> None:
        """Give the network the averages."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average.value)


def exclude_from_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Exclude biases and normalization parameters from weight decay."""
    if optimizer.weight_decay is not None:
        # By name: the biases of attention and of EinsumDense have two axes.
        small = [v for v in variables if v.name in ("bias", "gamma", "beta") or len(v.shape) <= 1]
        optimizer.exclude_from_weight_decay(var_list=small)


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels and logits with label smoothing (Szegedy et al. 2016, section 7).

    The target of the label's class is 1 - smoothing + smoothing / K, that of the K - 1 others smoothing / K.
    Keras's sparse cross-entropy does not offer label smoothing.

    Args:
        smoothing: from 0 to below 1.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_cross_entropy")
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """float32 [B], from labels, integer [B], and logits, float32 [B, K]."""
        classes = y_pred.shape[-1]
        # A product with one-hot labels: picking each label's logit has a gradient that scatters.
        targets = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        targets = (1.0 - self.smoothing) * targets + self.smoothing / classes
        return -tf.reduce_sum(targets * tf.nn.log_softmax(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"smoothing": self.smoothing}
