"""A run's TensorBoard summaries: curves, figures, histograms and hyperparameters, each by a callback."""

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
from cifar_trainer.settings import Settings, declared
from cifar_trainer.training.history import METRICS


def truncate_events(folder: Path, last_step: int) -> None:
    """Remove the events below `folder` after step `last_step`.

    The other events are written to one file, which then replaces the old ones; each once, since a kill in
    between leaves both. A record that a kill has truncated ends its file, as it does for TensorBoard.

    Raises:
        OSError: the new file cannot be written; the old ones are untouched.
    """
    old = sorted(folder.glob("events.out.tfevents.*"))
    if not old:
        return
    target = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.resumed"
    partial = folder / f"{files.PARTIAL_PREFIX}{target.name}"
    try:
        kept: set[bytes] = set()
        with tf.io.TFRecordWriter(os.fsencode(partial)) as writer:
            for path in old:
                for record in _records(path):
                    digest = hashlib.sha256(record).digest()
                    if digest not in kept and Event.FromString(record).step <= last_step:
                        writer.write(record)
                        kept.add(digest)
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
#: Errors of writing an event.
WRITE_ERRORS = (OSError, tf.errors.OpError)


class EventWriter(keras.callbacks.Callback):
    """Writes a run's events below `folder`, in `train/` and `validation/`: the metrics and the settings.

    Args:
        folder: the run's tensorboard/ folder.
        config: shown as text and as hyperparameters.
        description: added to the text, such as the title of the data.
        samples: uint8 [N, H, W, C], training images to show.
        warn: receives one message if something cannot be written; training then continues without.
        begun: whether the events before the first epoch exist already.
    """

    def __init__(
        self,
        folder: Path,
        config: Settings,
        description: Mapping[str, Any],
        samples: np.ndarray,
        *,
        warn: Callable[[str], None],
        begun: bool,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._config = config
        self._description = description
        self._samples = samples
        self._warn = warn
        self._begun = begun
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
        """Hand the events to the operating system; call it before each checkpoint."""
        self._attempt(lambda: [writer.flush() for writer in self._writers.values()])

    def end_session(self, *, success: bool) -> None:
        """Write the end of the run, so that HParams shows it as finished or failed."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        ending = hparams_summary.session_end_pb(status).SerializeToString()

        def write() -> None:
            with _writer(self._folder).as_default() as writer:
                tf.summary.experimental.write_raw_pb(ending, step=0)
                writer.close()

        self._attempt(write)

    def write(self, split: str, write: Callable[[], Any]) -> None:
        """Call `write`, which writes summaries of `train` or `validation`; warn once if it fails."""

        def within() -> None:
            with self._writers[split].as_default():
                write()

        self._attempt(within)

    def write_figure(self, name: str, image: np.ndarray, step: int) -> None:
        """Write a figure about the validation images: uint8 [H, W, 3]."""
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
        if not self._begun:
            self._write_beginning()
        self._write_hparams()
        self.flush()

    def _write_beginning(self) -> None:
        settings = {**self._config.to_json(), **self._description, "cifar-trainer": __version__}
        with self._writers["train"].as_default():
            tf.summary.text("settings", _markdown_table(settings), step=0)
            tf.summary.image(
                "figures/samples", self._samples[:SAMPLE_IMAGES], step=0, max_outputs=SAMPLE_IMAGES
            )
            tf.summary.graph(self._forward_graph())

    def _write_hparams(self) -> None:
        # The plugin finds a session's metrics in the folders below the one that holds its hparams.
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
            # The name of the run, with that of its group.
            hp.hparams(values, trial_id="/".join(self._folder.absolute().parts[-3:-1]))
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
    # As bytes: TensorFlow accepts UTF-8 texts only, and a folder's name may be anything.
    return tf.summary.create_file_writer(os.fsencode(folder))


def _markdown_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {json.dumps(value)} |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


#: The share of the time so far that figures may take; those of the first and the last epoch are always drawn.
TIME_SHARE = 0.02
#: Errors in the gallery.
ERRORS = 15
#: Points of a precision-recall curve: thresholds 0, 0.01, …, 1.
THRESHOLDS = 101


class EpochImages(keras.callbacks.Callback):
    """Writes the confusion matrix, the most confident errors and precision-recall curves.

    Args:
        events: receives them.
        logits: returns the epoch's logits of the validation images, float32 [N, classes].
        validation: the images.
        classes: the names, by label.
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
        self._begun = clock()
        self._spent = 0.0
        # Seconds of the fastest drawing; the first also imports Matplotlib.
        self._cost: float | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._begun = self._clock()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        began = self._clock()
        logits, step = self._logits(), epoch + 1
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
        return self._spent + self._cost <= TIME_SHARE * (self._clock() - self._begun)

    def _draw(self, probabilities: np.ndarray, step: int) -> None:
        # Matplotlib takes a second to import, which a run that is stopped early does not need.
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
    """The values that TensorBoard's plugin shows: true and false positives and negatives, precision, recall.

    Args:
        scores: float [N], 0 to 1.
        positive: bool [N].

    Returns:
        float32 [6, THRESHOLDS], by rising threshold; a score at the threshold counts as positive.
    """
    thresholds = np.linspace(0, 1, THRESHOLDS)
    hits, alarms = np.sort(scores[positive]), np.sort(scores[~positive])
    tp = len(hits) - np.searchsorted(hits, thresholds)
    fp = len(alarms) - np.searchsorted(alarms, thresholds)
    fn, tn = len(hits) - tp, len(alarms) - fp
    precision = tp / np.maximum(tp + fp, 1)
    recall = tp / np.maximum(tp + fn, 1)
    return np.stack([tp, fp, tn, fn, precision, recall]).astype(np.float32)


#: Batches whose gradients are measured.
BATCHES = 32


class EpochHistograms(keras.callbacks.Callback):
    """Writes the values of each weight, and the norms of the cross-entropy's gradient over some batches.

    The gradients are those of plain cross-entropy, whatever the run's loss is, at the epoch's last weights
    before any averaging, without dropout and with batch normalization's moving averages. The state of the
    training does not change.

    Args:
        events: receives them.
        train: the training split.
        indices: of the images that are trained on, int64 [N]; the first batches of them are used.
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
