"""The built-in recipes, one file each. Importing them does not import TensorFlow."""

from pathlib import Path

from cifar_trainer.recipes.applications import CONVNEXT_TINY, EFFICIENTNET_V2_B0, MOBILENET_V3_SMALL
from cifar_trainer.recipes.cpu90 import CPU90
from cifar_trainer.recipes.fast94 import FAST94
from cifar_trainer.recipes.recipe import EXPECTED_ON, Batch, Expected, Mixed, Recipe
from cifar_trainer.recipes.regularized import REGULARIZED
from cifar_trainer.recipes.resnet18 import RESNET18
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.recipes.vit import VIT, VIT_LARGE
from cifar_trainer.settings import FORMER_RECIPES, Settings, check_choice

__all__ = ["EXPECTED_ON", "RECIPES", "Batch", "Expected", "Mixed", "Recipe", "get_recipe", "is_splittable"]

#: The built-in recipes by name, in the order in which they are listed.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        TUTORIAL, REGULARIZED, RESNET18, VIT, VIT_LARGE, CPU90, FAST94,
        MOBILENET_V3_SMALL, EFFICIENTNET_V2_B0, CONVNEXT_TINY,
    )
}  # fmt: skip


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; if `name` ends in `.py`, the recipe defined in that file.

    Raises:
        UsageError: there is no such recipe (the message has the nearest name), or the file is not a recipe.
    """
    if name.endswith(".py"):
        from cifar_trainer.recipes.own import load_recipe

        return load_recipe(Path(name).expanduser())
    name = FORMER_RECIPES.get(name, name)
    check_choice("recipe", name, tuple(RECIPES))
    return RECIPES[name]


def is_splittable(settings: Settings) -> bool:
    """Whether a run with these settings may compute parts of a batch separately."""
    recipe = None if settings.recipe_sha256 else RECIPES.get(settings.recipe)
    return recipe is not None and recipe.splittable
