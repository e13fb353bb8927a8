"""What a run's settings change of its recipe: schedule, weight decay, label smoothing, averaging.

`overridden` gives the recipe that is trained. Where no such setting is given, it is the recipe itself.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.losses import SmoothedCrossEntropy
from cifar_trainer.settings import Settings

#: Where `triangular` has its peak, as a share of the steps, unless --warmup says it (as in Jordan 2024).
PEAK = 0.23
#: `plateau` multiplies the rate by this after so many epochs without a lower validation loss.
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.5, 3


def overridden(recipe: Recipe, config: Settings, steps_per_epoch: int) -> Recipe:
    """`recipe` with what the settings say about its optimizer and its loss.

    Args:
        recipe: as it is listed.
        config: the run's settings.
        steps_per_epoch: which translate `warmup` into steps.
    """
    changes: dict[str, Any] = {}
    if config.label_smoothing is not None:
        smoothing = config.label_smoothing
        changes["loss"] = lambda: SmoothedCrossEntropy(smoothing)
    if any(value is not None for value in (config.schedule, config.warmup, config.weight_decay, config.ema)):

        def build_optimizer(learning_rate: float, total_steps: int) -> keras.optimizers.Optimizer:
            optimizer = recipe.build_optimizer(learning_rate, total_steps)
            # As an object: `from_config` could not find a recipe's own schedule by its name.
            settings = {**optimizer.get_config(), "learning_rate": _rate_of(optimizer)}
            if config.schedule is not None:
                settings["learning_rate"] = learning_rate
            if config.schedule not in (None, "plateau") or config.warmup is not None:
                inner = None if config.schedule is not None else _rate_of(optimizer)
                settings["learning_rate"] = Schedule(
                    config.schedule or "recipe",
                    learning_rate,
                    total_steps,
                    round((config.warmup or 0.0) * steps_per_epoch),
                    inner,
                )
            if config.weight_decay is not None:
                settings["weight_decay"] = config.weight_decay
                if "decay" in settings:
                    # What a recipe's own optimizer adds to the gradient; the option takes its place.
                    settings["decay"] = 0.0
            if config.ema is not None:
                settings |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
            return type(optimizer).from_config(settings)

        changes["build_optimizer"] = build_optimizer
    return dataclasses.replace(recipe, **changes) if changes else recipe


def _rate_of(
    optimizer: keras.optimizers.Optimizer,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    return float(rate.numpy())


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step (from 0), with a linear warm-up before all but `triangular`.

    Over `warmup` steps the rate is multiplied by (step + 1) / warmup. After it:

    - `constant`: the peak.
    - `cosine`: from the peak along half a cosine to 0 (Loshchilov & Hutter 2017, without restarts).
    - `triangular`: linearly from 0 to the peak, which is at `warmup` steps, or at `PEAK` of all steps
      where that is 0; and linearly to 0 (Smith 2017).
    - `recipe`: what `inner` says.

    Args:
        kind: one of these.
        peak: the highest rate.
        total: steps of the run; beyond them the last rate holds.
        warmup: steps, at most `total`.
        inner: a rate, or the recipe's own schedule; for `recipe` only.
    """

    def __init__(
        self,
        kind: str,
        peak: float,
        total: int,
        warmup: int = 0,
        inner: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
    ) -> None:
        self.kind, self.peak, self.total, self.warmup, self.inner = kind, peak, total, warmup, inner

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate, a float32 scalar, at a step, an integer scalar."""
        at = tf.cast(step, tf.float32)
        done = tf.minimum(at, float(self.total))
        if self.kind == "triangular":
            top = float(self.warmup or max(1, round(PEAK * self.total)))
            down = tf.maximum(float(self.total) - done, 0.0) / max(1.0, self.total - top)
            return self.peak * tf.minimum(done / top, tf.minimum(down, 1.0))
        if self.kind == "cosine":
            share = tf.maximum(done - self.warmup, 0.0) / max(1.0, float(self.total - self.warmup))
            rate = self.peak * 0.5 * (1.0 + tf.cos(math.pi * share))
        elif callable(self.inner):
            rate = tf.cast(self.inner(step), tf.float32)
        else:
            rate = tf.constant(self.peak if self.inner is None else self.inner, tf.float32)
        if self.warmup:
            rate *= tf.minimum((at + 1.0) / self.warmup, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        inner = self.inner
        if isinstance(inner, keras.optimizers.schedules.LearningRateSchedule):
            inner = keras.optimizers.schedules.serialize(inner)
        return {
            "kind": self.kind, "peak": self.peak, "total": self.total, "warmup": self.warmup, "inner": inner,
        }  # fmt: skip


def plateau_factor(losses: Sequence[float]) -> float:
    """What `plateau` multiplies the rate by after epochs with these validation losses.

    It follows from them alone, so that a resumed run has the same rate.
    """
    factor, best, waited = 1.0, math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == PLATEAU_EPOCHS:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


class StatisticsAverage:
    """The moving average of what a network does not train, such as batch normalization's statistics.

    Keras's optimizers average the weights that they train and no others; averaged weights need the
    statistics that belong to them. The averages are variables of the optimizer, which checkpoints hold.

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
        """Take up the values after `step` steps, from 1; the first are taken as they are."""
        momentum = tf.where(step > 1, self._momentum, 0.0)
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign(momentum * average.value + (1.0 - momentum) * weight.value)

    def finalize(self) -> None:
        """Give the network the averages."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average.value)


def exclude_from_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Let biases and the scales and offsets of normalization be: weight decay is for kernels."""
    if optimizer.weight_decay is not None:
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) <= 1])
