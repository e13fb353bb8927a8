"""Out-of-sample probabilities by K folds: a small network predicts only images that it was not trained on."""

import dataclasses
import gc
from collections.abc import Callable

import keras
import numpy as np
from scipy.special import softmax

from cifar_trainer.data.dataset import Dataset
from cifar_trainer.model import LogitsFunction
from cifar_trainer.recipes import RECIPES
from cifar_trainer.settings import Settings
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.loop import MAX_CHUNK, StepLoop, epoch_order

RECIPE = "cpu90"
FOLDS = 4
#: Training of a fold: number of images, counting repetitions, and range of epochs of the whole training set.
_SEEN, _EPOCHS = 100_000, (2, 40)
#: Seed of the folds and of the training.
SEED = 0
#: Images per step: a fiftieth of the training set, within this range; fewer if they are larger than 32×32.
_BATCH = (32, 500)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of all folds' networks.

    Attributes:
        train: float64 [N, classes], probabilities from the network that was not trained on the image.
        test: float64 [M, classes], mean probabilities of all networks; none was trained on test images.
        model: the last fold's network.
    """

    train: np.ndarray
    test: np.ndarray
    model: keras.Model


def settings(dataset: Dataset) -> Settings:
    """The settings of each training."""
    count, (height, width, _) = max(len(dataset.train), 1), dataset.train.image_shape
    epochs = int(np.clip(_SEEN // count, *_EPOCHS))
    batch = int(np.clip(count // 50, *_BATCH))
    batch = max(1, min(batch, _BATCH[1] * 32 * 32 // (height * width), count * (FOLDS - 1) // FOLDS))
    return RECIPES[RECIPE].settings({"dataset": dataset.name, "epochs": epochs, "batch_size": batch})


def predict_out_of_sample(
    dataset: Dataset,
    config: Settings,
    *,
    gpu: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """For each fold, train a network on the other folds, and predict the fold and the test images.

    Copies of an image are in the same fold; otherwise their labels would leak.

    Args:
        dataset: the data.
        config: `settings`.
        gpu: whether the device is a GPU.
        on_progress: called with (epochs done, epochs in total).
    """
    train, count = dataset.train, len(dataset.train)
    fold = np.random.default_rng(SEED).permutation(count)[dataset.originals] % FOLDS
    # One program serves all folds: it has all images, and an epoch's order starts with those to train on.
    loop = assemble(config, RECIPES[RECIPE], train, np.arange(count), classes=len(dataset.classes), gpu=gpu)
    variables = [*loop.model.variables, *loop.optimizer.variables]
    initial = [variable.numpy() for variable in variables]
    predict = LogitsFunction(loop.model)

    def probabilities(images: np.ndarray) -> np.ndarray:
        mirrored = np.ascontiguousarray(images[:, :, ::-1])
        both = [softmax(predict(view).astype(np.float64), axis=1) for view in (images, mirrored)]
        mean: np.ndarray = np.mean(both, axis=0)
        return mean

    held_out = np.empty((count, len(dataset.classes)))
    tests = np.zeros((len(dataset.test), len(dataset.classes)))
    for number in range(FOLDS):
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        done = number * config.epochs

        def advance(epochs: int, done: int = done) -> None:
            on_progress(done + epochs, FOLDS * config.epochs)

        _train(loop, np.flatnonzero(fold != number), config, advance)
        inside = np.flatnonzero(fold == number)
        if len(inside):
            held_out[inside] = probabilities(train.images[inside])
        tests += probabilities(dataset.test.images) / FOLDS
    model = loop.model
    # The loop refers to itself; without this, its copy of the images would stay in memory.
    del loop
    gc.collect()
    return Predictions(held_out, tests, model)


def _train(loop: StepLoop, indices: np.ndarray, config: Settings, on_epoch: Callable[[int], None]) -> None:
    """Train on these images for as many steps as `loop` has in its epochs, in full batches only."""
    total, step, epoch = config.epochs * loop.steps, 0, 0
    steps = max(1, len(indices) // loop.batch_size)
    rest = np.setdiff1d(np.arange(loop.count), indices)
    while step < total:
        order = indices[epoch_order(config.seed, epoch, len(indices))]
        # The steps end before they reach the other images.
        loop.set_order(np.concatenate([order, rest]))
        first = 0
        while first < min(steps, total - step):
            count = min(MAX_CHUNK, min(steps, total - step) - first)
            loop.run(first, count, step + first)
            first += count
        step, epoch = step + first, epoch + 1
        on_epoch(step * config.epochs // total)
