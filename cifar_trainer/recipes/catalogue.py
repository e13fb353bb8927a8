"""The catalogue of recipes, shown by `cifar-trainer recipes`."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer import devices
from cifar_trainer.recipes import RECIPES, get_recipe
from cifar_trainer.recipes.recipe import Expected, Recipe, augmented
from cifar_trainer.results import Result
from cifar_trainer.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    import keras
    import numpy as np

    from cifar_trainer.plots import Figure

#: Parameters and FLOPs are counted for CIFAR-10.
IMAGE_SHAPE, CLASSES = (32, 32, 3), 10


@dataclasses.dataclass(frozen=True)
class RecipeInfo(Result):
    """A recipe, with the size of its network for CIFAR-10's images and classes.

    Attributes:
        name, summary: the recipe's.
        parameters: number of parameters of the network.
        flops_per_image: FLOPs of the convolutions and matrix products in a forward pass for one image; a
            multiply-add counts as two. Training takes about three times as many.
        epochs, batch_size, learning_rate: the recipe's defaults.
        expected: accuracy of earlier runs; None if fewer than three were measured.
    """

    name: str
    summary: str
    parameters: int
    flops_per_image: int
    epochs: int
    batch_size: int
    learning_rate: float
    expected: Expected | None


@dataclasses.dataclass(frozen=True)
class RecipeList(Result):
    """Recipes in the order of `RECIPES`."""

    recipes: tuple[RecipeInfo, ...]


def list_recipes(show: str | Path | None = None, *, verbose: bool = False) -> RecipeList:
    """List recipes with the sizes of their networks, which are built for this.

    Args:
        show: a recipe's name, or a Python file that defines one, to list only that recipe. None lists all
            built-in recipes.
        verbose: show TensorFlow's own messages.

    Raises:
        UsageError: there is no such recipe.
    """
    chosen = list(RECIPES.values()) if show is None else [get_recipe(str(show))]
    devices.start(device="cpu", verbose=verbose)
    return RecipeList(tuple(map(describe, chosen)))


def describe(recipe: Recipe) -> RecipeInfo:
    """Build a recipe's network and count its parameters and FLOPs."""
    model = recipe.build_model(IMAGE_SHAPE, CLASSES)
    return RecipeInfo(
        name=recipe.name,
        summary=recipe.summary,
        parameters=model.count_params(),
        flops_per_image=count_flops(model),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        expected=recipe.expected,
    )


def count_flops(model: "keras.Model") -> int:
    """FLOPs of a network's convolutions, dense and attention layers in a forward pass for one image."""
    import keras
    from keras import layers

    convolutions = layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D
    flops = 0
    for layer in model.layers:
        kernels = sum(math.prod(each.shape) for each in layer.weights if each.name.endswith("kernel"))
        if isinstance(layer, keras.Model):
            flops += count_flops(layer)
        elif isinstance(layer, convolutions | layers.Dense | layers.EinsumDense):
            # Every weight of a kernel is used once at each position of the output.
            flops += 2 * math.prod(layer.output.shape[1:-1]) * kernels
        elif isinstance(layer, layers.MultiHeadAttention):
            tokens, _ = layer.output.shape[1:]
            # Projections to queries, keys, values and output; then queries × keys, and weights × values.
            flops += 2 * tokens * kernels + 4 * tokens**2 * layer.num_heads * layer.key_dim
    return flops


#: Number of images and epochs in the figure.
_COLUMNS, _EPOCHS = 10, 3


def augmentation_figure(recipe: Recipe, data_dir: Path | None) -> "Figure":
    """Training images, with their augmented versions in the first epochs below.

    Args:
        recipe: its `augment` is shown.
        data_dir: folder of the prepared data sets. Without CIFAR-10 there, synthetic images are used.
    """
    import numpy as np

    from cifar_trainer.plots import LIGHT, as_rgb, new_figure

    images = _first_images(data_dir or DEFAULT_DATA_DIR)
    rows = [images, *augmented(recipe, images, _EPOCHS)]
    labels = ["image", *(f"epoch {epoch}" for epoch in range(1, _EPOCHS + 1))]
    with new_figure(LIGHT, 0.9 * _COLUMNS + 0.8, 0.95 * len(rows)) as figure:
        axes = figure.subplots(len(rows), _COLUMNS)
        for across, label, row in zip(axes, labels, rows, strict=True):
            for panel, image in zip(across, row, strict=True):
                if image.dtype != np.uint8:
                    # The range is arbitrary, so scale it from the darkest to the brightest value.
                    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-9)
                panel.imshow(as_rgb(image), interpolation="nearest")
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
            across[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def _first_images(data_dir: Path) -> "np.ndarray":
    from cifar_trainer.data.store import load_dataset
    from cifar_trainer.data.synthetic import draw_dataset

    if (data_dir / "cifar10").is_dir():
        return load_dataset(data_dir, "cifar10").train.images[:_COLUMNS]
    return draw_dataset({"train": _COLUMNS}).splits["train"].images
