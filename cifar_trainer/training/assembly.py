"""A run's parts, from its settings, and the training of it, from its first step or from a checkpoint."""

import contextlib
import dataclasses
import statistics
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset, Split, release_pages
from cifar_trainer.data.splits import split_for
from cifar_trainer.devices import Device
from cifar_trainer.errors import CheckpointError, TrainingError
from cifar_trainer.model import weights_sha256
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.own import check_network
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint
from cifar_trainer.training.control import Options, TrainingReporter
from cifar_trainer.training.engine import StepLoop, balanced_weights
from cifar_trainer.training.execution import Done, Steps
from cifar_trainer.training.layers import check_divisible, choose_forms
from cifar_trainer.training.overrides import StatisticsAverage, exclude_from_decay, overridden
from cifar_trainer.training.replicas import ALONE, Alone
from cifar_trainer.training.tensorboard import (
    SAMPLE_IMAGES,
    EpochHistograms,
    EpochImages,
    EventWriter,
    cut_back,
)
from cifar_trainer.training.trainer import Trainer


def assemble(
    config: Settings,
    recipe: Recipe,
    train: Split,
    indices: np.ndarray,
    *,
    classes: int,
    gpu: bool,
    replicas: Alone = ALONE,
    stacked: bool = False,
) -> StepLoop:
    """Build a run's network, optimizer and loop; the first weights follow from its seed.

    The model is compiled, so that callbacks and the saved model are complete.

    Args:
        config: the settings.
        recipe: that they name.
        train: the whole training split.
        indices: of the images to train on, int64 [N].
        classes: how many there are.
        gpu: whether the device is a GPU; it decides XLA's default and how a batch is split.
        replicas: the processes that train together.
        stacked: whether the steps of several seeds are computed at once.

    Raises:
        UsageError: the network cannot be trained by several processes.
    """
    keras.utils.set_random_seed(config.seed)
    steps = -(-len(indices) // config.batch_size)
    recipe = overridden(recipe, config, steps)
    model = build_model(recipe, config.precision, train.images.shape[1:], classes)
    optimizer = build_optimizer(recipe, config, steps * config.epochs)
    if replicas is not ALONE:
        check_divisible(model)
    model.compile(optimizer, recipe.loss(), metrics=["accuracy"])
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if config.weight_decay is not None:
        exclude_from_decay(inner, model.trainable_variables)
    optimizer.build(model.trainable_variables)
    averages = None if config.ema is None else StatisticsAverage(model, inner, config.ema)
    # All images in order need no copy on the host: the map of the file is read once, by the device.
    images = train.images if len(indices) == len(train) else train.images[indices]
    labels = train.labels[indices]
    if recipe.initialize is not None:
        recipe.initialize(model, images)
    loop = StepLoop(
        recipe,
        model,
        optimizer,
        images,
        labels,
        batch_size=config.batch_size,
        seed=config.seed,
        # XLA has no such collective operations.
        xla=(gpu and replicas is ALONE) if config.xla is None else config.xla,
        shards=2 if not gpu and recipe.splittable and not stacked else 1,
        forms=choose_forms(model, config.batch_size, gpu=gpu, conv=config.conv, stacked=stacked),
        statistics=averages,
        class_weights=None if config.class_weights is None else balanced_weights(labels, classes),
        replicas=replicas,
    )
    release_pages(train.images)
    check_network(recipe, model)
    return loop


def build_model(
    recipe: Recipe, precision: str, image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """A recipe's network whose layers compute in `precision` and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision in ("float32", "tf32") else f"mixed_{precision}")
    try:
        return recipe.build_model(image_shape, classes)
    finally:
        keras.config.set_dtype_policy(before)


def build_optimizer(recipe: Recipe, config: Settings, steps: int) -> keras.optimizers.Optimizer:
    """A recipe's optimizer; under float16 it scales the loss (Micikevicius et al. 2018, 3.2)."""
    optimizer = recipe.build_optimizer(config.learning_rate, steps)
    if config.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


@contextlib.contextmanager
def _memory_named(images: int, image_bytes: int, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Say what did not fit where the device's memory runs out before the first step.

    Raises:
        TrainingError: it ran out.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        epoch, step = (checkpoint.epoch, checkpoint.step) if checkpoint is not None else (0, 0)
        raise TrainingError(
            f"The device has no memory for {images:,} images of {image_bytes:,} bytes and the network. "
            "See what else uses it, take fewer images with --limit, or use --device cpu.",
            epoch + 1,
            step + 1,
        ) from error


def train_run(
    config: Settings,
    recipe: Recipe,
    dataset: Dataset,
    run: Run,
    checkpoint: Checkpoint | None,
    device: Device,
    reporter: TrainingReporter,
    options: Options,
    replicas: Alone = ALONE,
) -> Generator[Steps, Done, TrainResult | None]:
    """Train a run, from its first step or from `checkpoint` on, and write all its files.

    The caller holds the run, has written config.json and environment.json, and runs the steps.

    Returns:
        The result; or None where the run was stopped on the way, with a checkpoint.

    Raises:
        TrainingError: a loss or weight is not finite, or memory ran out. failure.json
            says so too.
        CheckpointError: `checkpoint` does not fit.
        OSError: a checkpoint or the model could not be written.
    """
    run.failure.unlink(missing_ok=True)
    indices, watched = split_for(dataset, config)
    events = EventWriter(
        run.tensorboard,
        config,
        {"data": dataset.title},
        dataset.train.images[indices[:SAMPLE_IMAGES]],
        warn=reporter.warn,
        begun=checkpoint is not None,
    )
    shares = [float(share) for share in np.bincount(dataset.train.labels[indices]) / len(indices)]
    try:
        with _memory_named(len(indices) + len(watched), watched.images[0].nbytes, checkpoint):
            loop = assemble(
                config, recipe, dataset.train, indices,
                classes=len(dataset.classes), gpu=device.kind == "gpu", replicas=replicas,
                stacked=options.side_by_side > 1,
            )  # fmt: skip
            trainer = Trainer(
                loop, recipe, watched, run, config=config, identity=config.identity(),
                shares=shares, options=options,
                reporter=reporter, flush=events.flush, bus_id=device.bus_id,
                replicas=replicas,
            )  # fmt: skip
        figures = EpochImages(events, lambda: trainer.validation_logits, watched, dataset.classes)
        callbacks = [events, figures]
        if config.validation == "test":
            callbacks.append(LookRecorder(run))
        if options.histograms:
            callbacks.append(EpochHistograms(events, dataset.train, indices, config.batch_size))
        if checkpoint is not None:
            trainer.restore(checkpoint)
        complete = yield from trainer.train(config.epochs, [*callbacks, *options.callbacks])
    except TrainingError as error:
        files.write_json(run.failure, {"message": str(error), "epoch": error.epoch, "step": error.step})
        events.end_session(success=False)
        raise
    finally:
        events.on_train_end()
    if not complete:
        return None
    with files.atomic_path(run.model) as partial:
        _portable(loop.model).save(partial)
    result = _result(config, dataset, run, trainer, loop.model, device)
    files.write_json(run.result, result.to_json())
    events.end_session(success=True)
    trainer.repeat_warnings()
    return result


def _portable(model: keras.Model) -> keras.Model:
    """The model, or a copy that is not compiled where plain Keras does not know its optimizer or its loss."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    parts = (optimizer, optimizer._learning_rate, model.loss)
    if all(type(part).__module__.split(".")[0] == "keras" for part in parts):
        return model
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def find_checkpoint(run: Run, config: Settings, reporter: TrainingReporter) -> Checkpoint | None:
    """The checkpoint from which a run goes on, everything later than it cut away.

    1. Leftovers of interrupted writes go.
    2. The newest whole checkpoint is chosen; damaged ones are named and set aside.
    3. The event files are cut back to its last complete epoch. (history.csv is
       written anew from the checkpoint when training begins.)

    Returns:
        None where the run had been stopped before anything was saved.

    Raises:
        CheckpointError: checkpoints were there once, and none is whole; or the one
            that is belongs to other settings.
    """
    files.remove_partials(run.path)
    if not run.history.exists() and not checkpoints.list_checkpoints(run.checkpoints):
        reporter.note(f"{run.path} was stopped before its first checkpoint; starting at its first step.")
        for split in ("", "train", "validation"):
            cut_back(run.tensorboard / split, -1)
        return None
    files.remove_partials(run.checkpoints)
    found = checkpoints.load_newest(run.checkpoints, reporter.warn)
    checkpoints.set_aside_newer(run.checkpoints, found.global_step)
    differences = list(_differences(found.identity, config.identity()))
    if differences:
        raise CheckpointError(
            f"The checkpoint in {run.checkpoints} was written under other settings than config.json "
            f"now says: {', '.join(differences)}."
        )
    # The settings shown in the table of runs are written anew: the epochs may have been raised.
    for split, last in (("", -1), ("train", found.epoch), ("validation", found.epoch)):
        cut_back(run.tensorboard / split, last)
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    # What an earlier version did not know had the value that it has by default.
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name in now:
        earlier = before.get(name, defaults[name])
        if earlier != now[name]:
            yield f"{name} was {earlier!r} and is {now[name]!r}"


def _result(
    config: Settings, dataset: Dataset, run: Run, trainer: Trainer, model: keras.Model, device: Device
) -> TrainResult:
    kept = trainer.kept
    return TrainResult(
        run_dir=str(run.path),
        recipe=config.recipe,
        dataset=dataset.name,
        epochs=len(trainer.history),
        seed=config.seed,
        parameters=model.count_params(),
        device=device.kind,
        precision=config.precision,
        train={"loss": kept["loss"], "accuracy": kept["accuracy"]},
        validation={"split": config.validation, "loss": kept["val_loss"], "accuracy": kept["val_accuracy"]},
        seconds=trainer.seconds,
        images_per_second=statistics.harmonic_mean([row["images_per_second"] for row in trainer.history]),
        weights_sha256=weights_sha256(model),
        test_looks=len(run.read_looks()),
        compile_seconds=trainer.compile_seconds,
        planned_epochs=config.epochs,
        chosen_epoch=kept["epoch"],
        chosen_by=trainer.chosen_by,
        ended_by=trainer.ended_by,
    )


class LookRecorder(keras.callbacks.Callback):
    """Records in the run's ledger each validation on the test set, before it begins."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run, self._epoch = run, 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._run.record_look("train", self._epoch + 1)
