"""A run's model, the images that it is evaluated on, and its logits for them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.data.splits import evaluated_split, split_for, stratified_limit
from cifar_trainer.recipes import Recipe
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import Settings

if TYPE_CHECKING:
    import keras

#: Number of training images for fitting the thresholds for unfamiliar images if none were held out.
_TRAINING_IMAGES = 5000


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The model, data and logits that a report is made from.

    Attributes:
        history: the rows of history.csv for the epochs of the result.
        model: uint8 [N, H, W, C] to float32 logits [N, classes], in the precision of the training.
        predict_logits: images to logits, in batches, compiled once.
        split_name: `test` or `validation`.
        logits: float32 [N, classes] of the split's images.
        held_out: logits and labels of the held-out training images, for what is fitted after
            training; None if the run held none out.
        familiar: float32 [M, classes], logits for fitting the thresholds for unfamiliar images: from the
            held-out images, or from training images if there are none; never from the test set.
    """

    run: Run
    config: Settings
    recipe: Recipe
    dataset: Dataset
    result: TrainResult
    history: Sequence[Mapping[str, float | None]]
    model: "keras.Model"
    predict_logits: Callable[[np.ndarray], np.ndarray]
    split_name: str
    split: Split
    logits: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray] | None
    familiar: np.ndarray
    weights_sha256: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def predicted(self) -> np.ndarray:
        """Class of the largest logit, int64 [N]."""
        predicted: np.ndarray = self.logits.argmax(axis=1)
        return predicted


def load_subject(run: Run, dataset: Dataset, split_name: str) -> Subject:
    """Load a run's model and compute its logits for a split. Records a look at the test set.

    Raises:
        RunError: the model is damaged, contains code, or is not the one of result.json; or the look at the
            test set cannot be recorded.
    """
    from cifar_trainer.model import LogitsFunction, load_model, weights_sha256

    config, recipe, result = run.read_config(), run.read_recipe(), run.read_result()
    model = load_model(run.model)
    digest = weights_sha256(model)
    run.check_weights(result, digest)
    predict_logits = LogitsFunction(model, recipe.predict)
    split = evaluated_split(dataset, config, split_name)
    if split_name == "test":
        with files.writing(run.path, "Free some disk space, or make the run's folder writable."):
            run.record_look("evaluate", result.epochs)
    logits = predict_logits(split.images)
    held_out = None
    if split_name == "validation":
        held_out = (logits, split.labels)
    elif config.validation == "holdout":
        validation = evaluated_split(dataset, config, "validation")
        held_out = (predict_logits(validation.images), validation.labels)
    return Subject(
        run=run,
        config=config,
        recipe=recipe,
        dataset=dataset,
        result=result,
        # If the run was extended and then stopped, the file has more epochs than the model.
        history=run.read_history()[: result.epochs],
        model=model,
        predict_logits=predict_logits,
        split_name=split_name,
        split=split,
        logits=logits,
        held_out=held_out,
        familiar=predict_logits(_training_images(dataset, config)) if held_out is None else held_out[0],
        weights_sha256=digest,
    )


def _training_images(dataset: Dataset, config: Settings) -> np.ndarray:
    """Some of the images that the run was trained on, stratified: uint8 [N, H, W, C]."""
    trained, _ = split_for(dataset, config)
    some = stratified_limit(dataset.train.labels[trained], min(_TRAINING_IMAGES, len(trained)))
    images: np.ndarray = dataset.train.images[trained[some]]
    return images


def total_energy(history: Sequence[Mapping[str, float | None]]) -> float | None:
    """The GPU's energy over the epochs of a history in joules; None if it was not measured."""
    measured = [row["energy_joules"] for row in history if row["energy_joules"] is not None]
    return float(sum(measured)) if measured else None
