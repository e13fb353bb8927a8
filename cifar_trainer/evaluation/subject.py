"""What is evaluated: a run's model, a split, and the logits of it."""

import dataclasses

import keras
import numpy as np

from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.splits import check_split, evaluated_split
from cifar_trainer.model import LogitsFunction, load_model, weights_sha256
from cifar_trainer.run import Run, TrainResult, check_weights


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """What a model says about training images that it was not trained on.

    Attributes:
        logits: float32 [N, 10].
        labels: uint8 [N].
    """

    logits: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A run's model, and the images that it is evaluated on.

    Attributes:
        run, config, dataset: the run, its settings, its data.
        model: uint8 [N, 32, 32, 3] to float32 logits [N, 10], in the precision of the training.
        predictor: computes its logits, compiled once.
        split_name: `test` or `validation`.
        images: uint8 [N, 32, 32, 3].
        labels: uint8 [N].
        split_sha256: of the files that the split was taken from: it tells the order of the images.
        logits: float32 [N, 10], of the images.
        held_out: the logits and labels of the training images that the run held out, for
            what is fitted after training; None where it held none out.
        weights_sha256: over the model's weights.
        result: what result.json says of the training.
    """

    run: Run
    config: TrainConfig
    dataset: Dataset
    model: keras.Model
    predictor: LogitsFunction
    split_name: str
    images: np.ndarray
    labels: np.ndarray
    split_sha256: str
    logits: np.ndarray
    held_out: HeldOut | None
    weights_sha256: str
    result: TrainResult

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def predicted(self) -> np.ndarray:
        """The class of the largest logit, int64 [N]."""
        predicted: np.ndarray = self.logits.argmax(axis=1)
        return predicted


def load_subject(run: Run, dataset: Dataset, split_name: str) -> Subject:
    """Load a run's model and compute its logits for a split.

    Raises:
        UsageError: the run has no such split.
        RunError: its model is damaged, holds code, or is not the one of its result.json.
    """
    config = run.read_config()
    check_split(config, split_name)
    model = load_model(run.model)
    digest = weights_sha256(model)
    result = run.read_result()
    check_weights(run, result, digest)
    predictor = LogitsFunction(model)
    split = evaluated_split(dataset, config, split_name)
    logits = predictor(split.images)
    return Subject(
        run=run,
        config=config,
        dataset=dataset,
        model=model,
        predictor=predictor,
        split_name=split_name,
        images=split.images,
        labels=split.labels,
        split_sha256=split.sha256,
        logits=logits,
        held_out=_held_out(config, dataset, predictor, split_name, logits),
        weights_sha256=digest,
        result=result,
    )


def _held_out(
    config: TrainConfig, dataset: Dataset, predictor: LogitsFunction, split_name: str, logits: np.ndarray
) -> HeldOut | None:
    if config.validation != "holdout":
        return None
    split = evaluated_split(dataset, config, "validation")
    return HeldOut(logits if split_name == "validation" else predictor(split.images), split.labels)
