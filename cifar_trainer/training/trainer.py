"""The run's loop: chunks of steps, epochs, callbacks, checkpoints, history.csv."""

import contextlib
import csv
import dataclasses
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import files, metrics
from cifar_trainer.data.dataset import Split, release_pages
from cifar_trainer.environment.telemetry import GpuTelemetry
from cifar_trainer.errors import TrainingError
from cifar_trainer.model import LogitsFunction
from cifar_trainer.run import Run
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint, assign_variables, read_variables
from cifar_trainer.training.control import TrainingReporter
from cifar_trainer.training.engine import MAX_CHUNK, StepLoop, epoch_order

#: The columns, in order. The last four stay empty without an NVIDIA GPU.
COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "seconds",
    "gpu_utilization",
    "gpu_memory_mib",
    "power_watts",
    "energy_joules",
)


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file by a header and `rows`; None becomes an empty field.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, buffer.getvalue())


#: Seconds that a chunk of steps is made to take: the longest wait for a signal or the screen.
CHUNK_SECONDS = 0.5
#: Steps of the first chunk, which also waits for the compiler and tells the speed.
FIRST_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class Policy:
    """When to stop, and how often to save.

    Attributes:
        should_stop: asked between chunks of steps.
        checkpoint_every: seconds between checkpoints inside an epoch.
        flush: called before each checkpoint, so that nothing on the disk lags behind it.
        profile: profiles the second chunk of the run: called with True, then with False.
        gpu_bus_id: the GPU whose power and utilisation are read; None reads nothing.
    """

    should_stop: Callable[[], bool]
    checkpoint_every: float
    flush: Callable[[], None]
    profile: Callable[[bool], None] | None = None
    gpu_bus_id: str | None = None


class Trainer:
    """Runs epochs, from the first step or from a checkpoint on.

    Args:
        model, optimizer: the optimizer is built on the model's trainable variables.
        loop: the compiled steps over the training images.
        watched: the split that is classified after each epoch; its images go to the device, once.
        run: where checkpoints and history go; held by the caller.
        seed: the run's seed.
        identity: kept in each checkpoint, for whoever resumes to compare.
        predict: the recipe's `predict`, by which the watched split is classified; None is the model alone.

    Attributes:
        history: the rows of the complete epochs.
        validation_logits: of the watched images after the last complete epoch, float32 [N, classes].
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loop: StepLoop,
        watched: Split,
        run: Run,
        *,
        seed: int,
        identity: Mapping[str, Any],
        policy: Policy,
        reporter: TrainingReporter,
        predict: Callable[[keras.Model, tf.Tensor], tf.Tensor] | None = None,
    ) -> None:
        self._model, self._optimizer, self._loop, self._watched = model, optimizer, loop, watched
        self._run, self._seed, self._identity = run, seed, dict(identity)
        self._policy, self._reporter = policy, reporter
        self._predictor = LogitsFunction(model, predict)
        self._watched_images = tf.constant(watched.images)
        release_pages(watched.images)
        self._chunk_steps = FIRST_CHUNK
        self._chunks_run = 0
        self._saved_at = time.monotonic()
        self._saved_position: tuple[int, int] | None = None
        self.validation_logits = np.zeros((0, 0), np.float32)
        self.history: list[dict[str, Any]] = []
        self._epoch = self._step = self._global_step = 0
        self._losses = np.zeros(0, np.float32)
        self._correct = np.zeros(0, np.int32)
        self._clock = {"total": 0.0, "epoch": 0.0, "training": 0.0}
        self._telemetry = GpuTelemetry(policy.gpu_bus_id)
        # Of this epoch, used by the processes before this one.
        self._earlier_joules = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far, stops left out."""
        return self._clock["total"]

    @property
    def position(self) -> tuple[int, int]:
        """Complete epochs, and steps done of the next."""
        return self._epoch, self._step

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint.

        Raises:
            CheckpointError: its arrays do not fit this model and optimizer.
        """
        assign_variables(
            [*self._model.variables, *self._optimizer.variables],
            [*checkpoint.variables, *checkpoint.optimizer],
        )
        self._epoch, self._step = checkpoint.epoch, checkpoint.step
        self._global_step = checkpoint.global_step
        self._saved_position = self.position
        self._losses, self._correct = checkpoint.losses, checkpoint.correct
        self.history, self._clock = list(checkpoint.history), dict(checkpoint.clock)
        self._earlier_joules = self._clock.pop("joules", 0.0)

    def train(self, epochs: int, callbacks: Sequence[keras.callbacks.Callback]) -> bool:
        """Train until `epochs` epochs are complete, or somebody asks to stop.

        Returns:
            Whether the run is at its end (also when a callback set `stop_training`),
            rather than stopped on the way with a checkpoint to go on from.

        Raises:
            TrainingError: a loss or a weight is not finite, or memory ran out.
            OSError: a checkpoint could not be written; the ones before are whole.
        """
        callback_list = keras.callbacks.CallbackList(
            list(callbacks), model=self._model, epochs=epochs, steps=self._loop.steps, verbose=0
        )
        self._model.stop_training = False
        callback_list.on_train_begin()
        if self._saved_position is None:
            self._save()
        self._write_history()
        with self._telemetry:
            while self._epoch < epochs and not self._model.stop_training:
                if self._policy.should_stop() or not self._train_epoch(epochs, callback_list):
                    self._save()
                    return False
                self._finish_epoch(epochs, callback_list)
        callback_list.on_train_end()
        return True

    def _train_epoch(self, epochs: int, callbacks: keras.callbacks.CallbackList) -> bool:
        """Run the steps that are left of this epoch; False where it was asked to stop in between."""
        self._loop.set_order(epoch_order(self._seed, self._epoch, self._loop.count))
        self._reporter.epoch_begun(self._epoch + 1, epochs, self._step, self._loop.steps)
        callbacks.on_epoch_begin(self._epoch)
        while self._step < self._loop.steps:
            count = min(self._chunk_steps, self._loop.steps - self._step)
            callbacks.on_train_batch_begin(self._step)
            began = time.monotonic()
            self._run_chunk(count)
            self._add_seconds(time.monotonic() - began, training=True)
            loss, accuracy = self._training_metrics()
            callbacks.on_train_batch_end(self._step - 1, {"loss": loss, "accuracy": accuracy})
            seconds = self._clock["training"]
            rate = int(self._loop.batch_sizes(0, self._step).sum()) / seconds
            steps_left = (epochs - self._epoch) * self._loop.steps - self._step
            self._reporter.progress(self._step, loss, accuracy, rate, steps_left * seconds / self._step)
            if self._policy.should_stop():
                return False
            if time.monotonic() - self._saved_at >= self._policy.checkpoint_every:
                self._save()
        return True

    def _run_chunk(self, count: int) -> None:
        profile = self._policy.profile if self._chunks_run == 1 else None
        if profile:
            profile(True)
        began = time.monotonic()
        # The profiler's tools count by such marks; a chunk is one call, so it is one mark.
        mark = tf.profiler.experimental.Trace("train", step_num=self._global_step, _r=1)
        try:
            with mark if profile else contextlib.nullcontext():
                chunk = self._loop.run(self._step, count, self._global_step)
        except tf.errors.ResourceExhaustedError as error:
            raise self._out_of_memory() from error
        if profile:
            profile(False)
        if not chunk.finite:
            shown = np.isfinite(chunk.losses).all()
            what = "A weight" if shown else f"The loss ({chunk.losses[-1]})"
            raise self._not_finite(what, self._step + len(chunk.losses))
        if self._chunks_run > 0:
            per_step = (time.monotonic() - began) / count
            self._chunk_steps = max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / per_step)))
        self._chunks_run += 1
        self._losses = np.concatenate([self._losses, chunk.losses])
        self._correct = np.concatenate([self._correct, chunk.correct])
        self._step += count
        self._global_step += count

    def _finish_epoch(self, epochs: int, callbacks: keras.callbacks.CallbackList) -> None:
        began = time.monotonic()
        callbacks.on_test_begin()
        try:
            self.validation_logits = self._predictor(self._watched_images)
        except tf.errors.ResourceExhaustedError as error:
            raise self._out_of_memory() from error
        labels = self._watched.labels
        val_loss = metrics.cross_entropy(self.validation_logits, labels)
        if not np.isfinite(val_loss):
            raise self._not_finite(f"The loss of the watched images ({val_loss})", self._step)
        val_accuracy = metrics.accuracy(self.validation_logits, labels)
        callbacks.on_test_end({"loss": val_loss, "accuracy": val_accuracy})
        self._add_seconds(time.monotonic() - began, training=False)
        loss, accuracy = self._training_metrics()
        reading = self._telemetry.mark()
        row = {
            "epoch": self._epoch + 1,
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            # The shortest number that is this float32: 0.001, not 0.0010000000474974513.
            "learning_rate": float(str(np.float32(self._optimizer.learning_rate))),
            "images_per_second": self._loop.count / self._clock["training"],
            "seconds": self._clock["epoch"],
            "gpu_utilization": reading.utilization,
            "gpu_memory_mib": reading.memory_mib,
            "power_watts": reading.power_watts,
            "energy_joules": self._with_earlier(reading.energy_joules),
        }
        self.history.append(row)
        callbacks.on_epoch_end(self._epoch, {k: v for k, v in row.items() if k != "epoch" and v is not None})
        self._reporter.epoch_ended(row, epochs)
        self._epoch, self._step = self._epoch + 1, 0
        self._losses, self._correct = self._losses[:0], self._correct[:0]
        self._clock |= {"epoch": 0.0, "training": 0.0}
        self._earlier_joules = 0.0
        self._write_history()
        self._save()

    def _training_metrics(self) -> tuple[float, float]:
        sizes = self._loop.batch_sizes(0, self._step)
        images = int(sizes.sum())
        # In float64 and in one piece, so that the sum does not depend on where the chunks were cut.
        return float(self._losses.astype(np.float64) @ sizes) / images, int(self._correct.sum()) / images

    def _with_earlier(self, joules: float | None) -> float | None:
        return None if joules is None else self._earlier_joules + joules

    def _add_seconds(self, seconds: float, *, training: bool) -> None:
        self._clock["total"] += seconds
        self._clock["epoch"] += seconds
        if training:
            self._clock["training"] += seconds

    def _write_history(self) -> None:
        try:
            write_history(self._run.history, self.history)
        except OSError as error:
            self._reporter.warn(f"{self._run.history} cannot be written ({error.strerror}); going on.")

    def _save(self) -> None:
        if self._saved_position == self.position:
            return
        self._policy.flush()
        checkpoints.save(
            self._run.checkpoints,
            Checkpoint(
                epoch=self._epoch,
                step=self._step,
                global_step=self._global_step,
                variables=read_variables(self._model.variables),
                optimizer=read_variables(self._optimizer.variables),
                losses=self._losses,
                correct=self._correct,
                history=self.history,
                clock={**self._clock, "joules": self._with_earlier(self._telemetry.joules()) or 0.0},
                identity=self._identity,
            ),
        )
        self._saved_at, self._saved_position = time.monotonic(), self.position

    def _not_finite(self, what: str, step: int) -> TrainingError:
        other = ", or with --precision bfloat16" if self._model.dtype_policy.name == "mixed_float16" else ""
        return TrainingError(
            f"{what} is not finite at epoch {self._epoch + 1}, step {step} of {self._loop.steps}. "
            "Nothing of it was saved; the last checkpoint is from before. "
            f"Train anew with a lower --learning-rate{other}.",
            self._epoch + 1,
            step,
        )

    def _out_of_memory(self) -> TrainingError:
        size, step = self._loop.batch_size, min(self._step + 1, self._loop.steps)
        return TrainingError(
            f"The device ran out of memory with --batch-size {size}, at epoch {self._epoch + 1}, step "
            f"{step}. Try --batch-size {max(1, size // 2)}. The last checkpoint is kept.",
            self._epoch + 1,
            step,
        )
