"""Builds a run's network, optimizer and loop from its settings."""

import dataclasses
from typing import Any

import keras
import numpy as np

from cifar_trainer.data.dataset import Split
from cifar_trainer.data.mapped import is_large, release_pages
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.optimizers import (
    Schedule,
    StatisticsAverage,
    WarmUp,
    exclude_from_decay,
    rate_of,
    reduce_rate,
)
from cifar_trainer.recipes.own import check_network
from cifar_trainer.recipes.recipe import augmentation, smoothed_cross_entropy
from cifar_trainer.settings import Settings
from cifar_trainer.training.distributed import SINGLE, Replicas
from cifar_trainer.training.layers import check_shardable, choose_variants
from cifar_trainer.training.loop import StepLoop, balanced_weights
from cifar_trainer.training.transfer import frozen_layers

#: The share of the learning rate that layers get after `--unfreeze-after`.
UNFROZEN_RATE = 0.1
#: Images for a recipe's `initialize` if the data are too large to keep in memory.
INITIAL_IMAGES = 1_000


def assemble(
    config: Settings,
    recipe: Recipe,
    train: Split,
    indices: np.ndarray,
    *,
    classes: int,
    gpu: bool,
    replicas: Replicas = SINGLE,
    stacked: bool = False,
) -> StepLoop:
    """Build a run's network, optimizer and loop; the run's seed determines the initial weights.

    The model is compiled, so that callbacks and the saved model see its optimizer, loss and metrics.

    Args:
        config: the settings.
        recipe: the settings' recipe.
        train: the whole training split.
        indices: int64 [N], indices of the images to train on.
        classes: number of classes.
        gpu: whether the device is a GPU, which determines XLA's default and how batches are split.
        replicas: the processes that train together.
        stacked: whether the steps of several seeds are computed at once.

    Raises:
        UsageError: several processes cannot train the network, or a custom recipe's network is invalid.
    """
    keras.utils.set_random_seed(config.seed)
    steps = -(-len(indices) // config.batch_size)
    recipe = overridden(recipe, config, steps)
    model = build_model(recipe, config.precision, train.images.shape[1:], classes)
    optimizer = build_optimizer(recipe, config, steps * config.epochs)
    labels = train.labels[indices]
    rows = indices if is_large(train.images) else None
    # Do not copy all images in order: the device can read the memory-mapped file directly.
    is_whole = rows is not None or len(indices) == len(train)
    images = train.images if is_whole else train.images[indices]
    first = images if rows is None else images[rows[:INITIAL_IMAGES]]
    if recipe.initialize is not None:
        recipe.initialize(model, first)
    check_network(recipe, model)
    frozen = frozen_layers(model, config.freeze)
    for layer in (part for each in frozen for part in each._flatten_layers()):
        # Unfrozen statistics would soon forget the parent's data (keras.io/guides/transfer_learning).
        if config.unfreeze_after is None or isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    if replicas is not SINGLE:
        check_shardable(model)
    model.compile(optimizer, recipe.loss(), metrics=["accuracy"])
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if config.weight_decay is not None:
        exclude_from_decay(inner, model.trainable_variables)
    optimizer.build(model.trainable_variables)
    averages = None if config.ema is None else StatisticsAverage(model, inner, config.ema)
    unfrozen_at = (config.unfreeze_after or 0) * steps
    unfrozen = [variable for layer in frozen for variable in layer.trainable_variables]
    if unfrozen:
        reduce_rate(inner, unfrozen, UNFROZEN_RATE, unfrozen_at)
    loop = StepLoop(
        recipe,
        model,
        optimizer,
        images,
        labels,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        # XLA does not support the collective operations that sum over processes.
        xla=(gpu and replicas is SINGLE) if config.xla is None else config.xla,
        shards=2 if not gpu and recipe.splittable and not stacked else 1,
        variants=choose_variants(model, config.batch_size, gpu=gpu, conv=config.conv, stacked=stacked),
        statistics=averages,
        class_weights=None if config.class_weights is None else balanced_weights(labels, classes),
        replicas=replicas,
        frozen=unfrozen,
        unfrozen_at=unfrozen_at,
        rows=rows,
    )
    release_pages(train.images)
    return loop


def overridden(recipe: Recipe, config: Settings, steps_per_epoch: int) -> Recipe:
    """The recipe with its optimizer, loss and augmentation changed as the settings require.

    Args:
        recipe: the recipe.
        config: the settings.
        steps_per_epoch: converts `warmup` into steps.
    """
    changes: dict[str, Any] = {}
    if config.label_smoothing is not None:
        changes["loss"] = smoothed_cross_entropy(config.label_smoothing)
    if config.augment is not None:
        changes["augment"] = augmentation(config.augment)
    if any(value is not None for value in (config.schedule, config.warmup, config.weight_decay, config.ema)):

        def build_optimizer(learning_rate: float, total_steps: int) -> keras.optimizers.Optimizer:
            optimizer = recipe.build_optimizer(learning_rate, total_steps)
            warmup = round((config.warmup or 0.0) * steps_per_epoch)
            # Pass an object: `from_config` could not find a custom schedule by its name.
            rate = rate_of(optimizer)
            if config.schedule == "plateau":
                rate = learning_rate
            elif config.schedule is not None:
                rate = Schedule(config.schedule, learning_rate, total_steps, warmup)
            elif config.warmup is not None:
                rate = WarmUp(rate, warmup)
            arguments = {**optimizer.get_config(), "learning_rate": rate}
            if config.weight_decay is not None:
                arguments["weight_decay"] = config.weight_decay
                if "decay" in arguments:
                    # The option replaces the L2 term that `Nesterov` adds to the gradient.
                    arguments["decay"] = 0.0
            if config.ema is not None:
                arguments |= {"use_ema": True, "ema_momentum": config.ema, "ema_overwrite_frequency": None}
            return type(optimizer).from_config(arguments)

        changes["build_optimizer"] = build_optimizer
    return dataclasses.replace(recipe, **changes) if changes else recipe


def build_model(
    recipe: Recipe, precision: str, image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """A recipe's network, with layers that compute in `precision` and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision in ("float32", "tf32") else f"mixed_{precision}")
    try:
        return recipe.build_model(image_shape, classes)
    finally:
        keras.config.set_dtype_policy(before)


def build_optimizer(recipe: Recipe, config: Settings, steps: int) -> keras.optimizers.Optimizer:
    """A recipe's optimizer; with float16 it scales the loss (Micikevicius et al. 2018, 3.2)."""
    optimizer = recipe.build_optimizer(config.learning_rate, steps)
    if config.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
