"""What `cifar-trainer recipes` tells of the recipes."""

import dataclasses
import json
from pathlib import Path

import keras
import pytest
from command_line import RunCli, run_here
from keras import layers
from PIL import Image

from cifar_trainer.recipes import RECIPES
from cifar_trainer.recipes.catalogue import count_flops, describe


def test_flops_are_those_counted_by_hand() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(7)])
    assert count_flops(model) == 2 * (6 * 6 * 3 * 3 * 3 * 5 + 6 * 6 * 5 * 7)
    separable = keras.Sequential([keras.Input((8, 8, 3)), layers.SeparableConv2D(5, 3)])
    assert count_flops(separable) == 2 * 6 * 6 * (3 * 3 * 3 + 3 * 5)


def test_document_has_the_tutorials_parameters() -> None:
    assert describe(RECIPES["tutorial"]).parameters == 122_570


def test_the_json_has_the_contracts_keys_and_every_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the tutorial's network: to build them all takes long, and test_loop.py does it."""
    for name, recipe in RECIPES.items():
        same = dataclasses.replace(recipe, build_model=RECIPES["tutorial"].build_model)
        monkeypatch.setitem(RECIPES, name, same)
    done = run_here(["recipes", "--json"])
    told = json.loads(done.stdout)["recipes"]
    assert [each["name"] for each in told] == list(RECIPES)
    contract = {"name", "parameters", "flops_per_image", "epochs", "batch_size", "expected"}
    assert contract <= set(told[0])


def test_a_recipes_view_of_the_images_is_drawn(run_cli: RunCli, tmp_path: Path) -> None:
    plot = tmp_path / "view.png"
    options = ["--show", "regularized", "--augment", "randaugment:2:9,cutmix:1", "--data-dir", tmp_path]
    done = run_cli(["recipes", "--plot", plot, *options])
    assert done.returncode == 0, done.stderr
    with Image.open(plot) as image:
        assert image.width > 600
