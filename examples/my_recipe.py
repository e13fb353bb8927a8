"""A custom recipe: a wider network, trained with SGD and flipped images.

    cifar-trainer recipes --show examples/my_recipe.py --plot augmented.png
    cifar-trainer train --recipe examples/my_recipe.py --epochs 2

cifar-trainer runs this file, and copies it into the run's folder.
"""

import keras
import tensorflow as tf
from keras import layers

from cifar_trainer.recipes import Batch, Recipe


def build_model(image_shape, classes):
    return keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8", name="images"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, dtype="float32", name="logits"),
        ]
    )


def build_optimizer(learning_rate, total_steps):
    return keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)


def augment(batch: Batch) -> tf.Tensor:
    flip = tf.random.stateless_uniform(tf.shape(batch.labels), batch.seed, alg="philox") < 0.5
    return tf.where(flip[:, None, None, None], batch.images[:, :, ::-1], batch.images)


RECIPE = Recipe(
    name="my-recipe", summary="wider, with SGD and flips", epochs=10, batch_size=64, learning_rate=0.02,
    build_model=build_model, build_optimizer=build_optimizer, augment=augment,
)  # fmt: skip
