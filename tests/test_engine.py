"""The compiled loop computes what plain Keras computes, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.recipes import get_recipe
from cifar_trainer.training.engine import StepLoop, seed_states, splittable
from cifar_trainer.training.order import augmentation_seed, epoch_order, layer_seeds

STEPS = 200
#: The largest difference of a loss that rounding explains, over 200 steps of training in which
#: it is fed back: both sides add the same float32 numbers in another order. Seen: 2e-4.
BOUND = 2e-3


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pattern of its own for each class, under noise: learned steadily, without a plateau.

    At a plateau's end training is chaotic: there plain Keras, too, would part from itself
    after a change in the last bit.
    """
    generator = np.random.default_rng(seed)
    patterns = np.kron(generator.integers(0, 160, (10, 8, 8, 3)), np.ones((1, 4, 4, 1)))
    labels = generator.integers(0, 10, count).astype(np.uint8)
    noise = generator.integers(0, 96, (count, 32, 32, 3))
    return (noise + patterns[labels]).astype(np.uint8), labels


def build(recipe_name: str, seed: int = 3) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    keras.utils.set_random_seed(seed)
    recipe = get_recipe(recipe_name)
    model = recipe.build_model()
    optimizer = recipe.build_optimizer(recipe.LEARNING_RATE / 5, 1000)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def loop_losses(
    recipe_name: str, images: np.ndarray, labels: np.ndarray, shards: int, **kwargs: object
) -> tuple[np.ndarray, keras.Model]:
    model, optimizer = build(recipe_name)
    augment = get_recipe(recipe_name).augment
    loop = StepLoop(
        model, optimizer, images, labels, batch_size=16, seed=5, augment=augment, shards=shards, **kwargs
    )
    losses, done, epoch = [], 0, 0
    while done < STEPS:
        loop.set_order(epoch_order(5, epoch, len(labels)))
        count = min(loop.steps, STEPS - done)
        losses.append(loop.run(0, count, done).losses)
        done, epoch = done + count, epoch + 1
    return np.concatenate(losses), model


def keras_losses(
    recipe_name: str, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, keras.Model]:
    """The same steps by `train_on_batch`: the same order, pictures and dropout masks."""
    model, optimizer = build(recipe_name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    augment = get_recipe(recipe_name).augment
    states = seed_states(model)
    per_epoch = -(-len(labels) // 16)
    losses = []
    for step in range(STEPS):
        epoch, at = divmod(step, per_epoch)
        chosen = epoch_order(5, epoch, len(labels))[16 * at : 16 * at + 16]
        batch = images[chosen]
        if augment is not None:
            batch = augment(tf.constant(batch), tf.constant([augmentation_seed(5), step])).numpy()
        for state, seed in zip(states, layer_seeds(5, len(states)), strict=True):
            state.assign(np.array([seed, step], np.int64))
        # A fresh metric a step: train_on_batch returns a running mean.
        model.reset_metrics()
        losses.append(float(model.train_on_batch(batch, labels[chosen])))
    return np.array(losses), model


@pytest.mark.parametrize(("recipe_name", "shards"), [("document", 1), ("document", 2), ("regularized", 1)])
def test_200_losses_are_those_of_keras_train_on_batch(recipe_name: str, shards: int) -> None:
    """The document's recipe, whole and in two halves, and one with dropout, normalization, augmentation.

    328 images make the last batch of an epoch a part of one (8 of 16).
    """
    images, labels = pictures(328)
    ours, our_model = loop_losses(recipe_name, images, labels, shards)
    plain, plain_model = keras_losses(recipe_name, images, labels)
    assert plain[-20:].mean() < 0.8 * plain[:20].mean(), "nothing was learned; the comparison says little"
    assert np.abs(ours - plain).max() < BOUND
    for mine, theirs in zip(our_model.weights, plain_model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=20 * BOUND)
