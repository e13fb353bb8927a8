"""Exporting a run: write beside the place, verify, and only then put in place, all formats or none."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer import files, ledger, metrics
from cifar_trainer.artefacts.documents import Export, describe_export, write_documents
from cifar_trainer.artefacts.formats import Format, write_artefact
from cifar_trainer.artefacts.network import Network
from cifar_trainer.artefacts.verification import LEAST_PICTURES, PICTURES, Reference, prove
from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.data.splits import split_for
from cifar_trainer.errors import CheckError, RunError
from cifar_trainer.model import LogitsFunction, is_float32, load_model, to_float32, weights_sha256
from cifar_trainer.run import Run, check_weights, read_temperature, read_thresholds

#: How far float32 arithmetic may move the accuracy of a model that was trained in less.
_PRECISION_ACCURACY = 0.01


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy, and what it was measured on.

    Attributes:
        split: `test`, or `holdout`: training images set aside.
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
    """The network, the epochs of its training, the hash of its weights, its answers, its accuracy.

    The answers are those for the gate; the accuracy is on the whole split. The thresholds of
    unfamiliar images are those that `evaluate` has fitted; None where it has not.
    """

    network: Network
    epochs: int
    weights_sha256: str
    reference: Reference
    accuracy: Accuracy
    thresholds: metrics.Thresholds | None


def measure_model(run: Run, config: TrainConfig, dataset: Dataset) -> MeasuredModel:
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
    check_weights(run, result, digest)
    if config.validation == "test":
        ledger.record_look(run, "export", result.epochs)
    network = Network(to_float32(trained), dataset.classes, read_temperature(run, digest))
    logits = LogitsFunction(network.model)(split.images)
    if not is_float32(trained):
        _check_precision(metrics.accuracy(LogitsFunction(trained)(split.images), split.labels), logits, split)
    reference = _reference(network, split, logits, dataset.train)
    return MeasuredModel(
        network,
        result.epochs,
        digest,
        reference,
        _accuracy(config.validation, logits, split),
        read_thresholds(run, digest),
    )


def _reference(network: Network, split: Split, logits: np.ndarray, train: Split) -> Reference:
    images, labels = split.images, np.asarray(split.labels)
    if len(split) < LEAST_PICTURES:
        # Too few to prove anything; training images will do for telling two programs apart.
        more = spread(len(train), LEAST_PICTURES - len(split))
        images = np.concatenate([images, train.images[more]])
        labels = np.concatenate([labels, train.labels[more]])
        logits = LogitsFunction(network.model)(images)
    # The first pictures of a split may all be of one class; encoded ones are made of the first only.
    order = np.random.default_rng(0).permutation(len(labels))[:PICTURES]
    return Reference(
        images=np.ascontiguousarray(images[order]),
        labels=labels[order],
        logits=logits[order],
        classes=network.classes,
        temperature=network.temperature,
    )


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


#: Pictures of the training split by which int8 sets its ranges; TensorFlow's guide asks for 100 to 500.
_EXAMPLES = 500


def export_run(
    run: Run,
    formats: Sequence[Format],
    output: Path,
    dataset: Dataset,
    *,
    replace: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export a run's model in each of `formats` into the folder `output`.

    The caller has passed `check_model` and what `preconditions` checks.

    Raises:
        RunError: the model cannot be read, or `output` cannot be written.
        CheckError: an artefact does not agree with the Keras model. Nothing is put in place.
    """
    with files.writing(run.path, "Make room, or give write access to the run's folder."):
        measured = measure_model(run, run.read_config(), dataset)
    examples = np.ascontiguousarray(dataset.train.images[spread(len(dataset.train), _EXAMPLES)])
    proofs = {}
    try:
        # The artefacts get their names when the block ends without an exception.
        with _folder(output), contextlib.ExitStack() as stack:
            for form in formats:
                partial = stack.enter_context(_staged(form, output, replace))
                on_progress(f"{form.name}: writing")
                write_artefact(form, measured.network, partial, examples)
                on_progress(f"{form.name}: proving on {len(measured.reference.labels):,} pictures")
                proofs[form.name] = prove(partial, form, measured.reference)
        exports = [describe_export(form, output / form.file_name, proofs[form.name]) for form in formats]
        write_documents(run, output, dataset, measured, exports)
    except (OSError, tf.errors.OpError) as error:
        raise RunError(
            f"{output} cannot be written: {error}. Make room, or choose another --output."
        ) from error
    return exports


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder; an exception takes it away again if it is new and holds nothing."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _staged(form: Format, output: Path, replace: bool) -> Iterator[Path]:
    target = output / form.file_name
    if form.is_folder:
        with files.atomic_folder(target, replace=replace) as partial:
            yield partial
    else:
        with files.atomic_path(target) as partial:
            yield partial
