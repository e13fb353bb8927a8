"""What a run shows in TensorBoard: a Keras callback that writes once an epoch.

The steps of all events are complete epochs, 0 before the first. Scalars bear the names
that `keras.callbacks.TensorBoard` gives them, so that both kinds of runs share charts.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

from cifar_trainer import __version__
from cifar_trainer.config import TrainConfig

#: The columns of the history that belong to each split, and their tags.
TRAIN_SCALARS = {
    "loss": "epoch_loss",
    "accuracy": "epoch_accuracy",
    "learning_rate": "epoch_learning_rate",
    "images_per_second": "images_per_second",
    "gpu_utilization": "gpu/utilization_percent",
    "gpu_memory_mib": "gpu/memory_mib",
    "power_watts": "gpu/power_watts",
    "energy_joules": "gpu/energy_joules",
}
VALIDATION_SCALARS = {"val_loss": "epoch_loss", "val_accuracy": "epoch_accuracy"}
SAMPLE_IMAGES = 25
#: What writing an event can raise.
WRITE_ERRORS = (OSError, tf.errors.OpError)


class EventWriter(keras.callbacks.Callback):
    """Writes a run's events below `folder`, as `train/` and `validation/`.

    Args:
        folder: the run's tensorboard/ folder.
        config: shown as text and as hparams.
        description: what else belongs to the text, such as the data's name.
        samples: uint8 [N, 32, 32, 3], training images to show.
        warn: told once when something cannot be written; training then goes on without.
        begun: whether the events before the first epoch are there already.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
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
        """Hand what was written to the operating system; called before each checkpoint."""
        self._attempt(lambda: [writer.flush() for writer in self._writers.values()])

    def write(self, split: str, write: Callable[[], Any]) -> None:
        """Call what writes summaries about `train` or `validation`; warn once where that fails."""

        def within() -> None:
            with self._writers[split].as_default():
                write()

        self._attempt(within)

    def write_images(self, tag: str, images: np.ndarray, step: int) -> None:
        """Write pictures about the watched split: uint8 [K, H, W, 3]."""
        self.write("validation", lambda: tf.summary.image(tag, images, step=step, max_outputs=len(images)))

    def _attempt(self, write: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            write()
        except WRITE_ERRORS as error:
            self._failed = True
            self._warn(
                f"TensorBoard's files in {self._folder} cannot be written ({error}); going on without."
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
            tf.summary.image("samples", self._samples[:SAMPLE_IMAGES], step=0, max_outputs=SAMPLE_IMAGES)
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
                    for name, tag in (("accuracy", "epoch_accuracy"), ("loss", "epoch_loss"))
                ],
            )
            hp.hparams(values)
            writer.close()

    def _forward_graph(self) -> tf.Graph:
        specification = tf.TensorSpec([None, *self.model.input_shape[1:]], tf.uint8, name="images")
        forward = tf.function(lambda images: self.model(images, training=False), autograph=False)
        return forward.get_concrete_function(specification).graph

    def _hparams(self) -> dict[str, Any]:
        chosen = (
            "recipe",
            "batch_size",
            "learning_rate",
            "seed",
            "precision",
            "validation",
            "epochs",
            "limit",
        )
        settings = self._config.to_json()
        values = {name: settings[name] if settings[name] is not None else "all" for name in chosen}
        return {**values, "dataset": self._description.get("data", self._config.dataset)}

    def _write_scalars(self, step: int, row: Mapping[str, Any]) -> None:
        for split, tags in (("train", TRAIN_SCALARS), ("validation", VALIDATION_SCALARS)):
            with self._writers[split].as_default():
                for column, tag in tags.items():
                    if row.get(column) is not None:
                        tf.summary.scalar(tag, row[column], step=step)

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _writer(folder: Path) -> tf.summary.SummaryWriter:
    # As bytes: TensorFlow takes no text that is not UTF-8, and a folder's name need not be.
    return tf.summary.create_file_writer(os.fsencode(folder))


def _markdown_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {json.dumps(value)} |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
