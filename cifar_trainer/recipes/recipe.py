"""The `Recipe` type: a network and its training method."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cifar_trainer.settings import Settings, declared, parse_augmentation

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The images of one training step, passed to a recipe's `augment`.

    Attributes:
        images: uint8 [B, H, W, C].
        labels: uint8 [B].
        indices: int64 [B], the images' indices among the run's training images.
        epoch: int32 scalar, number of complete epochs before this step.
        step: int32 scalar, number of steps of the run before this one.
        seed: int32 [2], this step's seed for TensorFlow's stateless random operations.
    """

    images: "tf.Tensor"
    labels: "tf.Tensor"
    indices: "tf.Tensor"
    epoch: "tf.Tensor"
    step: "tf.Tensor"
    seed: "tf.Tensor"


class Mixed(NamedTuple):
    """A batch whose images are mixed with others, as `--augment mixup` and `cutmix` do.

    Attributes:
        images: uint8 [B, H, W, C].
        others: labels of the images that were mixed in, uint8 [B].
        share: share of each image's own label in its target, float32 [B]; `others` has the rest.
    """

    images: "tf.Tensor"
    others: "tf.Tensor"
    share: "tf.Tensor"


#: The data set of `Expected`.
EXPECTED_ON = "cifar10"


@dataclasses.dataclass(frozen=True)
class Expected:
    """Accuracy of earlier runs on CIFAR-10's test set, with the recipe's default settings.

    Attributes:
        accuracy: the mean.
        n: number of runs, each with a different seed or on different hardware.
        low, high: the lowest and highest accuracy.
    """

    accuracy: float
    n: int
    low: float
    high: float


def adam(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Adam with Keras's defaults (Kingma & Ba 2015) and a constant learning rate."""
    import keras

    return keras.optimizers.Adam(learning_rate)


def with_cosine(
    name: str, *, warmup: float = 0.0, **arguments: float
) -> "Callable[[float, int], keras.optimizers.Optimizer]":
    """A recipe's `build_optimizer`: an optimizer of Keras or of ours, with a cosine schedule to 0.

    Args:
        name: the optimizer's name.
        warmup: share of the steps during which the rate rises linearly from 0.
        arguments: the optimizer's.
    """

    def build_optimizer(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
        import keras

        from cifar_trainer.recipes import optimizers

        steps = max(1, round(warmup * total_steps)) if warmup else 0
        rates = {"warmup_target": learning_rate, "warmup_steps": steps} if warmup else {}
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else learning_rate, max(1, total_steps - steps), **rates
        )
        kind = getattr(keras.optimizers, name, None) or getattr(optimizers, name)
        optimizer: keras.optimizers.Optimizer = kind(schedule, **arguments)
        return optimizer

    return build_optimizer


def augmentation(text: str) -> "Callable[[Batch], tf.Tensor | Mixed] | None":
    """A recipe's `augment` for a value of `--augment`; None for `none`.

    Raises:
        UsageError: the value is invalid.
    """
    operations = parse_augmentation(text)

    def augment(batch: Batch) -> "tf.Tensor | Mixed":
        from cifar_trainer.recipes.augmentation import apply_operations

        images, *mixture = apply_operations(batch.images, batch.labels, batch.seed, operations)
        return Mixed(images, *mixture) if mixture else images

    return augment if operations else None


def cross_entropy() -> "keras.losses.Loss":
    """Cross-entropy of integer labels and logits."""
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def smoothed_cross_entropy(smoothing: float) -> "Callable[[], keras.losses.Loss]":
    """A recipe's `loss`: cross-entropy with label smoothing."""

    def loss() -> "keras.losses.Loss":
        from cifar_trainer.recipes.optimizers import SmoothedCrossEntropy

        return SmoothedCrossEntropy(smoothing)

    return loss


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """The file of a custom recipe: path, content, and SHA-256 of the content."""

    path: Path
    content: bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network and its training method. Only the functions import TensorFlow.

    Attributes:
        name: the value of `--recipe`.
        summary: one line.
        epochs, batch_size, learning_rate: default settings.
        build_model: returns the network for an image shape (height, width, channels) and a number of classes.
            Its input is uint8 [N, H, W, C], named `images`; its output is float32 logits [N, classes].
        build_optimizer: returns the optimizer, with its schedule, for a learning rate and a run's steps.
        loss: returns the loss of float32 logits [B, classes] against uint8 labels [B]. The training loop
            divides its sum over a batch by the batch size, and adds the layers' losses (`model.losses`).
        augment: returns the images to train on, uint8 or float [B, H, W, C], for a batch; stateless.
        scales: factors of the images' height and width in equal parts of the run; (1.0,) keeps their size.
            Other factors need a network that accepts images of any size.
        frozen: the share of the run after which a variable is not trained any more, by the end of its path.
        initialize: sets initial weights from the training images, uint8 [N, H, W, C].
        predict: returns logits for the network and uint8 images [N, H, W, C], with test-time augmentation;
            None uses the network alone.
        pretrained: returns the network without its last layer, with weights trained on ImageNet, for an image
            shape; the keyword `offline` forbids downloading them.
        refused_formats: export formats that cannot hold the network, or change its predictions too much.
        splittable: whether a batch may be computed in parts: no layer combines images or is random.
        stackable: whether the steps of several seeds can be computed at once. The layers, the optimizer and
            `augment` must use only TensorFlow's stateless uniform and normal random operations and must not
            branch on a value.
        expected: accuracy of earlier runs; None if fewer than three were measured.
        file: the file of a custom recipe; None for a built-in recipe.
    """

    name: str
    summary: str
    epochs: int
    batch_size: int
    learning_rate: float
    build_model: Callable[[tuple[int, int, int], int], "keras.Model"]
    build_optimizer: Callable[[float, int], "keras.optimizers.Optimizer"] = adam
    loss: Callable[[], "keras.losses.Loss"] = cross_entropy
    augment: "Callable[[Batch], tf.Tensor | Mixed] | None" = None
    scales: tuple[float, ...] = (1.0,)
    frozen: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    initialize: "Callable[[keras.Model, np.ndarray], None] | None" = None
    predict: "Callable[[keras.Model, tf.Tensor], tf.Tensor] | None" = None
    pretrained: "Callable[..., keras.Model] | None" = None
    refused_formats: tuple[str, ...] = ()
    splittable: bool = False
    stackable: bool = False
    expected: Expected | None = None
    file: RecipeFile | None = None

    def settings(self, arguments: Mapping[str, Any]) -> Settings:
        """The settings of a run: these arguments, then the recipe's defaults, then those of `train`.

        Raises:
            UsageError: a setting is invalid.
        """
        declarations = declared(Settings)
        own = {name: getattr(self, name) for name, each in declarations.items() if each.of_recipe}
        dataset = declarations["dataset"].default
        sha256 = None if self.file is None else self.file.sha256
        return Settings(
            **{"dataset": dataset, **own, **arguments, "recipe": self.name, "recipe_sha256": sha256}
        )


def augmented(recipe: Recipe, images: "np.ndarray", epochs: int) -> "list[np.ndarray]":
    """A batch after augmentation in each of the first epochs, as uint8 or float [B, H, W, C].

    Args:
        recipe: its `augment` is applied if it has one.
        images: uint8 [B, H, W, C].
        epochs: number of epochs.
    """
    import numpy as np
    import tensorflow as tf

    if recipe.augment is None:
        return [images] * epochs
    seen = []
    for epoch in range(epochs):
        batch = Batch(
            images=tf.constant(images),
            labels=tf.zeros(len(images), tf.uint8),
            indices=tf.range(len(images), dtype=tf.int64),
            epoch=tf.constant(epoch),
            step=tf.constant(epoch),
            seed=tf.constant([0, epoch]),
        )
        result = recipe.augment(batch)
        seen.append(np.asarray(result.images if isinstance(result, Mixed) else result))
    return seen
