"""The run's loop: chunks of steps, epochs, callbacks, checkpoints, history.csv."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import metrics
from cifar_trainer.data.dataset import Split, release_pages
from cifar_trainer.devices.telemetry import GpuTelemetry
from cifar_trainer.errors import TrainingError
from cifar_trainer.model import LogitsFunction, weights_sha256
from cifar_trainer.recipes import Recipe
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint, assign_variables, read_variables
from cifar_trainer.training.control import Options, TrainingReporter
from cifar_trainer.training.ending import kept_epoch, not_finite, out_of_memory, reason_to_end
from cifar_trainer.training.engine import MAX_CHUNK, StepLoop, epoch_order
from cifar_trainer.training.execution import Done, Steps
from cifar_trainer.training.history import (
    PATIENT_STEPS,
    CompleteEpoch,
    best_epoch,
    concerns,
    history_row,
    write_history,
)
from cifar_trainer.training.overrides import plateau_factor
from cifar_trainer.training.replicas import Alone

#: Seconds that a chunk of steps is made to take: the longest wait for a signal or the screen.
CHUNK_SECONDS = 0.5
#: Steps of the first chunk, which warms up.
FIRST_CHUNK = 8
#: Seconds that are counted: of the run and of its epoch, without compilation; of the epoch's steps;
#: of compilation in the epoch and in the run.
CLOCK = ("total", "epoch", "training", "compile", "compile_total")


class Trainer:
    """Runs epochs, from the first step or from a checkpoint on.

    Args:
        loop: the steps over the training images, and the model that they train.
        recipe: by whose `predict` the watched split is classified.
        watched: the split that is classified after each epoch; its images go to the device, once.
        run: where checkpoints and history go; held by the caller.
        config: the run's settings.
        identity: kept in each checkpoint, for whoever resumes to compare.
        shares: each class's part of the training images.
        options: when to stop, and how often to save.
        reporter: told what happens.
        flush: called before each checkpoint, so that nothing on the disk lags behind it.
        bus_id: the GPU whose power and utilisation are read; None reads nothing.
        replicas: the processes that train together. What depends on a clock, or on figures that another
            processor may round otherwise, is the chief's.

    Attributes:
        history: the rows of the complete epochs.
        validation_logits: of the watched images after the last complete epoch, float32 [N, classes].
        kept: the row of the epoch whose weights the model has once the run is at its end.
        chosen_by, ended_by: what chose that epoch, and why training ended early; see `TrainResult`.
    """

    def __init__(
        self,
        loop: StepLoop,
        recipe: Recipe,
        watched: Split,
        run: Run,
        *,
        config: Settings,
        identity: Mapping[str, Any],
        shares: Sequence[float],
        options: Options,
        reporter: TrainingReporter,
        flush: Callable[[], None],
        bus_id: str | None,
        replicas: Alone,
    ) -> None:
        self._model, self._optimizer, self._loop, self._watched = loop.model, loop.optimizer, loop, watched
        self._replicas = replicas
        self._recipe, self._run, self._config, self._identity = recipe, run, config, dict(identity)
        self._shares, self._options, self._reporter, self._flush = shares, options, reporter, flush
        self._predictor = LogitsFunction(loop.model, recipe.predict)
        self._watched_images = tf.constant(watched.images)
        release_pages(watched.images)
        self._chunk_steps = FIRST_CHUNK
        self._chunks_run = 0
        self._compiled = False
        # By epoch, of the weights that were validated; and what the user has been warned of.
        self._digests: dict[int, str] = {}
        self._warned: dict[str, str] = {}
        self.kept: dict[str, Any] = {}
        self.chosen_by = "last epoch"
        self.ended_by: str | None = None
        self._best: list[np.ndarray] = []
        self._saved_at = time.monotonic()
        self._saved_position: tuple[int, int] | None = None
        self.validation_logits = np.zeros((0, 0), np.float32)
        self.history: list[dict[str, Any]] = []
        self._epoch = self._step = self._global_step = 0
        self._losses = np.zeros(0, np.float32)
        self._correct = np.zeros(0, np.int32)
        self._clock = dict.fromkeys(CLOCK, 0.0)
        self._telemetry = GpuTelemetry(bus_id)
        # Of this epoch, used by the processes before this one.
        self._earlier_joules = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far, stops and compilation left out."""
        return self._clock["total"]

    @property
    def compile_seconds(self) -> float:
        """Seconds in which the run's programs were traced and compiled, in all processes of the run."""
        return self._clock["compile_total"]

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
        self._best = checkpoint.best
        self.history, self._clock = list(checkpoint.history), {**self._clock, **checkpoint.clock}
        self._earlier_joules = self._clock.pop("joules", 0.0)

    def train(
        self, epochs: int, callbacks: Sequence[keras.callbacks.Callback]
    ) -> Generator[Steps, Done, bool]:
        """Train until `epochs` epochs are complete, or somebody asks to stop.

        Yields:
            The steps that are to be run next; what they gave is sent back.

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
        self._replicas.share([*self._model.variables, *self._optimizer.variables])
        callback_list.on_train_begin()
        if self._saved_position is None:
            self._save()
        self._write_history()
        with self._telemetry:
            while self._epoch < epochs and not self._model.stop_training:
                if self._step == 0:
                    self.ended_by = self._replicas.message(self._reason_to_end(epochs))
                    if self.ended_by is not None:
                        break
                if not self._goes_on() or not (yield from self._train_epoch(epochs, callback_list)):
                    self._save()
                    return False
                self._finish_epoch(epochs, callback_list)
        # As Keras's fit does, before the callbacks' end.
        self._finalize()
        if self._model.stop_training and self._epoch < epochs:
            self.ended_by = "callback"
        if self._config.keep == "best":
            assign_variables(self._model.weights, self._best)
        callback_list.on_train_end()
        self.kept = self._kept_row()
        return True

    def _reason_to_end(self, epochs: int) -> str | None:
        return reason_to_end(
            self.history,
            self._clock["total"] + self._clock["compile_total"],
            epochs,
            config=self._config,
            options=self._options,
            note=self._reporter.note,
        )

    def _kept_row(self) -> dict[str, Any]:
        """The row of the epoch whose weights the model has: a callback may have put others back.

        Weights of no epoch's end are validated anew; that row has no `epoch` of its own but None.
        """
        last = len(self.history)
        if self._config.keep == "best":
            self.chosen_by = "best validation accuracy"
            return self.history[best_epoch(self.history) - 1]
        epoch = kept_epoch(self._digests, weights_sha256(self._model), last)
        if epoch != last:
            self.chosen_by = "callback"
        if epoch is not None:
            return self.history[epoch - 1]
        logits, labels = self._validate(), self._watched.labels
        figures = {
            "val_loss": metrics.cross_entropy(logits, labels),
            "val_accuracy": metrics.accuracy(logits, labels),
        }
        return {**self.history[-1], **figures, "epoch": None}

    def repeat_warnings(self) -> None:
        """Say once more what still holds of the last epoch."""
        for text in self._concerns(self.history[-1]).values():
            self._reporter.warn(text)

    def _concerns(self, row: Mapping[str, Any]) -> dict[str, str]:
        return concerns(row, self._shares, self._config, self._recipe.learning_rate)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """While this holds, the weights are those that a run which ended here would keep.

        They are others than those that training goes on with where the optimizer averages weights.
        """
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        if not inner.use_ema:
            yield
            return
        before = read_variables(self._model.weights)
        self._finalize()
        try:
            yield
        finally:
            assign_variables(self._model.weights, before)

    def _finalize(self) -> None:
        """Give the model the averages, where the optimizer averages weights."""
        self._optimizer.finalize_variable_values(self._model.trainable_variables)
        if self._loop.statistics is not None:
            self._loop.statistics.finalize()

    def _compile(self) -> Generator[Steps, Done, None]:
        """Compile all that an epoch runs, so that its time is in no other figure."""
        try:
            done = yield Steps(self._loop, self._step, 0, self._global_step)
            began = time.monotonic()
            if self._replicas.is_chief:
                self._predictor.compile(self._watched_images)
        except tf.errors.ResourceExhaustedError as error:
            raise self._out_of_memory() from error
        seconds = done.seconds + time.monotonic() - began
        self._clock["compile"] += seconds
        self._clock["compile_total"] += seconds
        self._compiled = True

    def _train_epoch(
        self, epochs: int, callbacks: keras.callbacks.CallbackList
    ) -> Generator[Steps, Done, bool]:
        """Run the steps that are left of this epoch; False where it was asked to stop in between."""
        if self._config.schedule == "plateau":
            factor = plateau_factor([row["val_loss"] for row in self.history])
            self._optimizer.learning_rate = self._config.learning_rate * factor
        self._loop.set_order(epoch_order(self._config.seed, self._epoch, self._loop.count))
        self._reporter.epoch_begun(self._epoch + 1, epochs, self._step, self._loop.steps)
        callbacks.on_epoch_begin(self._epoch)
        if not self._compiled:
            yield from self._compile()
        while self._step < self._loop.steps:
            count = min(self._chunk_steps, self._loop.steps - self._step)
            callbacks.on_train_batch_begin(self._step)
            yield from self._run_chunk(count)
            loss, accuracy = self._training_metrics()
            callbacks.on_train_batch_end(self._step - 1, {"loss": loss, "accuracy": accuracy})
            seconds = self._clock["training"]
            rate = int(self._loop.batch_sizes(0, self._step).sum()) / seconds
            steps_left = (epochs - self._epoch) * self._loop.steps - self._step
            self._reporter.progress(self._step, loss, accuracy, rate, steps_left * seconds / self._step)
            if not self._goes_on():
                return False
            if time.monotonic() - self._saved_at >= self._options.checkpoint_every:
                self._save()
        return True

    def _goes_on(self) -> bool:
        """Whether no process was asked to stop; and all take chunks of the chief's length from here on."""
        length = self._chunk_steps if self._replicas.is_chief else 0
        stops, steps = self._replicas.totals(bool(self._options.should_stop()), length)
        self._chunk_steps = int(steps)
        return not stops

    def _validate(self) -> np.ndarray:
        """The logits of the watched images, float32 [N, classes]."""
        return self._replicas.of_chief(lambda: self._predictor(self._watched_images))

    def _run_chunk(self, count: int) -> Generator[Steps, Done, None]:
        # The first chunk warms up.
        profile = self._options.profile and self._chunks_run == 1
        if profile:
            tf.profiler.experimental.start(str(self._run.tensorboard / "train"))
        # The profiler's tools count by such marks; a chunk is one call, so it is one mark.
        mark = tf.profiler.experimental.Trace("train", step_num=self._global_step, _r=1, steps=count)
        try:
            with mark if profile else contextlib.nullcontext():
                done = yield Steps(self._loop, self._step, count, self._global_step)
        except tf.errors.ResourceExhaustedError as error:
            raise self._out_of_memory() from error
        if profile:
            tf.profiler.experimental.stop()
        chunk = done.chunk
        assert chunk is not None, "steps were asked for"
        if not chunk.finite:
            shown = np.isfinite(chunk.losses).all()
            what = "A weight" if shown else f"The loss ({chunk.losses[-1]})"
            raise self._not_finite(what, self._step + len(chunk.losses))
        # Other runs of the same program may have asked for fewer.
        count = len(chunk.losses)
        if self._chunks_run > 0:
            per_step = done.seconds / count
            self._chunk_steps = max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / per_step)))
        self._chunks_run += 1
        self._losses = np.concatenate([self._losses, chunk.losses])
        self._correct = np.concatenate([self._correct, chunk.correct])
        self._step += count
        self._global_step += count
        self._add_seconds(done.seconds, training=True)

    def _finish_epoch(self, epochs: int, callbacks: keras.callbacks.CallbackList) -> None:
        began = time.monotonic()
        callbacks.on_test_begin()
        try:
            with self._averaged():
                self.validation_logits = self._validate()
                self._digests[self._epoch + 1] = weights_sha256(self._model)
                weights = read_variables(self._model.weights) if self._config.keep == "best" else []
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
        complete = CompleteEpoch(
            loss=loss,
            accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            val_logits=self.validation_logits,
            val_labels=labels,
            # The shortest number that is this float32: 0.001, not 0.0010000000474974513.
            learning_rate=float(str(np.float32(self._optimizer.learning_rate))),
            images=self._loop.count,
            training_seconds=self._clock["training"],
            seconds=self._clock["epoch"],
            compile_seconds=self._clock["compile"],
            gpu=reading,
            energy_joules=self._with_earlier(reading.energy_joules),
        )
        row = history_row(self._epoch + 1, complete)
        self.history.append(row)
        if best_epoch(self.history) == len(self.history):
            self._best = weights
        callbacks.on_epoch_end(self._epoch, {k: v for k, v in row.items() if k != "epoch" and v is not None})
        self._model.stop_training = self._replicas.totals(self._model.stop_training)[0] > 0
        self._reporter.epoch_ended(row, epochs)
        if self._global_step >= PATIENT_STEPS and self._epoch + 1 < epochs:
            for name, text in self._concerns(row).items():
                if self._warned.setdefault(name, text) is text:
                    self._reporter.warn(text)
        self._epoch, self._step = self._epoch + 1, 0
        self._losses, self._correct = self._losses[:0], self._correct[:0]
        self._clock |= {"epoch": 0.0, "training": 0.0, "compile": 0.0}
        self._earlier_joules = 0.0
        self._write_history()
        self._save()

    def _training_metrics(self) -> tuple[float, float]:
        sizes = self._loop.batch_sizes(0, self._step)
        images = int(sizes.sum())
        # In float64 and in one piece, so that the sum does not depend on where the chunks were cut.
        return float(self._losses.astype(np.float64) @ sizes) / images, int(self._correct.sum()) / images

    def _with_earlier(self, joules: float | None) -> float | None:
        # Runs of one program share what the GPU takes.
        return None if joules is None else self._earlier_joules + joules / self._options.side_by_side

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
        self._flush()
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
                best=self._best,
            ),
        )
        self._saved_at, self._saved_position = time.monotonic(), self.position

    def _not_finite(self, what: str, step: int) -> TrainingError:
        return not_finite(what, self._epoch + 1, step, self._loop.steps, self._config.precision)

    def _out_of_memory(self) -> TrainingError:
        step = min(self._step + 1, self._loop.steps)
        return out_of_memory(self._loop.batch_size, self._epoch + 1, step, self._options.side_by_side)
