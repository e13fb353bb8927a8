"""Nesterov's momentum with a rate of its own for some variables, and its triangular schedule."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf


class Triangle(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly from `start` times the highest to it, and falls linearly to `end` times it.

    Args:
        highest: the highest rate.
        total: steps of the run; the last rate holds beyond them.
        start, end: shares of the highest rate.
        peak: where the highest is, as a share of the steps.
    """

    def __init__(self, highest: float, total: int, start: float, peak: float, end: float) -> None:
        self.highest, self.total, self.start, self.peak, self.end = highest, total, start, peak, end

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate, a float32 scalar, at a step from 0, an integer scalar."""
        top = max(1, int(self.peak * self.total))
        at = tf.minimum(tf.cast(step, tf.float32), float(self.total))
        rising = self.start + (1 - self.start) * at / top
        falling = 1 + (self.end - 1) * (at - top) / max(1, self.total - top)
        return self.highest * tf.minimum(rising, falling)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = ("highest", "total", "start", "peak", "end")
        return {name: getattr(self, name) for name in names}


class Nesterov(keras.optimizers.Optimizer):
    """Nesterov's momentum as PyTorch's SGD computes it.

    With gradient g, momentum m and the rate r of the step: g += decay * weight; v = m v + g;
    weight -= r (g + m v). The rate is outside of v, other than in Keras's own SGD.

    Args:
        learning_rate: a number or a schedule.
        momentum: m.
        decay: added to the gradient, in weights; an L2 penalty of half of it.
        scales: multiples of the rate, by the end of a variable's path; `decay` is divided by them.
        frozen: steps after which a variable stays as it is, by the end of its path.
        total_steps: of the run, for whoever acts late in it; the optimizer itself needs it for nothing.
        settings: further ones of Keras's optimizers.
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
        """Make the velocities of these variables."""
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
