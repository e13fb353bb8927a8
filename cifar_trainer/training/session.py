"""The life of a run: begun in a new folder, resumed from a checkpoint, brought to its end.

Importing this imports no TensorFlow; `train` and `resume` do, once the settings, the
folder and the data have been found right.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import devices, files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.splits import check_fit, split_for
from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices import Device
from cifar_trainer.devices.cluster import Cluster, find_cluster
from cifar_trainer.errors import UsageError
from cifar_trainer.files import writing
from cifar_trainer.recipes import Recipe, get_recipe
from cifar_trainer.run import (
    DataRecord,
    Run,
    SplitRecord,
    TrainResult,
    ValidationRecord,
    check_new,
    new_run,
    open_run,
)
from cifar_trainer.settings import DEFAULT_DATA_DIR, Settings
from cifar_trainer.training.control import Options, TrainingReporter
from cifar_trainer.training.execution import Work, alone, train_along, train_recorded
from cifar_trainer.training.side_by_side import SideBySide

if TYPE_CHECKING:
    import keras

    from cifar_trainer.data.dataset import Split
    from cifar_trainer.training.replicas import Alone

#: What a run may change when it goes on: more epochs, another device.
_CHANGEABLE = ("epochs", "device")


def begin(
    *,
    recipe: Path | str = "document",
    dataset: str = "cifar10",
    data_dir: Path | str = DEFAULT_DATA_DIR,
    run_dir: Path | str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    validation: str = "test",
    precision: str = "float32",
    device: str = "auto",
    deterministic: bool = False,
    xla: bool | None = None,
    conv: str = "auto",
    limit: int | None = None,
    schedule: str | None = None,
    warmup: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    keep: str = "last",
    class_weights: str | None = None,
    time_limit: float | None = None,
    end_after: int | None = None,
    offline: bool = False,
    checkpoint_every: float = 60.0,
    profile: bool = False,
    histograms: bool = False,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    reporter: TrainingReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
    side_by_side: SideBySide | None = None,
) -> Work[TrainResult]:
    """Train a model in a new run's folder.

    Args:
        recipe: the name of the network and of how it is trained, or a file that defines a `Recipe`: it is
            run, and copied into the run's folder.
        dataset: its name; it is prepared first where it is not there yet.
        data_dir: the folder of the prepared data sets.
        run_dir: the run's folder; None is `runs/TIME-RECIPE`.
        epochs, batch_size, learning_rate: None is the recipe's.
        seed: decides the first weights, the order of the images, augmentation and dropout.
        validation: `test` watches the test set after each epoch; `holdout` a tenth of the training images,
            which are then set aside; `train` a tenth of those that it trains on.
        precision: the type in which the layers compute; weights stay float32.
        device: `auto`, `cpu` or `gpu`.
        deterministic: use only operations that give the same bits each time.
        xla: whether XLA compiles the training loop; None is on a GPU only.
        conv: how convolutions are computed: by the device's library (`cudnn`), as matrix products (`matmul`),
            or `auto`: on a GPU as products while these fit into its cache.
        limit: train on the first so many images, stratified.
        schedule: of the learning rate: `constant`, `cosine`, `triangular` or `plateau`; None is the recipe's.
        warmup: epochs, also fractions, over which the rate rises; None is the recipe's.
        weight_decay, label_smoothing: None is the recipe's.
        ema: the momentum of an average of the weights, which is validated and kept; None averages none.
        patience: epochs without a higher validation accuracy after which training ends.
        keep: `last` or `best`: the epoch whose weights the model has.
        class_weights: `balanced` weighs each image's loss by the rarity of its class.
        time_limit: seconds of training within which the last epoch has to end.
        end_after: epochs after which training ends, with the schedule of all `epochs`.
        offline: never download.
        checkpoint_every: seconds between checkpoints inside an epoch.
        profile: write a trace of some steps for TensorBoard's profiler.
        histograms: write weights and the gradient's norm for TensorBoard.
        callbacks: Keras callbacks, called at epochs and at chunks of steps.
        reporter: told what happens; None tells nobody.
        should_stop: asked between chunks of steps whether to save and stop.
        verbose: show TensorFlow's own messages.
        side_by_side: the runs of the same program; None where this is a program's only one.

    Raises:
        UsageError: a setting is out of its range, or does not fit the data.
        DataError: the data cannot be had, or are damaged.
        DeviceError: the device is not there.
        RunError: the run's folder is in use, holds something, or cannot be written.
        TrainingError: a loss or weight is not finite, or memory ran out.
        TrainingStopped: `should_stop` asked for it.
    """
    chosen = get_recipe(str(recipe))
    config = Settings(
        recipe=chosen.name,
        dataset=dataset,
        epochs=chosen.epochs if epochs is None else epochs,
        batch_size=chosen.batch_size if batch_size is None else batch_size,
        learning_rate=chosen.learning_rate if learning_rate is None else learning_rate,
        seed=seed,
        validation=validation,
        precision=precision,
        device=device,
        deterministic=deterministic,
        xla=xla,
        conv=conv,
        limit=limit,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        ema=ema,
        patience=patience,
        keep=keep,
        class_weights=class_weights,
        recipe_sha256=None if chosen.file is None else chosen.file.sha256,
    )
    options = Options(
        checkpoint_every=checkpoint_every,
        profile=profile,
        histograms=histograms,
        callbacks=tuple(callbacks),
        should_stop=should_stop,
        time_limit=time_limit,
        end_after=end_after,
    )
    reporter = reporter or TrainingReporter()
    cluster = _find_cluster(config)
    folder = None if run_dir is None else Path(run_dir).expanduser()
    if folder is not None and (cluster is None or cluster.is_chief):
        # Before anything is downloaded.
        check_new(folder)
    data_dir = Path(data_dir).expanduser()
    data = _prepare(config.dataset, data_dir, offline, reporter)
    check_fit(data, config)
    started, replicas = _start(config, reporter, verbose, cluster)
    if not replicas.is_chief:
        return (yield from train_along(config, chosen, data, None, started, reporter, options, replicas))
    options, described = _described(config, chosen, started, replicas, reporter, options, side_by_side)
    with replicas.together(), replicas.leading(), new_run(folder, config.recipe) as run:
        reporter.begun(run, config, data.title, started)
        _write_settings(run, config, data, described, chosen)
        try:
            return (
                yield from train_recorded(
                    config, chosen, data, run, None, started, reporter, options, replicas
                )
            )
        except UsageError:
            # A fault in a recipe of one's own: once that is mended, the folder is to be free.
            run.discard_unbegun()
            raise


train = alone(begin, "train")


def go_on(
    run: Run | Path | str,
    *,
    epochs: int | None = None,
    device: str | None = None,
    data_dir: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    time_limit: float | None = None,
    end_after: int | None = None,
    checkpoint_every: float = 60.0,
    profile: bool = False,
    histograms: bool = False,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    reporter: TrainingReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
    side_by_side: SideBySide | None = None,
) -> Work[TrainResult]:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had not been stopped.

    Args:
        run: the run, or its folder.
        epochs: more than the run was begun with, to extend it; None is as begun.
        device: another device than the run's; None is the run's.
        data_dir: the folder of the prepared data sets; None is where the run found its data.
        settings: further settings by name, which must be those of the run.
        time_limit, end_after: as in `train`; the time of the processes before counts.
        checkpoint_every, profile, histograms, callbacks: as in `train`.
        reporter, should_stop, verbose, side_by_side: as in `train`.

    Returns:
        The result; of a run that is finished already, the one that it has.

    Raises:
        UsageError: settings differ from the run's.
        DataError: the run's data are not to be had, or others are there.
        RunError: there is no such run, or it is in use.
        CheckpointError: no checkpoint is whole.
        DeviceError, TrainingError, TrainingStopped: as in `train`.
    """
    run = run if isinstance(run, Run) else open_run(run)
    changes = {"epochs": epochs, "device": device}
    given = {**(settings or {}), **{name: value for name, value in changes.items() if value is not None}}
    run.check_recipe()
    config = resumed_config(run.read_config(), given)
    options = Options(
        checkpoint_every=checkpoint_every,
        profile=profile,
        histograms=histograms,
        callbacks=tuple(callbacks),
        should_stop=should_stop,
        time_limit=time_limit,
        end_after=end_after,
    )
    reporter = reporter or TrainingReporter()
    cluster = _find_cluster(config)
    with run.hold() if cluster is None or cluster.is_chief else contextlib.nullcontext():
        # Where the model is missing, the last checkpoint gives it again.
        if run.result.is_file() and run.model.is_file():
            result = run.read_result()
            if result.is_final(config.epochs):
                reporter.note(f"{run.path} is finished: {result.epochs} epochs. Raise --epochs to go on.")
                return result
        data = run.load_data(data_dir, ordered=True)
        before = run.read_environment()
        # A run keeps the kernels that it began with.
        started, replicas = _start(config, reporter, verbose, cluster, onednn=before.get("onednn"))
        recipe = run.read_recipe()
        if not replicas.is_chief:
            return (yield from train_along(config, recipe, data, run, started, reporter, options, replicas))
        from cifar_trainer.training.assembly import find_checkpoint

        reporter.begun(run, config, data.title, started)
        with replicas.leading(), writing(run.path, "Make room, or give write access to it."):
            checkpoint = find_checkpoint(run, config, reporter)
        options, now = _described(config, recipe, started, replicas, reporter, options, side_by_side)
        earlier = [*before.get("earlier", []), {k: v for k, v in before.items() if k != "earlier"}]
        if started.kind == "gpu" and not config.deterministic:
            reporter.warn(
                "Without --deterministic a GPU may choose other kernels in another process: the result will "
                "not be bit-identical to an uninterrupted run."
            )
        for difference in devices.compare_environments(before, now):
            reporter.warn(f"{difference}: the result will not be bit-identical to an uninterrupted run.")
        _write_settings(run, config, data, {**now, "earlier": earlier}, recipe)
        if checkpoint is not None:
            reporter.note(f"Going on after {checkpoint.epoch} epochs and {checkpoint.step} steps.")
        with replicas.together(), replicas.leading():
            return (
                yield from train_recorded(
                    config, recipe, data, run, checkpoint, started, reporter, options, replicas
                )
            )


resume = alone(go_on, "resume")


def resumed_config(saved: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings of a run that goes on: the saved ones; epochs may be raised, the device chosen anew.

    Raises:
        UsageError: another setting was given with another value than the run's.
    """
    config = dataclasses.replace(saved, **given)
    differences = [
        f"--{name.replace('_', '-')} is {getattr(saved, name)} there, {value} was asked for"
        for name, value in given.items()
        if name not in _CHANGEABLE and value != getattr(saved, name)
    ]
    if config.epochs < saved.epochs:
        differences.append(
            f"--epochs is {saved.epochs} there and may only be raised, not set to {config.epochs}"
        )
    if differences:
        raise UsageError(
            f"The run cannot go on with other settings: {'; '.join(differences)}. "
            "Leave them out, or start a new run without --resume."
        )
    return config


def _prepare(name: str, data_dir: Path, offline: bool, reporter: TrainingReporter) -> Dataset:
    report = prepare(name, data_dir, offline=offline, reporter=reporter.prepare)
    if not report.already:
        reporter.note(f"Prepared {report.title} in {report.folder}.")
    return load_dataset(data_dir, name)


def _find_cluster(config: Settings) -> Cluster | None:
    cluster = find_cluster()
    if cluster is not None:
        if config.batch_size < cluster.count:
            raise UsageError(
                f"--batch-size {config.batch_size} is less than the {cluster.count} processes that share it."
            )
        if config.xla:
            raise UsageError(
                "--xla does not go with several processes: XLA cannot sum over them. Leave it out."
            )
    return cluster


def _start(
    config: Settings,
    reporter: TrainingReporter,
    verbose: bool,
    cluster: Cluster | None,
    onednn: bool | None = None,
) -> "tuple[Device, Alone]":
    """Start TensorFlow, and meet the other processes of the cluster."""
    nth = None if cluster is None else cluster.local_rank
    device = devices.start(config, onednn=onednn, verbose=verbose, nth_gpu=nth)
    if device.warning:
        reporter.warn(device.warning)
    if device.kind == "cpu" and devices.is_slow(config.precision):
        reporter.warn(
            f"TensorFlow has no fast code for {config.precision} on this processor: it will take several "
            "times as long as float32, or far longer."
        )
    from cifar_trainer.training.replicas import join

    return device, join(cluster, gpu=device.kind == "gpu")


def _described(
    config: Settings,
    recipe: Recipe,
    device: Device,
    replicas: "Alone",
    reporter: TrainingReporter,
    options: Options,
    side_by_side: SideBySide | None,
) -> tuple[Options, dict[str, Any]]:
    """The options, and what environment.json says, once it is known who trains along."""
    described = devices.describe_environment(device)
    if replicas.count > 1:
        described["replicas"] = replicas.count
    count = 1 if side_by_side is None else side_by_side.decide(config, recipe, device, options, reporter)
    if count > 1:
        described["side_by_side"] = count
    return dataclasses.replace(options, side_by_side=count), described


def _write_settings(
    run: Run, config: Settings, dataset: Dataset, described: Mapping[str, Any], recipe: Recipe
) -> None:
    with writing(run.path, "Make room, or give write access to it."):
        if recipe.file is not None:
            files.write_bytes(run.recipe, recipe.file.content)
        files.write_json(run.environment, described)
        files.write_json(run.config, {**config.to_json(), "data": describe_data(dataset, config).to_json()})


def describe_data(dataset: Dataset, config: Settings) -> DataRecord:
    """What config.json keeps about the data of a run."""
    indices, validation = split_for(dataset, config)

    def record(split: "Split", images: int) -> SplitRecord:
        return SplitRecord(images, split.fingerprint, split.sha256)

    return DataRecord(
        name=dataset.name,
        title=dataset.title,
        verified=dataset.verified,
        classes=dataset.classes,
        train=record(dataset.train, len(indices)),
        test=record(dataset.test, len(dataset.test)),
        validation=ValidationRecord(config.validation, len(validation)),
        data_dir=str(dataset.folder.parent.absolute()),
        preprocessing=dataset.preprocessing,
    )
