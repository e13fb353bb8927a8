"""What TensorBoard shows of the watched split after each epoch, from logits that are there already."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata

from cifar_trainer import metrics
from cifar_trainer.data.dataset import Split
from cifar_trainer.training.tensorboard import EventWriter

#: The share of the time so far that all this may take; the first and the last epoch are drawn in any case.
TIME_SHARE = 0.02
#: Mistakes in the gallery.
MISTAKES = 15
#: Points of a precision-recall curve: thresholds 0, 0.01, …, 1.
THRESHOLDS = 101


class EpochPictures(keras.callbacks.Callback):
    """Writes the confusion matrix, the surest mistakes and precision-recall curves.

    Args:
        events: where they go.
        logits: gives the epoch's logits of the watched images, float32 [N, classes].
        watched: the images.
        classes: the names, by label.
        clock: gives seconds; for tests.
    """

    def __init__(
        self,
        events: EventWriter,
        logits: Callable[[], np.ndarray],
        watched: Split,
        classes: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._events, self._logits, self._watched, self._classes = events, logits, watched, classes
        self._clock = clock
        self._begun = clock()
        self._spent = 0.0
        # Seconds of the fastest drawing; the first, which imports Matplotlib, is slower than the others.
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
        # Matplotlib takes a second to import; a run that is stopped early need not wait for it.
        from cifar_trainer import plots

        labels, predicted = self._watched.labels, probabilities.argmax(axis=1)
        matrix = metrics.confusion_matrix(predicted, labels, len(self._classes))
        confidence = probabilities.max(axis=1)
        wrong = np.flatnonzero(predicted != labels)
        surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES]]
        confusion = plots.confusion_matrix_image(matrix, self._classes)
        gallery = plots.gallery_image(
            self._watched.images[surest], labels[surest], predicted[surest], confidence[surest], self._classes
        )
        self._events.write_images("confusion_matrix", confusion[None], step)
        self._events.write_images("surest_mistakes", gallery[None], step)

    def _write_curves(self, probabilities: np.ndarray, step: int) -> None:
        for label, name in enumerate(self._classes):
            tf.summary.write(
                f"precision_recall/{name}",
                precision_recall(probabilities[:, label], self._watched.labels == label),
                step=step,
                metadata=pr_curve_metadata.create_summary_metadata(name, "", THRESHOLDS),
            )


def precision_recall(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """What TensorBoard's plugin reads: true and false positives and negatives, precision, recall.

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
