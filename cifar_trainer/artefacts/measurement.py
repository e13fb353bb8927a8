"""What an export is held to: the run's network, Keras's answers for real images, and their accuracy."""

import dataclasses

import numpy as np

from cifar_trainer import metrics
from cifar_trainer.artefacts.encodings import encode_in_turn
from cifar_trainer.artefacts.network import Network
from cifar_trainer.artefacts.verification import IMAGES, LEAST_IMAGES, Reference
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.data.splits import split_for
from cifar_trainer.errors import CheckError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import LogitsFunction, is_float32, load_model, to_float32, weights_sha256
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings

#: How far float32 arithmetic may move the accuracy of a model that was trained in less.
_PRECISION_ACCURACY = 0.01


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy, and what it was measured on.

    Attributes:
        split: `test`; `holdout`: training images set aside; or `train`: some of those trained on.
        images: their number.
        value: share classified rightly.
        low, high: 95 % interval (Wilson 1927).
    """

    split: str
    images: int
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A run's network, and what its artefacts are held to.

    Attributes:
        network: in float32.
        epochs: of its training.
        weights_sha256: over the weights as trained.
        reference: images and Keras's answers, for the gate.
        encoded: the same of image files of every kind, for what decodes them itself.
        accuracy: on the whole split.
        thresholds: of unfamiliar images, as `evaluate` has fitted them; None where it has not.
    """

    network: Network
    epochs: int
    weights_sha256: str
    reference: Reference
    encoded: Reference
    accuracy: Accuracy
    thresholds: metrics.Thresholds | None


def measure_model(run: Run, config: Settings, dataset: Dataset) -> MeasuredModel:
    """Load a run's network and let Keras classify the split that the run watched.

    Under --validation holdout that is the held-out images: the test set stays sealed. Else it
    is a look at the test set, which is recorded.

    Raises:
        RunError: the model, its result, or the report with the temperature, cannot be read.
        CheckError: a model trained in mixed precision is not as good in float32.
        OSError: the look at the test set cannot be recorded.
    """
    _, split = split_for(dataset, config)
    trained = load_model(run.model)
    digest = weights_sha256(trained)
    result = run.read_result()
    run.check_weights(result, digest)
    if config.validation == "test":
        run.record_look("export", result.epochs)
    preprocessing = run.read_data().preprocessing or Preprocessing(dataset.image_shape)
    network = Network(to_float32(trained), dataset.classes, preprocessing, run.read_temperature(digest))
    predict_logits = LogitsFunction(network.model)
    logits = predict_logits(split.images)
    if not is_float32(trained):
        _check_precision(metrics.accuracy(LogitsFunction(trained)(split.images), split.labels), logits, split)
    reference = _reference(network, split, logits, dataset.train, predict_logits)
    return MeasuredModel(
        network,
        result.epochs,
        digest,
        reference,
        _encoded_reference(reference, preprocessing, predict_logits),
        _accuracy(config.validation, logits, split),
        run.read_thresholds(digest),
    )


def _reference(
    network: Network, split: Split, logits: np.ndarray, train: Split, predict_logits: LogitsFunction
) -> Reference:
    images, labels = split.images, np.asarray(split.labels)
    if len(split) < LEAST_IMAGES:
        # Too few to prove anything; training images will do for telling two programs apart.
        more = spread(len(train), LEAST_IMAGES - len(split))
        images = np.concatenate([images, train.images[more]])
        labels = np.concatenate([labels, train.labels[more]])
        logits = np.concatenate([logits, predict_logits(train.images[more])])
    # The first images of a split may all be of one class; files are made of the first only.
    order = np.random.default_rng(0).permutation(len(labels))[:IMAGES]
    return Reference(
        images=np.ascontiguousarray(images[order]),
        labels=labels[order],
        logits=logits[order],
        classes=network.classes,
        temperature=network.temperature,
    )


#: The most image files that the gate tries.
_FILES = 1_000


def _encoded_reference(
    reference: Reference, preprocessing: Preprocessing, predict_logits: LogitsFunction
) -> Reference:
    """The first images as files of every kind, with Keras's answers to the pixels that Pillow decodes."""
    first = reference.first(_FILES)
    files = encode_in_turn(first.images)
    images = np.stack([preprocessing.decode(content).pixels for content in files])
    return dataclasses.replace(first, images=images, logits=predict_logits(images), files=tuple(files))


def spread(length: int, count: int) -> np.ndarray:
    """`count` indices below `length`, or all, evenly spaced from the first to the last: int64 [count]."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.int64)


def _check_precision(trained_accuracy: float, logits: np.ndarray, split: Split) -> None:
    accuracy = metrics.accuracy(logits, split.labels)
    if abs(accuracy - trained_accuracy) > _PRECISION_ACCURACY:
        raise CheckError(
            f"In float32 the model's accuracy is {accuracy:.2%}, in the precision of its training "
            f"{trained_accuracy:.2%}; they may be {_PRECISION_ACCURACY:.0%} apart. Nothing was exported."
        )


def _accuracy(validation: str, logits: np.ndarray, split: Split) -> Accuracy:
    right = int((logits.argmax(axis=1) == split.labels).sum())
    low, high = metrics.wilson_interval(right, len(split))
    return Accuracy(validation, len(split), right / len(split), low, high)
