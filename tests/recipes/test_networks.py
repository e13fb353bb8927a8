"""What holds for the larger networks: their size, what they are made of, and that runs go on to the bit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.evaluation.gradcam import GradCam, last_feature_map
from cifar_trainer.recipes import RECIPES
from cifar_trainer.recipes.catalogue import describe
from cifar_trainer.training.api import resume, train
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints


def trained_weights(name: str) -> int:
    model = RECIPES[name].build_model((32, 32, 3), 10)
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", 11_173_962), ("vit", 284_491), ("vit-large", 3_765_515)]
)
def test_a_network_has_the_weights_of_the_paper(name: str, weights: int) -> None:
    """0.28 and 3.76 million (Hassani et al. 2021, table 1); 11.17 million is ResNet-18's for ten classes."""
    assert trained_weights(name) == weights


def test_a_small_transformer_takes_as_many_operations_as_the_paper_says() -> None:
    """0.04 billion multiplications and additions (Hassani et al. 2021, table 1)."""
    assert describe(RECIPES["vit"]).flops_per_image / 2 == pytest.approx(0.04e9, rel=0.15)


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_network_takes_images_of_another_size_and_kind(name: str) -> None:
    model = RECIPES[name].build_model((28, 28, 1), 3)
    assert model(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "vit", "fast94"])
def test_a_network_is_made_of_keras_own_layers(name: str) -> None:
    model = RECIPES[name].build_model((32, 32, 3), 10)
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


def test_grad_cam_reads_a_transformers_last_tokens() -> None:
    model = RECIPES["vit"].build_model((32, 32, 3), 10)
    layer = last_feature_map(model)
    assert layer is not None
    assert layer.name == "map"
    maps = GradCam(model)(np.zeros((1, 32, 32, 3), np.uint8), [0])
    assert maps is not None
    assert maps.shape == (1, 32, 32)


def test_the_positional_embedding_is_all_that_the_positions_add() -> None:
    model = RECIPES["vit"].build_model((32, 32, 3), 10)
    layer = model.get_layer("positions")
    tokens = np.random.default_rng(0).normal(size=(2, 64, 128)).astype(np.float32)
    np.testing.assert_allclose(layer(tokens), tokens + layer.bias.numpy(), atol=1e-5)
    assert all(weight is not layer.kernel for weight in model.trainable_weights)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("name", ["vit", "fast94", "cpu90"])
def test_a_run_that_was_killed_in_an_epoch_goes_on_to_the_same_bits(
    name: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    copy_in_an_epoch: Callable[[Path, Path], Callable[[], bool]],
) -> None:
    """What a kill would leave is copied while the run goes on: each run more compiles the network again."""
    # Several views of each validation image would take most of the time, and change no weight.
    monkeypatch.setitem(RECIPES, name, dataclasses.replace(RECIPES[name], predict=None))
    run, killed = tmp_path / "run", tmp_path / "killed"
    whole = train(
        recipe=name, dataset="synthetic", data_dir=small_data, run_dir=run, epochs=2, limit=60,
        batch_size=12, device="cpu", validation="holdout", checkpoint_every=1e-6,
        should_stop=copy_in_an_epoch(run, killed),
    )  # fmt: skip
    assert 0 < checkpoint_step(list_checkpoints(killed / "checkpoints")[0]) < 5
    assert resume(killed).weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.frozen])
def test_what_a_recipe_freezes_are_variables_that_it_trains_before(name: str) -> None:
    model = RECIPES[name].build_model((32, 32, 3), 10)
    for end, share in RECIPES[name].frozen.items():
        assert [variable.path.endswith(end) for variable in model.trainable_variables].count(True) == 1
        assert 0 < share < 1


def test_a_transformer_drops_other_branches_in_each_step() -> None:
    model = RECIPES["vit"].build_model((32, 32, 3), 10)
    layer = model.get_layer("block2_path1")
    ones = tf.ones((400, 1, 1))
    kept = np.asarray(layer(ones, training=True)).ravel() > 0
    assert 0.8 < kept.mean() < 0.98
    assert isinstance(layer, keras.layers.Dropout)
