"""Training of one run, or of several in one program: epochs, validation, callbacks, checkpoints, result."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import files, metrics
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.mapped import is_large, release_pages
from cifar_trainer.data.splits import split_for
from cifar_trainer.devices import Device
from cifar_trainer.devices.telemetry import GpuTelemetry
from cifar_trainer.errors import TrainingError
from cifar_trainer.model import LogitsFunction, weights_sha256
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.optimizers import last_rate, plateau
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import RuntimeOptions, Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.checkpoint import Checkpoint, assign_variables, read_variables
from cifar_trainer.training.distributed import SINGLE, Replicas
from cifar_trainer.training.history import (
    CompleteEpoch,
    best_epoch,
    concerns,
    history_row,
    not_finite,
    out_of_memory,
    reason_to_end,
    result_figures,
    training_metrics,
    write_history,
)
from cifar_trainer.training.loop import MAX_CHUNK, Chunk, StepLoop, epoch_order
from cifar_trainer.training.reporter import TrainingReporter
from cifar_trainer.training.stacked import StackedLoop
from cifar_trainer.training.tensorboard import SAMPLE_IMAGES, EpochHistograms, EpochImages, EventWriter
from cifar_trainer.training.transfer import InitialWeights

#: Target duration of a chunk of steps, which delays signals and progress updates.
CHUNK_SECONDS = 0.5
#: Steps of the first chunk, the warm-up.
FIRST_CHUNK = 8
#: Seconds: of the run and of the epoch, excluding compilation; of the epoch's steps; of compiling, in the
#: epoch and in the run.
CLOCK = ("total", "epoch", "training", "compile", "compile_total")


def train(
    trainers: Sequence["Trainer"],
    *,
    should_stop: Callable[[], bool],
    stacked: int = 1,
    replicas: Replicas = SINGLE,
) -> None:
    """Train runs until each is finished, has failed, or was asked to stop.

    Args:
        trainers: one for each run. Their `result`, `error` and `stopped` say how each ended.
        should_stop: called between chunks of steps; True saves a checkpoint of each run and stops.
        stacked: number of seeds that one program computes; 1 trains a single run.
        replicas: the processes that train together.
    """
    try:
        # Runs of a group may be at different steps if a checkpoint was lost.
        for position in sorted({trainer.position for trainer in trainers}):
            together = [trainer for trainer in trainers if trainer.position == position]
            loops = [trainer.loop for trainer in together]
            program = StackedLoop(loops, stacked) if stacked > 1 else loops[0]
            _train(together, program, should_stop, replicas)
    finally:
        for trainer in trainers:
            trainer.close()


def _train(
    trainers: Sequence["Trainer"],
    program: StepLoop | StackedLoop,
    should_stop: Callable[[], bool],
    replicas: Replicas,
) -> None:
    length, chunks_run = FIRST_CHUNK, 0
    for trainer in trainers:
        with trainer.catching():
            trainer.begin()
    while active := [trainer for trainer in trainers if trainer.is_active]:
        # All processes stop together, and use the chief's chunk length.
        stops, length = map(
            int, replicas.sum_numbers(bool(should_stop()), length if replicas.is_chief else 0)
        )
        for trainer in active:
            with trainer.catching():
                trainer.advance(stop=stops > 0)
        ready = [trainer for trainer in active if trainer.is_active and trainer.steps_left > 0]
        if not ready:
            continue
        count = min(length, *(trainer.steps_left for trainer in ready))
        members = [trainers.index(trainer) for trainer in ready]
        # The first chunk is a warm-up.
        profiled = ready[0].profiled(count) if chunks_run == 1 else contextlib.nullcontext()
        try:
            if chunks_run == 0:
                _compile(program, ready)
            began = time.monotonic()
            with profiled:
                chunks = program.run(ready[0].step, count, ready[0].global_step, members)
            seconds = time.monotonic() - began
        except Exception as error:
            for trainer in ready:
                trainer.fail(error)
            continue
        if chunks_run > 0:
            length = max(1, min(MAX_CHUNK, int(CHUNK_SECONDS * count / seconds)))
        chunks_run += 1
        for trainer, chunk in zip(ready, chunks, strict=True):
            with trainer.catching():
                trainer.take(chunk, seconds)


def _compile(program: StepLoop | StackedLoop, trainers: Sequence["Trainer"]) -> None:
    """Compile everything that an epoch needs, so that no other duration includes compilation."""
    began = time.monotonic()
    program.compile()
    shared = time.monotonic() - began
    for trainer in trainers:
        trainer.compile(shared)


class Trainer:
    """Trains one run, from its first step or a checkpoint, to its result.

    Args:
        config: the run's settings.
        recipe: the settings' recipe.
        dataset: the data.
        run: where to write checkpoints, history, model and result. The caller has locked it, and has written
            config.json and environment.json.
        device: computes the steps.
        checkpoint: where to resume; None starts at the first step.
        options: runtime options.
        reporter: receives progress.
        replicas: the processes that train together. The chief makes all decisions that depend on a clock, or
            on numbers that another processor may round differently.
        initial: the weights to start from without a checkpoint; None starts from random weights.

    Attributes:
        loop: computes the steps; has the model and the optimizer.
        step, global_step: number of steps done in this epoch and in the run.
        history: rows of the complete epochs.
        result: the result once the run is finished.
        stopped: whether the run was asked to stop and has saved a checkpoint.
        error: why the run failed; None if it did not.

    Raises:
        CheckpointError: `checkpoint` does not fit the model and optimizer.
        TrainingError: the data do not fit into the device's memory; failure.json records this.
        UsageError: the network cannot be trained by several processes, or cannot take the `initial` weights.
    """

    def __init__(
        self,
        config: Settings,
        recipe: Recipe,
        dataset: Dataset,
        run: Run,
        device: Device,
        checkpoint: Checkpoint | None,
        *,
        options: RuntimeOptions,
        reporter: TrainingReporter,
        replicas: Replicas = SINGLE,
        initial: InitialWeights | None = None,
    ) -> None:
        run.failure.unlink(missing_ok=True)
        self._config, self._recipe, self._dataset, self._run = config, recipe, dataset, run
        self._device = device
        self._options, self._reporter, self._replicas = options, reporter, replicas
        self._indices, self._validation = split_for(dataset, config)
        try:
            self.loop = assemble(
                config, recipe, dataset.train, self._indices,
                classes=len(dataset.classes), gpu=device.kind == "gpu", replicas=replicas,
                stacked=options.side_by_side > 1,
            )  # fmt: skip
            self._validation_images = self._validation.images
            if not is_large(self._validation_images):
                self._validation_images = tf.constant(self._validation_images)
        except tf.errors.ResourceExhaustedError as error:
            failure = self._out_of_memory(checkpoint)
            write_failure(run, failure)
            raise failure from error
        self._model, self._optimizer = self.loop.model, self.loop.optimizer
        self._predictor = LogitsFunction(self._model, recipe.predict)
        release_pages(self._validation.images)
        self._validation_logits = np.zeros((0, 0), np.float32)
        counts = np.bincount(dataset.train.labels[self._indices])
        self._class_shares = [float(share) for share in counts / len(self._indices)]
        self._telemetry = GpuTelemetry(device.bus_id)

        self._epoch = self.step = self.global_step = 0
        self._in_epoch = False
        self._losses, self._correct = np.zeros(0, np.float32), np.zeros(0, np.int32)
        self.history: list[dict[str, Any]] = []
        self._clock = dict.fromkeys(CLOCK, 0.0)
        self._best: list[np.ndarray] = []
        # Hashes of each epoch's validated weights, to recognize weights that a callback restores.
        self._digests: dict[int, str] = {}
        self._warned: set[str] = set()
        # Whether a callback ended the run in an earlier process.
        self._is_ended = False
        # Energy that earlier processes used in this epoch.
        self._earlier_joules = 0.0
        self._saved_at = time.monotonic()
        self._saved_position: tuple[int, int] | None = None

        self.result: TrainResult | None = None
        self.stopped = False
        self.error: Exception | None = None
        if checkpoint is not None:
            self._restore(checkpoint)
        elif initial is not None:
            reporter.note(initial.assign(self._model, recipe.name, dataset.classes))
        self._events = EventWriter(
            run.tensorboard,
            config,
            {"data": dataset.title},
            dataset.train.images[self._indices[:SAMPLE_IMAGES]],
            warn=reporter.warn,
            resumed=checkpoint is not None,
        )
        self._callbacks = keras.callbacks.CallbackList(
            self._all_callbacks(), model=self._model, epochs=config.epochs, steps=self.loop.steps, verbose=0
        )

    def _out_of_memory(self, checkpoint: Checkpoint | None) -> TrainingError:
        epoch, step = (0, 0) if checkpoint is None else (checkpoint.epoch, checkpoint.step)
        images = len(self._indices) + len(self._validation)
        return TrainingError(
            f"The device does not have enough memory for {images:,} images "
            f"({images * self._validation.images[0].nbytes / 2**20:,.0f} MiB) and the model. "
            "Free its memory, train on fewer images with --limit, or use --device cpu.",
            epoch + 1,
            step + 1,
        )

    def _all_callbacks(self) -> list[keras.callbacks.Callback]:
        callbacks = [
            self._events,
            EpochImages(
                self._events, lambda: self._validation_logits, self._validation, self._dataset.classes
            ),
        ]
        if self._options.histograms:
            train, size = self._dataset.train, self._config.batch_size
            callbacks.append(EpochHistograms(self._events, train, self._indices, size))
        return [*callbacks, *self._options.callbacks]

    def _restore(self, checkpoint: Checkpoint) -> None:
        assign_variables(
            [*self._model.variables, *self._optimizer.variables],
            [*checkpoint.variables, *checkpoint.optimizer],
        )
        self._epoch, self.step = checkpoint.epoch, checkpoint.step
        self.global_step = checkpoint.global_step
        self._saved_position = self.position
        self._losses, self._correct = checkpoint.losses, checkpoint.correct
        self._best, self._digests = checkpoint.best, dict(checkpoint.digests)
        # A run that a callback ended continues if it now has more epochs.
        self._is_ended = checkpoint.ended_of is not None and checkpoint.ended_of >= self._config.epochs
        self.history, self._clock = list(checkpoint.history), {**self._clock, **checkpoint.clock}
        self._earlier_joules = self._clock.pop("joules", 0.0)

    @property
    def position(self) -> tuple[int, int]:
        """Number of complete epochs, and of steps done in the next one."""
        return self._epoch, self.step

    @property
    def is_active(self) -> bool:
        """Whether the run is still training."""
        return self.result is None and self.error is None and not self.stopped

    @property
    def steps_left(self) -> int:
        """Number of steps left in the current epoch; 0 between epochs."""
        return self.loop.steps - self.step if self._in_epoch else 0

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Store an exception as the run's error, so that other runs continue."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the run with an error; failure.json records a TrainingError."""
        if isinstance(error, tf.errors.ResourceExhaustedError):
            step = min(self.step + 1, self.loop.steps)
            seeds = self._options.side_by_side
            failure = out_of_memory(self.loop.batch_size, self._epoch + 1, step, seeds)
            failure.__cause__ = error
            error = failure
        self.error = error
        if isinstance(error, TrainingError):
            write_failure(self._run, error)
            self._events.end_session(success=False)

    def close(self) -> None:
        """Close the event files and stop the telemetry thread."""
        self._events.on_train_end()
        self._telemetry.__exit__(None, None, None)

    def begin(self) -> None:
        """Start the callbacks, save the first checkpoint, and finish the run if nothing is left to train."""
        self._model.stop_training = self._is_ended
        self._replicas.broadcast_variables([*self._model.variables, *self._optimizer.variables])
        self._callbacks.on_train_begin()
        if self._saved_position is None:
            self._save()
        self._write_history()
        self._telemetry.__enter__()
        self._finish_if_over()

    def advance(self, *, stop: bool) -> None:
        """Prepare for the next steps: stop, finish an epoch, start one, or save a checkpoint."""
        if stop:
            self._save()
            self.stopped = True
        elif self.step == self.loop.steps:
            self._finish_epoch()
            self._finish_if_over()
        else:
            if not self._in_epoch:
                self._begin_epoch()
            elif time.monotonic() - self._saved_at >= self._options.checkpoint_every:
                self._save()
            self._callbacks.on_train_batch_begin(self.step)

    def compile(self, seconds: float) -> None:
        """Compile the validation, and add its duration to the `seconds` spent on compiling the training."""
        began = time.monotonic()
        if self._replicas.is_chief:
            self._predictor.compile(self._validation_images)
        seconds += time.monotonic() - began
        self._clock["compile"] += seconds
        self._clock["compile_total"] += seconds

    @contextlib.contextmanager
    def profiled(self, steps: int) -> Iterator[None]:
        """Trace a chunk of steps for TensorBoard's profiler if `--profile` is set."""
        if not self._options.profile:
            yield
            return
        tf.profiler.experimental.start(str(self._run.tensorboard / "train"))
        # The profiler counts steps by these traces; a chunk is one call, so it is one trace.
        with tf.profiler.experimental.Trace("train", step_num=self.global_step, _r=1, steps=steps):
            yield
        tf.profiler.experimental.stop()

    def take(self, chunk: Chunk, seconds: float) -> None:
        """Record a chunk of steps, which took `seconds`.

        Raises:
            TrainingError: a loss or a weight is not finite.
        """
        count = len(chunk.losses)
        if not chunk.finite:
            finite_losses = np.isfinite(chunk.losses).all()
            what = "A weight" if finite_losses else f"The loss ({chunk.losses[-1]})"
            raise self._not_finite(what, self.step + count)
        self._losses = np.concatenate([self._losses, chunk.losses])
        self._correct = np.concatenate([self._correct, chunk.correct])
        self.step += count
        self.global_step += count
        self._add_seconds(seconds, training=True)
        loss, accuracy = self._training_metrics()
        self._callbacks.on_train_batch_end(self.step - 1, {"loss": loss, "accuracy": accuracy})
        training = self._clock["training"]
        rate = int(self.loop.batch_sizes(0, self.step).sum()) / training
        steps_left = (self._config.epochs - self._epoch) * self.loop.steps - self.step
        self._reporter.progress(self.step, loss, accuracy, rate, steps_left * training / self.step)

    def _begin_epoch(self) -> None:
        if self._config.schedule == "plateau":
            share = plateau([row["val_loss"] for row in self.history])
            self._optimizer.learning_rate = self._config.learning_rate * share
        self.loop.set_order(epoch_order(self._config.seed, self._epoch, self.loop.count))
        self._in_epoch = True
        self._reporter.epoch_started(self._epoch + 1, self._config.epochs, self.step, self.loop.steps)
        self._callbacks.on_epoch_begin(self._epoch)

    def _finish_epoch(self) -> None:
        epoch, validation = self._epoch + 1, dict.fromkeys(("val_loss", "val_accuracy"))
        began = time.monotonic()
        with self._averaged():
            if self._config.validate == "each-epoch" or epoch == self._config.epochs:
                self._reporter.phase("validating")
                self._callbacks.on_test_begin()
                validation = self._validate(epoch)
            self._digests[epoch] = weights_sha256(self._model)
            weights = read_variables(self._model.weights) if self._config.keep == "best" else []
        if validation["val_loss"] is not None:
            if not np.isfinite(validation["val_loss"]):
                raise self._not_finite(f"The validation loss ({validation['val_loss']})", self.step)
            self._callbacks.on_test_end({k.removeprefix("val_"): v for k, v in validation.items()})
        self._add_seconds(time.monotonic() - began, training=False)
        loss, accuracy = self._training_metrics()
        reading = self._telemetry.mark()
        complete = CompleteEpoch(
            loss=loss,
            accuracy=accuracy,
            **validation,
            val_logits=self._validation_logits,
            val_labels=self._validation.labels,
            learning_rate=last_rate(self._optimizer),
            images=self.loop.count,
            training_seconds=self._clock["training"],
            seconds=self._clock["epoch"],
            compile_seconds=self._clock["compile"],
            gpu=reading,
            energy_joules=self._with_earlier(reading.energy_joules),
        )
        row = history_row(epoch, complete)
        self._reporter.phase("saving")
        self.history.append(row)
        if self._config.keep == "best" and best_epoch(self.history) == epoch:
            self._best = weights
        self._callbacks.on_epoch_end(
            self._epoch, {k: v for k, v in row.items() if k != "epoch" and v is not None}
        )
        self._model.stop_training = self._replicas.sum_numbers(self._model.stop_training)[0] > 0
        self._reporter.epoch_ended(row, self._config.epochs)
        self._warn(row)
        self._epoch, self.step, self._in_epoch = self._epoch + 1, 0, False
        self._losses, self._correct = self._losses[:0], self._correct[:0]
        self._clock |= {"epoch": 0.0, "training": 0.0, "compile": 0.0}
        self._earlier_joules = 0.0
        self._write_history()
        self._save()

    def _warn(self, row: Mapping[str, Any]) -> None:
        """Report each concern once, except those of the last epoch, which `_finish` reports."""
        if self._epoch + 1 < self._config.epochs:
            for name, text in self._concerns(row).items():
                if name not in self._warned:
                    self._warned.add(name)
                    self._reporter.warn(text)

    def _concerns(self, row: Mapping[str, Any]) -> dict[str, str]:
        # Empty if this process trained no epoch, because only the model of a complete run was missing.
        logits = self._validation_logits
        return concerns(
            row,
            self._class_shares,
            self._config,
            self._recipe.learning_rate,
            steps=self.global_step,
            predicted_classes=len(np.unique(logits.argmax(axis=1)))
            if logits.size
            else len(self._class_shares),
        )

    def _finish_if_over(self) -> None:
        """Finish the run after its last epoch, or earlier if there is a reason."""
        ended_by = None
        if self._epoch < self._config.epochs:
            if self._model.stop_training:
                ended_by = "callback"
            elif self.step == 0:
                ended_by = self._replicas.broadcast_json(self._reason_to_end())
            if ended_by is None:
                return
        self._finish(ended_by)

    def _reason_to_end(self) -> str | None:
        return reason_to_end(
            self.history,
            self._clock["total"] + self._clock["compile_total"],
            config=self._config,
            options=self._options,
            note=self._reporter.note,
        )

    def _finish(self, ended_by: str | None) -> None:
        """Set the model's final weights, and write the model and the result."""
        # As Keras's fit does, before on_train_end.
        self._finalize()
        if self._config.keep == "best":
            assign_variables(self._model.weights, self._best)
        self._callbacks.on_train_end()
        chosen_by, row = self._selected_epoch()
        if row["val_loss"] is None:
            # The run ended before the epoch that would have been validated.
            row.update(self._validate(len(self.history)))
            self._write_history()
        with self._writing(), files.atomic_path(self._run.model) as partial:
            _portable(self._model).save(partial)
        config = self._config
        result = TrainResult(
            run_dir=str(self._run.path),
            recipe=config.recipe,
            dataset=self._dataset.name,
            epochs=len(self.history),
            seed=config.seed,
            parameters=self._model.count_params(),
            device=self._device.kind,
            precision=config.precision,
            train=result_figures(row, "train"),
            validation={"split": config.validation, **result_figures(row, "validation")},
            seconds=self._clock["total"],
            images_per_second=statistics.harmonic_mean([row["images_per_second"] for row in self.history]),
            weights_sha256=weights_sha256(self._model),
            test_looks=len(self._run.read_looks()),
            compile_seconds=self._clock["compile_total"],
            planned_epochs=config.epochs,
            chosen_epoch=row["epoch"],
            chosen_by=chosen_by,
            ended_by=ended_by,
        )  # fmt: skip
        with self._writing():
            files.write_json(self._run.result, result.to_json())
        self._events.end_session(success=True)
        for text in self._concerns(self.history[-1]).values():
            self._reporter.warn(text)
        self.result = result

    def _selected_epoch(self) -> tuple[str, dict[str, Any]]:
        """How the epoch of the model's weights was selected, and its row in the history.

        A callback may have restored an earlier epoch's weights, or set new ones. New ones are validated, and
        the `epoch` of their row is None.
        """
        last = len(self.history)
        if self._config.keep == "best":
            return "best validation accuracy", self.history[best_epoch(self.history) - 1]
        digest = weights_sha256(self._model)
        epochs = [epoch for epoch, known in self._digests.items() if known == digest]
        if last in epochs or not self._digests:
            return "last epoch", self.history[-1]
        if epochs:
            return "callback", self.history[max(epochs) - 1]
        return "callback", {**self.history[-1], **self._validate(last), "epoch": None}

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Temporarily give the model the weights that it would have if the run ended now.

        These differ from the current weights if the optimizer averages them.
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
        """Set the model's weights to their averages if the optimizer averages them."""
        self._optimizer.finalize_variable_values(self._model.trainable_variables)
        if self.loop.statistics is not None:
            self.loop.statistics.finalize()

    def _validate(self, epoch: int) -> dict[str, Any]:
        """The current weights' validation loss and accuracy. Records a look at the test set."""
        if self._config.validation == "test":
            with self._writing():
                self._run.record_look("train", epoch)
        logits = self._replicas.broadcast(lambda: self._predictor(self._validation_images))
        release_pages(self._validation.images)
        self._validation_logits, labels = logits, self._validation.labels
        return {
            "val_loss": metrics.cross_entropy(logits, labels),
            "val_accuracy": metrics.accuracy(logits, labels),
        }

    def _training_metrics(self) -> tuple[float, float]:
        """Mean loss and accuracy of the epoch's steps so far."""
        return training_metrics(self._losses, self._correct, self.loop.batch_sizes(0, self.step))

    def _with_earlier(self, joules: float | None) -> float | None:
        # Stacked runs share the GPU's energy.
        return None if joules is None else self._earlier_joules + joules / self._options.side_by_side

    def _add_seconds(self, seconds: float, *, training: bool) -> None:
        self._clock["total"] += seconds
        self._clock["epoch"] += seconds
        if training:
            self._clock["training"] += seconds

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        remedy = (
            "The last checkpoint is intact. Free some disk space, then resume with: "
            f"cifar-trainer train --resume {self._run.path}"
        )
        return files.writing(self._run.path, remedy)

    def _write_history(self) -> None:
        try:
            write_history(self._run.history, self.history)
        except OSError as error:
            self._reporter.warn(f"{self._run.history} cannot be written ({error.strerror}); continuing.")

    def _save(self) -> None:
        if self._saved_position == self.position:
            return
        self._reporter.phase("saving")
        self._events.flush()
        with self._writing():
            checkpoints.save(
                self._run.checkpoints,
                Checkpoint(
                    epoch=self._epoch,
                    step=self.step,
                    global_step=self.global_step,
                    variables=read_variables(self._model.variables),
                    optimizer=read_variables(self._optimizer.variables),
                    losses=self._losses,
                    correct=self._correct,
                    history=self.history,
                    clock={**self._clock, "joules": self._with_earlier(self._telemetry.joules()) or 0.0},
                    identity=self._config.identity(),
                    best=self._best,
                    digests=self._digests,
                    ended_of=self._config.epochs if self._model.stop_training and self.step == 0 else None,
                ),
            )
        self._saved_at, self._saved_position = time.monotonic(), self.position

    def _not_finite(self, what: str, step: int) -> TrainingError:
        return not_finite(what, self._epoch + 1, step, self.loop.steps, self._config.precision)


def write_failure(run: Run, error: TrainingError) -> None:
    """Write failure.json."""
    files.write_json(run.failure, {"message": str(error), "epoch": error.epoch, "step": error.step})


def _portable(model: keras.Model) -> keras.Model:
    """The model, or an uncompiled copy if its optimizer or loss is not part of Keras."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    parts = (optimizer, optimizer._learning_rate, model.loss)
    if all(type(part).__module__.split(".")[0] == "keras" for part in parts):
        return model
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy
