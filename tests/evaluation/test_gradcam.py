"""Grad-CAM on a network whose answer is known by hand."""

import keras
import numpy as np
import pytest

from cifar_trainer.evaluation.gradcam import GradCam, last_feature_map, representative_images
from cifar_trainer.recipes.regularized import REGULARIZED
from cifar_trainer.recipes.tutorial import TUTORIAL


def two_maps(weights: list[list[float]], pool: int = 1) -> keras.Model:
    """Maps that are the red and the green channel; logits = mean of each map · weights."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.AveragePooling2D(pool),
            keras.layers.Conv2D(2, 1, use_bias=False, name="maps"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(weights[0]), use_bias=False),
        ]
    )
    model.get_layer("maps").set_weights([np.array([[1, 0], [0, 1], [0, 0]], np.float32).reshape(1, 1, 3, 2)])
    model.layers[-1].set_weights([np.array(weights, np.float32)])
    return model


@pytest.fixture
def corners() -> np.ndarray:
    """One picture: red at the top left, half as bright green at the bottom right."""
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, :8, :8, 0] = 200
    image[0, 24:, 24:, 1] = 100
    return image


def test_the_map_is_the_relu_of_the_maps_weighted_by_their_mean_gradients(corners: np.ndarray) -> None:
    """Here the mean gradient of map k by class c is weights[k][c] / 1024."""
    model = two_maps([[1.0, 0.0, -1.0], [1.0, 2.0, -1.0]])
    red, green = corners[0, ..., 0] / 200, corners[0, ..., 1] / 100
    both, only_green, nothing = GradCam(model)(np.repeat(corners, 3, axis=0), [0, 1, 2])
    np.testing.assert_allclose(both, np.maximum(red, green / 2), atol=1e-6)
    np.testing.assert_allclose(only_green, green, atol=1e-6)
    assert not nothing.any()


def test_what_speaks_against_a_class_is_left_out(corners: np.ndarray) -> None:
    model = two_maps([[1.0], [-1.0]])
    np.testing.assert_allclose(GradCam(model)(corners, [0])[0], corners[0, ..., 0] / 200, atol=1e-6)


def test_a_small_map_is_enlarged_to_the_picture(corners: np.ndarray) -> None:
    heat = GradCam(two_maps([[1.0], [0.0]], pool=8))(corners, [0])[0]
    assert heat.shape == (32, 32)
    assert heat[:4, :4].min() > 0.99
    assert not heat[16:, 16:].any()


@pytest.mark.parametrize(("recipe", "name"), [(TUTORIAL, "conv3"), (REGULARIZED, "relu3")])
def test_the_last_map_of_a_recipe_is_that_of_its_last_convolution_after_its_activation(recipe, name) -> None:
    assert last_feature_map(recipe.build_model((32, 32, 3), 10)).name == name


def test_a_network_without_feature_maps_has_no_grad_cam() -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    assert GradCam(model)(np.zeros((1, 8), np.float32), [0]) is None


def test_explaining_again_builds_no_further_network(corners: np.ndarray, monkeypatch) -> None:
    """A server explains each upload; Keras keeps what it builds, so its memory would grow without end."""
    explain = GradCam(two_maps([[1.0], [0.0]]))

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(keras.models, "clone_model", refuse)
    monkeypatch.setattr(keras, "Model", refuse)
    np.testing.assert_array_equal(explain(corners, [0]), explain(corners, [0]))


def test_the_image_of_a_class_is_the_one_that_the_model_is_most_confident_about() -> None:
    logits = np.array([[2, 0, 0], [5, 0, 0], [0, 1, 0], [0, 0, 9]], np.float32)
    assert representative_images(logits, np.array([0, 0, 1, 1])).tolist() == [1, 2, -1]
