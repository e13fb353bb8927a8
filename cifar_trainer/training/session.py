"""Training runs: new ones, resumed ones, and several that differ in their seeds.

Importing this does not import TensorFlow; `train` and `resume` import it once the settings, the folder and
the data have been checked.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import devices, files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.splits import check_fit, split_for
from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices import Device
from cifar_trainer.devices.cluster import Cluster, find_cluster
from cifar_trainer.errors import CheckpointError, DataError, RunError, TrainingStopped, UsageError
from cifar_trainer.files import writing
from cifar_trainer.recipes import Recipe, get_recipe, is_splittable
from cifar_trainer.recipes.own import naming_the_line
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
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint
from cifar_trainer.training.control import Options, TrainingReporter

if TYPE_CHECKING:
    import keras

    from cifar_trainer.data.dataset import Split
    from cifar_trainer.training.replicas import Alone
    from cifar_trainer.training.trainer import Trainer

#: Settings that a resumed run may change: more epochs, another device.
_CHANGEABLE = ("epochs", "device")


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A run to train.

    Attributes:
        config: the settings.
        recipe: the recipe that they name; None reads that of a resumed run, which may run code of the user's.
        resumed: the run to resume; None starts a new one.
        folder: the folder of a new run; None is `runs/TIME-RECIPE`.
        data_dir: the folder of the prepared data sets; None is where a resumed run found its data.
        offline: never download.
    """

    config: Settings
    recipe: Recipe | None = None
    resumed: Run | None = None
    folder: Path | None = None
    data_dir: Path | None = None
    offline: bool = False


def train(
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
) -> TrainResult:
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

    Raises:
        UsageError: a setting is out of its range, or does not fit the data.
        DataError: the data cannot be had, or are damaged.
        DeviceError: the device is not there.
        RunError: the run's folder is in use, holds something, or cannot be written.
        TrainingError: a loss or weight is not finite, or memory ran out.
        TrainingStopped: `should_stop` asked for it.
    """
    job = new_job(
        recipe=recipe,
        dataset=dataset,
        data_dir=data_dir,
        run_dir=run_dir,
        offline=offline,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
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
    (result,) = train_jobs([job], options, reporter=reporter, verbose=verbose)
    return result


def new_job(
    *,
    recipe: Path | str = "document",
    data_dir: Path | str = DEFAULT_DATA_DIR,
    run_dir: Path | str | None = None,
    offline: bool = False,
    **settings: Any,
) -> Job:
    """A new run with these arguments of `train`.

    Raises:
        UsageError: a setting is out of its range.
    """
    chosen = get_recipe(str(recipe))
    defaults = {"dataset": "cifar10"}
    for name in ("epochs", "batch_size", "learning_rate"):
        if settings.get(name) is None:
            defaults[name] = getattr(chosen, name)
    given = {name: value for name, value in settings.items() if value is not None}
    sha256 = None if chosen.file is None else chosen.file.sha256
    config = Settings(recipe=chosen.name, **{**defaults, **given}, recipe_sha256=sha256)
    return Job(
        config,
        chosen,
        folder=None if run_dir is None else Path(run_dir).expanduser(),
        data_dir=Path(data_dir).expanduser(),
        offline=offline,
    )


def resume(
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
) -> TrainResult:
    """Resume a run from its newest whole checkpoint, to the same bits as an uninterrupted run.

    Args:
        run: the run, or its folder.
        epochs: more than the run was begun with, to extend it; None is as begun.
        device: another device than the run's; None is the run's.
        data_dir: the folder of the prepared data sets; None is where the run found its data.
        settings: further settings by name, which must be those of the run.
        time_limit, end_after: as in `train`; the time of the processes before counts.
        checkpoint_every, profile, histograms, callbacks: as in `train`.
        reporter, should_stop, verbose: as in `train`.

    Returns:
        The result; of a run that is finished already, the one that it has.

    Raises:
        UsageError: settings differ from the run's.
        DataError: the run's data are not to be had, or others are there.
        RunError: there is no such run, or it is in use.
        CheckpointError: no checkpoint is whole.
        DeviceError, TrainingError, TrainingStopped: as in `train`.
    """
    changes = {"epochs": epochs, "device": device}
    given = {**(settings or {}), **{name: value for name, value in changes.items() if value is not None}}
    job = resumed_job(run, given, data_dir)
    options = Options(
        checkpoint_every=checkpoint_every,
        profile=profile,
        histograms=histograms,
        callbacks=tuple(callbacks),
        should_stop=should_stop,
        time_limit=time_limit,
        end_after=end_after,
    )
    (result,) = train_jobs([job], options, reporter=reporter, verbose=verbose)
    return result


def resumed_job(run: Run | Path | str, given: Mapping[str, Any], data_dir: Path | str | None = None) -> Job:
    """The rest of a run, with these settings.

    Raises:
        RunError: there is no such run.
        UsageError: a setting differs from the run's and may not be changed.
    """
    run = run if isinstance(run, Run) else open_run(run)
    run.check_recipe()
    config = resumed_config(run.read_config(), given)
    return Job(config, resumed=run, data_dir=None if data_dir is None else Path(data_dir).expanduser())


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


def train_jobs(
    jobs: Sequence[Job],
    options: Options,
    *,
    stack: str = "off",
    reporter: TrainingReporter | None = None,
    verbose: bool = False,
) -> list[TrainResult]:
    """Train runs that differ in their seeds only: stacked in one program, or one after the other.

    Args:
        jobs: the runs.
        options: runtime options of each run.
        stack: `on` stacks the runs, `auto` does on a GPU, `off` trains them one after the other. Settings
            that cannot be stacked are trained one after the other, with a note.
        reporter: is notified of progress; None reports nothing.
        verbose: show TensorFlow's own messages.

    Returns:
        The results, in the order of `jobs`. A run that is already finished keeps the result that it has.

    Raises:
        TrainingStopped: `options.should_stop` returned True. The runs that were stacked all stop.
        CifarTrainerError: a run failed. Runs that are stacked with it are trained to their end first.
    """
    reporter = reporter or TrainingReporter()
    cluster = _find_cluster(jobs[0].config)
    is_chief = cluster is None or cluster.is_chief
    results: dict[int, TrainResult] = {}
    datasets: dict[int, Dataset] = {}
    for i, job in enumerate(jobs):
        if job.resumed is None:
            if job.folder is not None and is_chief:
                # Before anything is downloaded.
                check_new(job.folder)
        else:
            if is_chief:
                # Fail now if another process uses the run, not once TensorFlow has started.
                with job.resumed.hold():
                    pass
            finished = _finished(job.resumed, job.config, reporter)
            if finished is not None:
                results[i] = finished
                continue
        datasets[i] = _load(job, reporter)
    if not datasets:
        return list(results.values())
    first = jobs[min(datasets)]
    # A resumed run keeps the kernels that it began with.
    onednn = None if first.resumed is None else first.resumed.read_environment().get("onednn")
    device, replicas = _start(first.config, reporter, verbose, cluster, onednn)
    recipe = _recipe(first)
    if not replicas.is_chief:
        return [_train_along(first, recipe, datasets[0], device, reporter, options, replicas)]
    stacked = 1
    if len(jobs) > 1 and (stack == "on" or (stack == "auto" and device.kind == "gpu")):
        reason = _obstacle(first.config, recipe, options)
        if reason is None:
            stacked = len(jobs)
        else:
            reporter.note(f"The seeds are trained one after the other: {reason}.")
    options = dataclasses.replace(options, side_by_side=stacked)
    turns = [list(datasets)] if stacked > 1 else [[i] for i in datasets]
    for turn in turns:
        told = [
            SeedReporter(reporter, jobs[i].config.seed, leads=i == turn[0]) if stacked > 1 else reporter
            for i in turn
        ]
        parts = [(jobs[i], datasets[i], mine) for i, mine in zip(turn, told, strict=True)]
        results |= zip(turn, _train_together(parts, device, options, replicas), strict=True)
    return [results[i] for i in range(len(jobs))]


def _recipe(job: Job) -> Recipe:
    """The recipe of a run; reading that of a resumed one needs TensorFlow to be started as the run does."""
    if job.recipe is not None:
        return job.recipe
    assert job.resumed is not None, "a new run has a recipe"
    return job.resumed.read_recipe()


def _obstacle(config: Settings, recipe: Recipe, options: Options) -> str | None:
    """Why several seeds of these settings cannot be stacked in one program; None if they can."""
    if not recipe.stackable:
        return f"the recipe {recipe.name} cannot be stacked"
    if config.precision == "float16":
        return "with --precision float16 each seed scales its own loss"
    if config.validation == "holdout":
        return "with --validation holdout each seed trains on other images"
    if config.conv == "cudnn":
        return "--conv cudnn does not support several seeds"
    if options.profile or options.callbacks:
        return f"{'--profile' if options.profile else 'callbacks'} are for one run"
    return None


def _finished(run: Run, config: Settings, reporter: TrainingReporter) -> TrainResult | None:
    """The result of a run that has nothing left to train."""
    # If the model is missing, the last checkpoint gives it again.
    if not (run.result.is_file() and run.model.is_file()):
        return None
    result = run.read_result()
    if not result.is_final(config.epochs):
        return None
    reporter.note(f"{run.path} is finished: {result.epochs} epochs. Raise --epochs to go on.")
    return result


def _load(job: Job, reporter: TrainingReporter) -> Dataset:
    """The data of a run; those of a new one are prepared if necessary."""
    if job.resumed is not None:
        return job.resumed.load_data(job.data_dir, ordered=True)
    assert job.data_dir is not None, "a new run names the folder of its data"
    dataset = _prepare(job.config.dataset, job.data_dir, job.offline, reporter)
    check_fit(dataset, job.config)
    return dataset


def _train_together(
    parts: Sequence[tuple[Job, Dataset, TrainingReporter]],
    device: Device,
    options: Options,
    replicas: "Alone",
) -> list[TrainResult]:
    """Train runs in one program."""
    from cifar_trainer.training.trainer import open_trainer, train

    recipe = _recipe(parts[0][0])
    with contextlib.ExitStack() as stack:
        stack.enter_context(replicas.together())
        stack.enter_context(replicas.leading())
        opened = [
            stack.enter_context(_open(*part, recipe, device, options.side_by_side, replicas))
            for part in parts
        ]
        stack.enter_context(naming_the_line(None if recipe.file is None else recipe.file.path))
        trainers = [
            open_trainer(
                job.config, recipe, dataset, run, checkpoint, device, reporter, options,
                replicas=replicas,
            )
            for (job, dataset, reporter), (run, checkpoint) in zip(parts, opened, strict=True)
        ]  # fmt: skip
        train(trainers, should_stop=options.should_stop, stacked=options.side_by_side, replicas=replicas)
        return results_of(trainers, [run.path for run, _ in opened])


def results_of(trainers: "Sequence[Trainer]", folders: Sequence[Path]) -> list[TrainResult]:
    """The results of runs that were trained.

    Raises:
        TrainingStopped: a run was asked to stop.
        Exception: a run failed.
    """
    for trainer in trainers:
        if trainer.error is not None:
            raise trainer.error
    for trainer, folder in zip(trainers, folders, strict=True):
        if trainer.stopped:
            raise TrainingStopped(folder)
    return [trainer.result for trainer in trainers if trainer.result is not None]


@contextlib.contextmanager
def _open(
    job: Job,
    dataset: Dataset,
    reporter: TrainingReporter,
    recipe: Recipe,
    device: Device,
    stacked: int,
    replicas: "Alone",
) -> Iterator[tuple[Run, Checkpoint | None]]:
    """Hold a run's folder, with its settings written, and find the checkpoint to resume."""
    config, checkpoint = job.config, None
    described = devices.describe_environment(device)
    if replicas.count > 1:
        described["replicas"] = replicas.count
    if stacked > 1:
        described["side_by_side"] = stacked
    with new_run(job.folder, config.recipe) if job.resumed is None else _held(job.resumed) as run:
        reporter.begun(run, config, dataset.title, device)
        if job.resumed is not None:
            with writing(run.path, "Make room, or give write access to it."):
                checkpoint = find_checkpoint(run, config, reporter)
            before = run.read_environment()
            _warn_of_differences(before, described, config, device, reporter)
            earlier = {name: value for name, value in before.items() if name != "earlier"}
            described["earlier"] = [*before.get("earlier", []), earlier]
        _write_settings(run, config, dataset, described, recipe)
        if checkpoint is not None:
            reporter.note(f"Going on after {checkpoint.epoch} epochs and {checkpoint.step} steps.")
        step = None if checkpoint is None else checkpoint.global_step
        replicas.message({**_shared(config, dataset), "run_dir": str(run.path), "step": step})
        try:
            yield run, checkpoint
        except UsageError:
            # A fault in the user's own recipe: once it is fixed, the folder is to be free.
            if job.resumed is None:
                run.discard_unbegun()
            raise


@contextlib.contextmanager
def _held(run: Run) -> Iterator[Run]:
    with run.hold():
        yield run


def _warn_of_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    config: Settings,
    device: Device,
    reporter: TrainingReporter,
) -> None:
    if device.kind == "gpu" and not config.deterministic:
        reporter.warn(
            "Without --deterministic a GPU may choose other kernels in another process: the result will "
            "not be bit-identical to an uninterrupted run."
        )
    for difference in devices.compare_environments(before, now):
        reporter.warn(f"{difference}: the result will not be bit-identical to an uninterrupted run.")


def _train_along(
    job: Job,
    recipe: Recipe,
    dataset: Dataset,
    device: Device,
    reporter: TrainingReporter,
    options: Options,
    replicas: "Alone",
) -> TrainResult:
    """Train as a worker of the chief's run; this process writes into a temporary folder.

    Raises:
        UsageError: the chief has other settings.
        DataError: it has other data.
        RunError: it could not begin, or has gone.
    """
    from cifar_trainer.training.trainer import open_trainer, train

    with replicas.together(), tempfile.TemporaryDirectory(prefix="cifar-trainer-") as folder:
        told = replicas.message(None)
        if "error" in told:
            raise RunError(f"The first process could not begin: {told['error']}")
        mine = _shared(job.config, dataset)
        if told["config"] != mine["config"]:
            different = [name for name, value in mine["config"].items() if told["config"].get(name) != value]
            raise UsageError(
                f"This process was started with other settings than the first one: {', '.join(different)}."
            )
        if told["data"] != mine["data"]:
            raise DataError(f"{dataset.folder} holds other data than the first process has.")
        reporter.begun(Run(Path(told["run_dir"])), job.config, dataset.title, device)
        checkpoint = None
        if job.resumed is not None and told["step"] is not None:
            checkpoint = checkpoints.load_step(job.resumed.checkpoints, told["step"])
        trainer = open_trainer(
            job.config, recipe, dataset, Run(Path(folder)), checkpoint, device, reporter, options,
            replicas=replicas,
        )  # fmt: skip
        train([trainer], should_stop=options.should_stop, replicas=replicas)
        (result,) = results_of([trainer], [Path(told["run_dir"])])
        return dataclasses.replace(result, run_dir=told["run_dir"])


def _shared(config: Settings, dataset: Dataset) -> dict[str, Any]:
    """What must be the same in all processes of a cluster, as JSON."""
    settings = {name: value for name, value in config.to_json().items() if name != "device"}
    return {"config": settings, "data": {"train": dataset.train.sha256, "test": dataset.test.sha256}}


class SeedReporter(TrainingReporter):
    """Forwards what happens in one of several stacked runs, with its seed.

    Args:
        reporter: is notified.
        seed: of the run.
        leads: whether a live bar shows this run.
    """

    def __init__(self, reporter: TrainingReporter, seed: int, *, leads: bool) -> None:
        self._reporter, self._seed, self._leads = reporter, seed, leads
        self.prepare = reporter.prepare

    def note(self, text: str) -> None:
        self._reporter.note(f"seed {self._seed}: {text}")

    def warn(self, text: str) -> None:
        self._reporter.warn(f"seed {self._seed}: {text}")

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._reporter.begun(run, config, title, device)

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if self._leads:
            self._reporter.epoch_begun(epoch, epochs, step, steps)

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        if self._leads:
            self._reporter.progress(step, loss, accuracy, images_per_second, seconds_left)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._reporter.epoch_ended({**row, "seed": self._seed}, epochs)


def find_checkpoint(run: Run, config: Settings, reporter: TrainingReporter) -> Checkpoint | None:
    """The checkpoint at which a run resumes; everything later is removed.

    1. Remove leftovers of interrupted writes.
    2. Choose the newest whole checkpoint; name damaged ones and set them aside.
    3. Truncate the event files after its last complete epoch. (history.csv is written from the checkpoint
       when training begins.)

    Returns:
        None if the run was stopped before anything was saved.

    Raises:
        CheckpointError: there were checkpoints, and none is whole; or the one that is belongs to other
            settings.
    """
    from cifar_trainer.training.tensorboard import cut_back

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
    # The table of runs shows settings, which are written again: the epochs may have been raised.
    for split, last in (("", -1), ("train", found.epoch), ("validation", found.epoch)):
        cut_back(run.tensorboard / split, last)
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    # A setting that an earlier version lacked had the value that is its default.
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name in now:
        earlier = before.get(name, defaults[name])
        if earlier != now[name]:
            yield f"{name} was {earlier!r} and is {now[name]!r}"


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
    device = devices.start(config, split=is_splittable(config), onednn=onednn, verbose=verbose, nth_gpu=nth)
    if device.warning:
        reporter.warn(device.warning)
    if device.kind == "cpu" and devices.is_slow(config.precision):
        reporter.warn(
            f"TensorFlow has no fast code for {config.precision} on this processor: it will take several "
            "times as long as float32, or far longer."
        )
    from cifar_trainer.training.replicas import join

    return device, join(cluster, gpu=device.kind == "gpu")


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
