"""`cifar-trainer recipes`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    data_dir_option,
    json_option,
    plot_option,
    print_json,
    save_plot,
    verbosity,
    verbosity_options,
)
from cifar_trainer.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.recipes.catalogue import RecipeInfo


@click.command(name="recipes")
@click.option("--show", metavar="NAME|FILE.py", help="The recipe whose view of the images --plot draws.")
@plot_option("With --show: draw training images as the network sees them in three epochs.")
@data_dir_option("recipes", help="Folder of the prepared data sets: CIFAR-10's images, or drawn ones.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, show: str | None, plot: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """List the recipes: networks, and how they are trained.

    Parameters and FLOPs are those for CIFAR-10's images and classes; FLOPs are of one image,
    forward. Expected is the accuracy of n earlier runs, where some were measured.

    \b
    Examples:
      cifar-trainer recipes
      cifar-trainer recipes --show regularized --plot augmented.png
    """
    from cifar_trainer import devices
    from cifar_trainer.cli.console import Output
    from cifar_trainer.recipes import get_recipe

    if (show is None) != (plot is None):
        given, missing = ("--show", "--plot FILE") if plot is None else ("--plot", "--show NAME")
        raise UsageError(f"{given} goes with {missing}.")
    recipe = None if show is None else get_recipe(show)
    output = Output(verbosity(ctx))
    devices.start(device="cpu", verbose=verbosity(ctx) > 0)
    from cifar_trainer.recipes import catalogue

    if recipe is not None and plot is not None:
        save_plot(plot, catalogue.augmentation_figure(recipe, data_dir))
        output.note(f"plot: {plot}")
    infos = catalogue.list_recipes() if recipe is None else (catalogue.describe(recipe),)
    if as_json:
        print_json({"recipes": [info.to_json() for info in infos]})
    else:
        output.result(recipes_table(infos))


def recipes_table(infos: "Sequence[RecipeInfo]") -> "Table":
    """The recipes as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    for name in ("parameters", "MFLOPs", "epochs", "batch"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("expected", no_wrap=True)
    table.add_column("summary")
    for info in infos:
        expected = info.expected
        table.add_row(
            info.name,
            f"{info.parameters:,}",
            f"{info.flops_per_image / 1e6:,.1f}",
            str(info.epochs),
            str(info.batch_size),
            "" if expected is None else f"{expected.accuracy:.2%} (n = {expected.n})",
            info.summary,
        )
    return table
