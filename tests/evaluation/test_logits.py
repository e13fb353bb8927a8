"""The logits of a model, and of a recipe that predicts otherwise than by the model alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.model import LogitsFunction
from cifar_trainer.recipes.tutorial import TUTORIAL

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return TUTORIAL.build_model((32, 32, 3), 10)


def mirrored(model: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """The mean of an image and its mirror image, as test-time augmentation does."""
    return (model(images, training=False) + model(images[:, :, ::-1], training=False)) / 2


def test_logits_in_batches_are_those_of_the_model(model: keras.Model) -> None:
    logits = LogitsFunction(model, batch_size=3)(IMAGES)
    np.testing.assert_allclose(logits, model(IMAGES, training=False), atol=1e-5)


def test_a_recipe_may_predict_otherwise_than_by_the_model_alone(model: keras.Model) -> None:
    logits = LogitsFunction(model, mirrored, batch_size=3)(IMAGES)
    np.testing.assert_allclose(logits, mirrored(model, tf.constant(IMAGES)), atol=1e-5)
