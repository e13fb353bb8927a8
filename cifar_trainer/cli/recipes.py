"""`cifar-trainer recipes`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import RECIPE, data_dir_option, make_command, plot_option, save_plot
from cifar_trainer.cli.options import setting_option
from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Settings, declared

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.recipes.catalogue import RecipeInfo, RecipeList


@make_command("recipes")
@click.option("--show", type=RECIPE, metavar="NAME|FILE.py", help="Recipe to draw; needs --plot.")
@plot_option("With --show: draw training images as the network sees them in three epochs.")
@setting_option(declared(Settings)["augment"])
@data_dir_option(help="Folder of the prepared data sets. Without CIFAR-10, --plot shows synthetic images.")
def command(
    output: "Output", /, show: str | None, plot: Path | None, augment: str | None, data_dir: Path | None
) -> None:
    """List the recipes.

    Parameters and FLOPs are for CIFAR-10; FLOPs are for the forward pass of one image.
    Expected is the mean accuracy of n earlier runs, if at least three were measured.

    \b
    Examples:
      cifar-trainer recipes
      cifar-trainer recipes --show regularized --plot augmented.png
      cifar-trainer recipes --show tutorial --augment cutmix:1 --plot mixed.png
    """
    from cifar_trainer.recipes import get_recipe
    from cifar_trainer.recipes.catalogue import augmentation_figure, list_recipes
    from cifar_trainer.recipes.recipe import augmentation

    if (show is None) != (plot is None):
        option, missing = ("--show", "--plot FILE") if plot is None else ("--plot", "--show NAME")
        raise UsageError(f"{option} needs {missing}.")
    recipe = None if show is None else get_recipe(show)
    if augment is not None:
        if recipe is None:
            raise UsageError("--augment needs --show NAME and --plot FILE.")
        recipe = dataclasses.replace(recipe, augment=augmentation(augment))
    listed = list_recipes(show, verbose=output.verbose)
    if recipe is not None and plot is not None:
        save_plot(plot, augmentation_figure(recipe, data_dir))
        output.note(f"figure: {plot}")
    output.result(listed, lambda listed: recipes_table(listed, output.width))


def _expected(info: "RecipeInfo") -> str:
    return "" if info.expected is None else f"{info.expected.accuracy:.2%} (n = {info.expected.n})"


def recipes_table(listed: "RecipeList", width: int) -> "Table":
    """One row per recipe; drops the least important columns to fit into `width`."""
    from cifar_trainer.cli.console import fitting_table

    rows = [
        {
            "recipe": info.name,
            "parameters": f"{info.parameters:,}",
            "MFLOPs": f"{info.flops_per_image / 1e6:,.1f}",
            "epochs": str(info.epochs),
            "batch": str(info.batch_size),
            "expected": _expected(info),
            "summary": info.summary,
        }
        for info in listed.recipes
    ]
    return fitting_table(
        rows,
        width,
        left=("recipe", "expected", "summary"),
        folding=("recipe", "summary"),
        less_important=("MFLOPs", "batch", "epochs", "parameters", "expected", "summary"),
    )
