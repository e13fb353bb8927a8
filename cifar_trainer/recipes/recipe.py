"""What a recipe is: a network and how it is trained, as one value."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer.settings import Settings, declared

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The images of one training step, as a recipe's `augment` sees them.

    Attributes:
        images: uint8 [B, H, W, C].
        labels: uint8 [B].
        indices: int64 [B], the images' places among the training images of the run.
        epoch: int32 scalar, complete epochs before this step.
        step: int32 scalar, steps of the whole run before this one.
        seed: int32 [2], the seed of this step for TensorFlow's stateless random operations.
    """

    images: "tf.Tensor"
    labels: "tf.Tensor"
    indices: "tf.Tensor"
    epoch: "tf.Tensor"
    step: "tf.Tensor"
    seed: "tf.Tensor"


#: The data set that `Expected` is about.
EXPECTED_ON = "cifar10"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What earlier runs of a recipe reached on CIFAR-10's test set, with the recipe's own settings.

    Attributes:
        accuracy: the mean.
        n: how many runs, each with another seed or on other hardware.
        low, high: the lowest and the highest of them.
    """

    accuracy: float
    n: int
    low: float
    high: float


def adam(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Adam with Keras's defaults (Kingma & Ba 2015) at a constant rate."""
    import keras

    return keras.optimizers.Adam(learning_rate)


def cross_entropy() -> "keras.losses.Loss":
    """Cross-entropy of integer labels and logits."""
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """The file of a user's own recipe: its path, its content, and the SHA-256 of the content."""

    path: Path
    content: bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network and how it is trained. Its functions import TensorFlow; the value does not.

    Attributes:
        name: for `--recipe`.
        summary: one line.
        epochs, batch_size, learning_rate: the defaults of a run.
        build_model: returns the network for an image shape (height, width, channels) and a number of classes:
            from uint8 [N, H, W, C], named `images`, to float32 logits [N, classes].
        build_optimizer: returns the optimizer, with its schedule, for a learning rate and all steps of a run.
        loss: returns the loss of float32 logits [B, classes] against uint8 labels [B]. The training loop
            divides its sum over a batch by the images, and adds the losses of the layers (`model.losses`).
        augment: returns the images to train on, uint8 or float [B, H, W, C], for a batch; stateless.
        initialize: sets first weights from the training images, uint8 [N, H, W, C].
        after_step: is called once with the network and its built optimizer, and returns a function that is
            called after each step with the steps done so far (int32 scalar). Keep state in variables of the
            optimizer (`add_variable_from_reference`), which checkpoints include.
        predict: returns logits for the network and uint8 images [N, H, W, C], with augmentation at test time;
            None is the network alone.
        splittable: whether a batch may be computed in parts: no layer combines images or draws.
        stackable: whether the steps of several seeds can be computed at once: the layers, the optimizer and
            `augment` draw only by TensorFlow's stateless uniform and normal operations, do not branch on a
            value, and there is no `after_step`.
        expected: accuracy of earlier runs; None if fewer than three were measured.
        file: of a user's own recipe; None for the package's recipes.
    """

    name: str
    summary: str
    epochs: int
    batch_size: int
    learning_rate: float
    build_model: Callable[[tuple[int, int, int], int], "keras.Model"]
    build_optimizer: Callable[[float, int], "keras.optimizers.Optimizer"] = adam
    loss: Callable[[], "keras.losses.Loss"] = cross_entropy
    augment: "Callable[[Batch], tf.Tensor] | None" = None
    initialize: "Callable[[keras.Model, np.ndarray], None] | None" = None
    after_step: "Callable[[keras.Model, keras.optimizers.Optimizer], Callable[[tf.Tensor], None]] | None" = (
        None
    )
    predict: "Callable[[keras.Model, tf.Tensor], tf.Tensor] | None" = None
    splittable: bool = False
    stackable: bool = False
    expected: Expected | None = None
    file: RecipeFile | None = None

    def settings(self, given: Mapping[str, Any]) -> Settings:
        """The settings of a run: those given, by name, and the defaults of the recipe and of `train`.

        Raises:
            UsageError: a setting is not possible.
        """
        declarations = declared(Settings)
        own = {name: getattr(self, name) for name, each in declarations.items() if each.of_recipe}
        dataset = declarations["dataset"].default
        sha256 = None if self.file is None else self.file.sha256
        return Settings(**{"dataset": dataset, **own, **given, "recipe": self.name, "recipe_sha256": sha256})
