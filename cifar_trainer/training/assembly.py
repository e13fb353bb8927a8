"""A run's parts, from its settings: network, optimizer, loop."""

import keras
import numpy as np

from cifar_trainer.data.dataset import Split, release_pages
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.own import check_network
from cifar_trainer.settings import Settings
from cifar_trainer.training.engine import StepLoop, balanced_weights
from cifar_trainer.training.layers import check_divisible, choose_forms
from cifar_trainer.training.overrides import StatisticsAverage, exclude_from_decay, overridden
from cifar_trainer.training.replicas import ALONE, Alone


def assemble(
    config: Settings,
    recipe: Recipe,
    train: Split,
    indices: np.ndarray,
    *,
    classes: int,
    gpu: bool,
    replicas: Alone = ALONE,
    stacked: bool = False,
) -> StepLoop:
    """Build a run's network, optimizer and loop; the first weights follow from its seed.

    The model is compiled, so that callbacks and the saved model are complete.

    Args:
        config: the settings.
        recipe: that they name.
        train: the whole training split.
        indices: of the images to train on, int64 [N].
        classes: how many there are.
        gpu: whether the device is a GPU; it decides XLA's default and how a batch is split.
        replicas: the processes that train together.
        stacked: whether the steps of several seeds are computed at once.

    Raises:
        UsageError: the network cannot be trained by several processes.
    """
    keras.utils.set_random_seed(config.seed)
    steps = -(-len(indices) // config.batch_size)
    recipe = overridden(recipe, config, steps)
    model = build_model(recipe, config.precision, train.images.shape[1:], classes)
    optimizer = build_optimizer(recipe, config, steps * config.epochs)
    if replicas is not ALONE:
        check_divisible(model)
    model.compile(optimizer, recipe.loss(), metrics=["accuracy"])
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if config.weight_decay is not None:
        exclude_from_decay(inner, model.trainable_variables)
    optimizer.build(model.trainable_variables)
    averages = None if config.ema is None else StatisticsAverage(model, inner, config.ema)
    # All images in order need no copy on the host: the map of the file is read once, by the device.
    images = train.images if len(indices) == len(train) else train.images[indices]
    labels = train.labels[indices]
    if recipe.initialize is not None:
        recipe.initialize(model, images)
    loop = StepLoop(
        recipe,
        model,
        optimizer,
        images,
        labels,
        batch_size=config.batch_size,
        seed=config.seed,
        # XLA has no such collective operations.
        xla=(gpu and replicas is ALONE) if config.xla is None else config.xla,
        shards=2 if not gpu and recipe.splittable and not stacked else 1,
        forms=choose_forms(model, config.batch_size, gpu=gpu, conv=config.conv, stacked=stacked),
        statistics=averages,
        class_weights=None if config.class_weights is None else balanced_weights(labels, classes),
        replicas=replicas,
    )
    release_pages(train.images)
    check_network(recipe, model)
    return loop


def build_model(
    recipe: Recipe, precision: str, image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """A recipe's network whose layers compute in `precision` and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision in ("float32", "tf32") else f"mixed_{precision}")
    try:
        return recipe.build_model(image_shape, classes)
    finally:
        keras.config.set_dtype_policy(before)


def build_optimizer(recipe: Recipe, config: Settings, steps: int) -> keras.optimizers.Optimizer:
    """A recipe's optimizer; under float16 it scales the loss (Micikevicius et al. 2018, 3.2)."""
    optimizer = recipe.build_optimizer(config.learning_rate, steps)
    if config.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
