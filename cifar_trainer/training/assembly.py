"""A run's parts, from its settings: network, optimizer, and the compiled loop over its images."""

import dataclasses

import keras
import numpy as np

from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Split, release_pages
from cifar_trainer.recipes import Recipe, get_recipe
from cifar_trainer.training.engine import StepLoop


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What a trainer runs.

    Attributes:
        model: compiled, so that callbacks and the saved model are complete.
        optimizer: built on the model's trainable variables.
        loop: its images lie on the device.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    loop: StepLoop


def assemble(config: TrainConfig, train: Split, indices: np.ndarray, *, gpu: bool) -> Parts:
    """Build a run's parts; the first weights follow from its seed.

    Args:
        config: the settings.
        train: the whole training split.
        indices: of the images to train on, int64 [N].
        gpu: whether the device is a GPU; it decides XLA's default and how a batch is split.
    """
    keras.utils.set_random_seed(config.seed)
    recipe = get_recipe(config.recipe)
    model = build_model(recipe, config.precision)
    steps = -(-len(indices) // config.batch_size)
    optimizer = build_optimizer(recipe, config, steps * config.epochs)
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    optimizer.build(model.trainable_variables)
    # All images in order need no copy on the host: the map of the file is read once, by the device.
    images = train.images if len(indices) == len(train) else train.images[indices]
    loop = StepLoop(
        model,
        optimizer,
        images,
        train.labels[indices],
        batch_size=config.batch_size,
        seed=config.seed,
        augment=recipe.augment,
        xla=gpu if config.xla is None else config.xla,
        shards=2 if not gpu and recipe.SPLITTABLE else 1,
    )
    release_pages(train.images)
    return Parts(model, optimizer, loop)


def build_model(recipe: Recipe, precision: str) -> keras.Model:
    """A recipe's network whose layers compute in `precision` and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    try:
        return recipe.build_model()
    finally:
        keras.config.set_dtype_policy(before)


def build_optimizer(recipe: Recipe, config: TrainConfig, steps: int) -> keras.optimizers.Optimizer:
    """A recipe's optimizer; under float16 it scales the loss (Micikevicius et al. 2018, 3.2)."""
    optimizer = recipe.build_optimizer(config.learning_rate, steps)
    if config.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
