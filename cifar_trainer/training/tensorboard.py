"""Callbacks that write a run's TensorBoard summaries: curves, figures, histograms, hyperparameters."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hp
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata

from cifar_trainer import __version__, files, metrics
from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import printable
from cifar_trainer.settings import Settings, declared
from cifar_trainer.training.history import METRICS


def truncate_events(folder: Path, last_step: int) -> None:
    """Remove the events in `folder` after step `last_step`.

    Writes the other events to a new file, which then replaces the old ones. Skips duplicates: a kill in
    between leaves both the new file and the old ones. Like TensorBoard, stops reading a file at a truncated
    record.

    Raises:
        OSError: the new file cannot be written; the old files are untouched.
    """
    old = sorted(folder.glob("events.out.tfevents.*"))
    if not old:
        return
    target = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.resumed"
    partial = folder / f"{files.PARTIAL_PREFIX}{target.name}"
    try:
        written: set[bytes] = set()
        with tf.io.TFRecordWriter(os.fsencode(partial)) as writer:
            for path in old:
                for record in _records(path):
                    digest = hashlib.sha256(record).digest()
                    if digest not in written and Event.FromString(record).step <= last_step:
                        writer.write(record)
                        written.add(digest)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    for path in old:
        if path != target:
            path.unlink()


def _records(path: Path) -> Iterator[bytes]:
    try:
        for record in tf.data.TFRecordDataset(os.fsencode(path)):
            yield record.numpy()
    except tf.errors.DataLossError:
        return


#: Training images to show.
SAMPLE_IMAGES = 25
#: Exceptions raised when an event cannot be written.
WRITE_ERRORS = (OSError, tf.errors.OpError)


class EventWriter(keras.callbacks.Callback):
    """Writes a run's metrics and settings to `train/` and `validation/` in `folder`.

    Args:
        folder: the run's tensorboard/ folder.
        config: settings, shown as text and as hyperparameters.
        description: added to the text, such as the data set's title.
        samples: uint8 [N, H, W, C], training images to show.
        warn: receives one message if events cannot be written; training then continues without them.
        resumed: whether the events before the first epoch already exist.
    """

    def __init__(
        self,
        folder: Path,
        config: Settings,
        description: Mapping[str, Any],
        samples: np.ndarray,
        *,
        warn: Callable[[str], None],
        resumed: bool,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._config = config
        self._description = description
        self._samples = samples
        self._warn = warn
        self._resumed = resumed
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._failed = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._attempt(self._open)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        row = logs or {}
        self._attempt(lambda: self._write_scalars(epoch + 1, row))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._attempt(self._close)

    def flush(self) -> None:
        """Flush the events to the operating system; call this before each checkpoint."""
        self._attempt(lambda: [writer.flush() for writer in self._writers.values()])

    def end_session(self, *, success: bool) -> None:
        """Record the end of the run, so that HParams shows it as finished or failed."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        event = hparams_summary.session_end_pb(status).SerializeToString()

        def write() -> None:
            with _writer(self._folder).as_default() as writer:
                tf.summary.experimental.write_raw_pb(event, step=0)
                writer.close()

        self._attempt(write)

    def write(self, split: str, write: Callable[[], Any]) -> None:
        """Call `write` to write summaries to `train` or `validation`; warn once if it fails."""

        def within() -> None:
            with self._writers[split].as_default():
                write()

        self._attempt(within)

    def write_figure(self, name: str, image: np.ndarray, step: int) -> None:
        """Write a figure, uint8 [H, W, 3], to `validation`."""
        self.write("validation", lambda: tf.summary.image(f"figures/{name}", image[None], step=step))

    def _attempt(self, write: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            write()
        except WRITE_ERRORS as error:
            self._failed = True
            self._warn(
                f"TensorBoard's files in {self._folder} cannot be written ({error}); training continues."
            )

    def _open(self) -> None:
        for split in ("train", "validation"):
            self._writers[split] = _writer(self._folder / split)
        if not self._resumed:
            self._write_description()
        self._write_hparams()
        self.flush()

    def _write_description(self) -> None:
        settings = {**self._config.to_json(), **self._description, "cifar-trainer": __version__}
        with self._writers["train"].as_default():
            tf.summary.text("settings", _markdown_table(settings), step=0)
            tf.summary.image(
                "figures/samples", self._samples[:SAMPLE_IMAGES], step=0, max_outputs=SAMPLE_IMAGES
            )
            tf.summary.graph(self._forward_graph())

    def _write_hparams(self) -> None:
        # The plugin looks for a session's metrics in subfolders of the folder with its hparams.
        values = self._hparams()
        with _writer(self._folder).as_default() as writer:
            hp.hparams_config(
                hparams=[hp.HParam(name) for name in values],
                metrics=[
                    hp.Metric(tag, group=group, display_name=f"{name} ({group})")
                    for group in ("validation", "train")
                    for name, tag in (("accuracy", "epoch/accuracy"), ("loss", "epoch/loss"))
                ],
            )
            # The run's name, preceded by its group's.
            hp.hparams(values, trial_id=printable("/".join(self._folder.absolute().parts[-3:-1])))
            writer.close()

    def _forward_graph(self) -> tf.Graph:
        specification = tf.TensorSpec([None, *self.model.input_shape[1:]], tf.uint8, name="images")
        forward = tf.function(lambda images: self.model(images, training=False), autograph=False)
        return forward.get_concrete_function(specification).graph

    def _hparams(self) -> dict[str, Any]:
        varied = [name for name, declaration in declared(Settings).items() if declaration.vary]
        values = {name: getattr(self._config, name) for name in (*varied, "seed", "validation", "limit")}
        shown = {name: "not set" if value is None else value for name, value in values.items()}
        return {**shown, "dataset": self._description.get("data", self._config.dataset)}

    def _write_scalars(self, step: int, row: Mapping[str, Any]) -> None:
        for metric in METRICS:
            if row.get(metric.name) is not None:
                with self._writers[metric.split].as_default():
                    tf.summary.scalar(metric.tag, row[metric.name], step=step)

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _writer(folder: Path) -> tf.summary.SummaryWriter:
    # As bytes, because TensorFlow accepts only UTF-8 strings, and a path may be anything.
    return tf.summary.create_file_writer(os.fsencode(folder))


def _markdown_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {json.dumps(value)} |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


#: Share of the elapsed time that figures may take; those of the first and last epoch are always drawn.
TIME_SHARE = 0.02
#: Number of errors in the gallery.
ERRORS = 15
#: Points of a precision-recall curve: thresholds 0, 0.01, …, 1.
THRESHOLDS = 101


class EpochImages(keras.callbacks.Callback):
    """Writes the confusion matrix, the most confident errors and precision-recall curves.

    Args:
        events: writes them.
        logits: returns the epoch's logits of the validation images, float32 [N, classes]; N is 0 before the
            first validation.
        validation: the validation images.
        classes: class names, by label.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        events: EventWriter,
        logits: Callable[[], np.ndarray],
        validation: Split,
        classes: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._events, self._logits, self._validation, self._classes = events, logits, validation, classes
        self._clock = clock
        self._started = clock()
        self._spent = 0.0
        # Seconds of the fastest drawing; the first one includes importing Matplotlib.
        self._cost: float | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._started = self._clock()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        began = self._clock()
        logits, step = self._logits(), epoch + 1
        if not logits.size:
            return
        probabilities = softmax(logits.astype(np.float64), axis=1)
        self._events.write("validation", lambda: self._write_curves(probabilities, step))
        self._spent += self._clock() - began
        if step == self.params.get("epochs") or self._is_affordable():
            began = self._clock()
            self._draw(probabilities, step)
            seconds = self._clock() - began
            self._spent += seconds
            self._cost = seconds if self._cost is None else min(self._cost, seconds)

    def _is_affordable(self) -> bool:
        if self._cost is None:
            return True
        return self._spent + self._cost <= TIME_SHARE * (self._clock() - self._started)

    def _draw(self, probabilities: np.ndarray, step: int) -> None:
        # Matplotlib takes a second to import, and a run that stops early does not need it.
        from cifar_trainer import plots

        labels, predicted = self._validation.labels, probabilities.argmax(axis=1)
        matrix = metrics.confusion_matrix(predicted, labels, len(self._classes))
        confidence = probabilities.max(axis=1)
        wrong = np.flatnonzero(predicted != labels)
        most_confident = wrong[np.argsort(-confidence[wrong], kind="stable")[:ERRORS]]
        figures = {
            "confusion_matrix": plots.confusion_figure(matrix, self._classes, plots.LIGHT),
            "most_confident_errors": plots.gallery_figure(
                self._validation.images[most_confident],
                labels[most_confident],
                predicted[most_confident],
                confidence[most_confident],
                self._classes,
                plots.LIGHT,
            ),
        }
        for name, figure in figures.items():
            self._events.write_figure(name, plots.pixels(figure), step)

    def _write_curves(self, probabilities: np.ndarray, step: int) -> None:
        for label, name in enumerate(self._classes):
            tf.summary.write(
                f"precision_recall/{name}",
                precision_recall(probabilities[:, label], self._validation.labels == label),
                step=step,
                metadata=pr_curve_metadata.create_summary_metadata(name, "", THRESHOLDS),
            )


def precision_recall(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Values for TensorBoard's plugin: true and false positives and negatives, precision, recall.

    Args:
        scores: float [N], 0 to 1.
        positive: bool [N].

    Returns:
        float32 [6, THRESHOLDS], by increasing threshold; a score equal to the threshold is positive.
    """
    thresholds = np.linspace(0, 1, THRESHOLDS)
    hits, alarms = np.sort(scores[positive]), np.sort(scores[~positive])
    tp = len(hits) - np.searchsorted(hits, thresholds)
    fp = len(alarms) - np.searchsorted(alarms, thresholds)
    fn, tn = len(hits) - tp, len(alarms) - fp
    precision = tp / np.maximum(tp + fp, 1)
    recall = tp / np.maximum(tp + fn, 1)
    return np.stack([tp, fp, tn, fn, precision, recall]).astype(np.float32)


#: Number of batches whose gradients are measured.
BATCHES = 32


class EpochHistograms(keras.callbacks.Callback):
    """Writes histograms of the weights, and of the cross-entropy's gradient norms over some batches.

    The gradients are those of plain cross-entropy, whatever the run's loss, at the epoch's last weights
    before averaging, without dropout and with batch normalization's moving averages. Training is unaffected.

    Args:
        events: writes them.
        train: the training split.
        indices: int64 [N], indices of the training images; the first batches are used.
        batch_size: images per batch.
    """

    def __init__(self, events: EventWriter, train: Split, indices: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self._events = events
        chosen = indices[: BATCHES * batch_size]
        starts = range(0, len(chosen), batch_size)
        self._batches = [
            (train.images[chosen[s : s + batch_size]], train.labels[chosen[s : s + batch_size]])
            for s in starts
        ]
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._norm = tf.function(self._gradient_norm, autograph=False, reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        norms = [float(self._norm(tf.constant(x), tf.constant(y))) for x, y in self._batches]
        self._events.write("train", lambda: self._write(norms, epoch + 1))

    def _gradient_norm(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.model(images, training=False))
        variables = [variable.value for variable in self.model.trainable_variables]
        return tf.linalg.global_norm(tape.gradient(loss, variables))

    def _write(self, norms: list[float], step: int) -> None:
        tf.summary.histogram("gradient_norm", norms, step=step)
        for variable in self.model.trainable_variables:
            tf.summary.histogram(f"weights/{variable.path}", variable.numpy(), step=step)
