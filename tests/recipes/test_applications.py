"""The networks of keras.applications, and their weights from ImageNet."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import mobilenet_v3
from keras.src.backend import config as keras_config
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from cifar_trainer.errors import DataNotFoundError, UsageError
from cifar_trainer.recipes import RECIPES
from cifar_trainer.recipes.applications import build_base
from cifar_trainer.settings import Settings
from cifar_trainer.training.api import resume, train
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.transfer import find_weights

RECIPE = RECIPES["mobilenet-v3-small"]
FILE = "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"
KEY = "small_224_1.0_float"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's cache, empty, and no network."""
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path / "keras"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(file_utils, "urlretrieve", refuse)
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(cache: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """A network whose weights lie in the cache, as if they were those of ImageNet."""
    keras.utils.set_random_seed(7)
    model = build_base(RECIPE.name, (32, 32, 3), network="MobileNetV3Small")
    with h5py.File(cache / FILE, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    digest = hashlib.md5((cache / FILE).read_bytes()).hexdigest()
    monkeypatch.setitem(mobilenet_v3.WEIGHTS_HASHES, KEY, ("", digest))
    return model


@pytest.mark.usefixtures("without_figures")
def test_a_run_starts_from_imagenets_weights_in_kerass_cache_and_is_resumed_to_the_same_bits(
    published: keras.Model,
    small_data: Path,
    tmp_path: Path,
    copy_in_an_epoch: Callable[[Path, Path], Callable[[], bool]],
) -> None:
    """Whatever the size of the images; only the last layer is new. What a kill would leave is copied."""
    run, killed = tmp_path / "run", tmp_path / "killed"
    done = train(
        recipe="mobilenet-v3-small", weights="imagenet", freeze="all-but-head", offline=True,
        dataset="synthetic", data_dir=small_data, run_dir=run, epochs=1, limit=40, batch_size=10,
        device="cpu", checkpoint_every=1e-6, should_stop=copy_in_an_epoch(run, killed),
    )  # fmt: skip
    assert 0 < checkpoint_step(list_checkpoints(killed / "checkpoints")[0]) < 4
    assert resume(killed).weights_sha256 == done.weights_sha256
    trained = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False).get_weights()
    for mine, theirs in zip(trained[:-2], published.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["weights"] == "imagenet"
    assert config["weights_sha256"] != done.weights_sha256


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("damaged", [True, False])
def test_without_weights_the_error_says_where_they_are_from_and_where_they_belong(
    cache: Path, offline: bool, damaged: bool
) -> None:
    if damaged:
        (cache / FILE).write_bytes(b"half of it")
    assert RECIPE.pretrained is not None
    with pytest.raises(DataNotFoundError) as caught:
        RECIPE.pretrained((32, 32, 3), offline=offline)
    said = str(caught.value)
    assert f"keras-applications/mobilenet_v3/{FILE}" in said and str(cache / FILE) in said
    assert mobilenet_v3.WEIGHTS_HASHES[KEY][1] in said
    assert ("--offline" in said) == offline and ("are damaged" in said) == damaged


def test_imagenet_is_refused_by_name_for_a_recipe_without_such_weights() -> None:
    with pytest.raises(UsageError, match=r"not available for the recipe tutorial.*convnext-tiny"):
        find_weights(Settings("tutorial", "cifar10", 1, 1, 0.1, weights="imagenet"))


def test_greyscale_images_fit_and_too_small_ones_are_refused() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    grey, colour = (RECIPE.build_model((32, 32, channels), 3) for channels in (1, 3))
    colour.set_weights(grey.get_weights())
    np.testing.assert_array_equal(grey(images), colour(np.repeat(images, 3, axis=-1)))
    with pytest.raises(UsageError, match="at least 32×32 pixels, but these have 28×28"):
        RECIPE.build_model((28, 28, 1), 10)
