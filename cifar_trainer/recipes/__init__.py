"""How a network looks and how it is trained; one module a recipe."""

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from cifar_trainer.config import check_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    import tensorflow as tf


RECIPES = ("document", "regularized")


class Recipe(Protocol):
    """What a recipe's module offers."""

    EPOCHS: int
    BATCH_SIZE: int
    LEARNING_RATE: float
    #: Whether a batch may be computed in parts: no layer of the network sees more than one image, or draws.
    SPLITTABLE: bool
    #: uint8 [B, 32, 32, 3] and an int32 [2] seed to uint8 [B, 32, 32, 3], without state; or None.
    augment: "Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None"

    def build_model(self) -> "keras.Model":
        """The network: uint8 [N, 32, 32, 3] named `images` to float32 logits [N, 10]."""

    def build_optimizer(self, learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
        """The optimizer, with its schedule over `total_steps` steps where it has one."""


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`. Imports no TensorFlow.

    Raises:
        UsageError: no recipe has that name.
    """
    check_choice("recipe", name, RECIPES)
    return cast(Recipe, importlib.import_module(f"cifar_trainer.recipes.{name}"))
