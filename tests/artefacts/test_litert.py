"""What is stored in float16, and what stays exact."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from cifar_trainer.artefacts import litert
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import Network

pytest.importorskip("ai_edge_litert")

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)


def network(*hidden: keras.layers.Layer) -> Network:
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3), dtype="uint8", name="images")
    model = keras.Sequential([images, layers.Rescaling(1 / 255), *hidden, layers.Dense(3)])
    return Network(model, ("a", "b", "c"), Preprocessing((8, 8, 3)))


def write_both(network: Network, folder: Path) -> list[Path]:
    """Write a network with its weights in float32 and in float16."""
    kinds: tuple[litert.Weights, ...] = ("float32", "float16")
    for weights in kinds:
        litert.write(network, folder / weights, IMAGES, weights)
    return [folder / weights for weights in kinds]


def logits(path: Path) -> np.ndarray:
    return litert.open_artefact(path).predict(IMAGES).logits


def test_small_weights_stay_exact_in_float16(tmp_path: Path) -> None:
    exact, half = write_both(network(layers.Conv2D(24, 2), layers.GlobalMaxPooling2D()), tmp_path)
    np.testing.assert_array_equal(logits(half), logits(exact))


def test_large_weights_are_rounded_to_float16(tmp_path: Path) -> None:
    dense = layers.Dense(100)
    large = network(layers.Flatten(), dense)
    exact, half = map(logits, write_both(large, tmp_path))
    dense.kernel.assign(dense.kernel.numpy().astype(np.float16))
    rounded = large.model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(half, rounded, rtol=0, atol=1e-5)
    assert np.abs(exact - rounded).max() > 1e-4


def test_float16_halves_the_file(tmp_path: Path) -> None:
    exact, half = write_both(network(layers.Flatten(), layers.Dense(2000)), tmp_path)
    assert half.stat().st_size < 0.51 * exact.stat().st_size
