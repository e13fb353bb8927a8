"""Start or resume runs, and train them: one by one, stacked in one program, or in several processes.

Importing this does not import TensorFlow; `train_jobs` does so after checking the folders and the data.
"""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import devices, files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.mapped import is_large
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.splits import check_fit, fit_batch_size, split_for
from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices import Device
from cifar_trainer.errors import CheckpointError, DataError, RunError, TrainingStopped, UsageError, counted
from cifar_trainer.files import writing
from cifar_trainer.recipes import Recipe, is_splittable
from cifar_trainer.recipes.own import naming_the_line
from cifar_trainer.run import (
    DataRecord,
    Extension,
    Run,
    SplitRecord,
    TrainResult,
    ValidationRecord,
    check_new,
    new_run,
)
from cifar_trainer.settings import FORMER_RECIPES, RuntimeOptions, Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint, checkpoint_step, list_checkpoints
from cifar_trainer.training.distributed import Cluster, find_cluster
from cifar_trainer.training.reporter import PrintReporter, SeedReporter, TrainingReporter
from cifar_trainer.training.transfer import InitialWeights, find_weights, load_weights

if TYPE_CHECKING:
    from cifar_trainer.data.dataset import Split
    from cifar_trainer.training.distributed import Replicas
    from cifar_trainer.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A run to train.

    Attributes:
        config: the settings.
        recipe: the settings' recipe; None reads that of the resumed run, which may execute the user's code.
        resumed: the run to resume; None starts a new one.
        folder: a new run's folder; by default, `runs/TIME-RECIPE`.
        data_dir: folder of the prepared data sets; by default, the one that the resumed run was trained from.
        prepare: whether to prepare a new run's data if they are missing.
        own_batch_size: whether the user set the batch size; otherwise it is the recipe's.
        initial: the weights that it starts from, once they are loaded.
    """

    config: Settings
    recipe: Recipe | None = None
    resumed: Run | None = None
    folder: Path | None = None
    data_dir: Path | None = None
    prepare: bool = True
    own_batch_size: bool = True
    initial: InitialWeights | None = None


def train_jobs(jobs: Sequence[Job], options: RuntimeOptions, *, stack: str = "off") -> list[TrainResult]:
    """Train runs that differ only in their seeds, stacked in one program or one by one.

    Args:
        jobs: the runs.
        options: runtime options for each run.
        stack: `on` stacks the runs, `auto` does so on a GPU, `off` trains them one by one. If the settings
            cannot be stacked, the runs are trained one by one, with a note.

    Returns:
        The results, in the order of `jobs`. A run that has already finished keeps its result.

    Raises:
        TrainingStopped: `options.should_stop` returned True. All stacked runs stop.
        CifarTrainerError: a run failed. Runs stacked with it are trained to the end first.
    """
    reporter = options.reporter or PrintReporter()
    cluster = _find_cluster(jobs[0].config)
    is_chief = cluster is None or cluster.is_chief
    jobs = list(jobs)
    results: dict[int, TrainResult] = {}
    datasets: dict[int, Dataset] = {}
    for i, job in enumerate(jobs):
        if job.resumed is None:
            # Check before downloading anything.
            if job.folder is not None and is_chief:
                check_new(job.folder)
            find_weights(job.config)
        else:
            if is_chief:
                # If another process uses the run, fail now, before TensorFlow starts.
                with job.resumed.hold():
                    pass
            finished = _finished(job, options, reporter)
            if finished is not None:
                results[i] = finished
                continue
        jobs[i], datasets[i] = _load(job, options, reporter)
    if not datasets:
        return list(results.values())
    if len({dataset.train.sha256 for dataset in datasets.values()}) > 1:
        raise DataError("The images in the data folder differ from those that the runs were trained on.")
    first = jobs[min(datasets)]
    # A resumed run keeps its choice of kernels.
    onednn = None if first.resumed is None else first.resumed.read_environment().get("onednn")
    device, replicas = _start(first.config, reporter, options.verbose, cluster, onednn)
    recipe = _recipe(first)
    jobs = _with_weights(jobs, datasets[min(datasets)].image_shape, options.offline)
    if not replicas.is_chief:
        return [_train_as_worker(jobs[0], recipe, datasets[0], device, reporter, options, replicas)]
    stacked = 1
    if len(jobs) > 1 and (stack == "on" or (stack == "auto" and device.kind == "gpu")):
        reason = _obstacle(first.config, recipe, datasets[min(datasets)], options)
        if reason is None:
            stacked = len(jobs)
        else:
            reporter.note(f"Training the seeds one by one: {reason}.")
    options = dataclasses.replace(options, side_by_side=stacked)
    programs = [list(datasets)] if stacked > 1 else [[i] for i in datasets]
    for members in programs:
        reporters = [
            SeedReporter(reporter, jobs[i].config.seed, leads=i == members[0]) if stacked > 1 else reporter
            for i in members
        ]
        parts = [(jobs[i], datasets[i], each) for i, each in zip(members, reporters, strict=True)]
        results |= zip(members, _train_together(parts, device, options, replicas), strict=True)
    return [results[i] for i in range(len(jobs))]


def _recipe(job: Job) -> Recipe:
    """The recipe of a run. Start TensorFlow first: reading a custom recipe may use it."""
    if job.recipe is not None:
        return job.recipe
    assert job.resumed is not None, "a new run has a recipe"
    return job.resumed.read_recipe()


def _with_weights(jobs: Sequence[Job], shape: tuple[int, int, int], offline: bool = False) -> list[Job]:
    """The jobs with the weights of `--weights`, loaded once for all runs that have no checkpoint yet."""
    starting = [i for i, job in enumerate(jobs) if job.config.weights and not _has_started(job.resumed)]
    if not starting:
        return list(jobs)
    # All runs of a group start from the same weights, even if those of --weights change in between.
    known = next((job.config.weights_sha256 for job in jobs if job.config.weights_sha256), None)
    first = dataclasses.replace(jobs[starting[0]].config, weights_sha256=known)
    initial = load_weights(first, shape, offline=offline)
    loaded = list(jobs)
    for i in starting:
        config = dataclasses.replace(jobs[i].config, weights_sha256=initial.sha256)
        loaded[i] = dataclasses.replace(jobs[i], config=config, initial=initial)
    return loaded


def _has_started(run: Run | None) -> bool:
    """Whether a run has saved anything; False for a new one."""
    return run is not None and (run.history.exists() or bool(list_checkpoints(run.checkpoints)))


def _obstacle(config: Settings, recipe: Recipe, dataset: Dataset, options: RuntimeOptions) -> str | None:
    """Why runs with these settings cannot be stacked in one program; None if they can."""
    if not recipe.stackable:
        return f"the recipe {recipe.name} cannot be stacked"
    if is_large(dataset.train.images):
        return "each seed reads the images in another order, because they are too large to keep in memory"
    if config.precision == "float16":
        return "with --precision float16 each seed scales its own loss"
    if config.validation == "holdout":
        return "with --validation holdout each seed trains on different images"
    if config.conv == "cudnn":
        return "--conv cudnn does not support several seeds"
    if options.profile or options.callbacks:
        return "--profile supports a single run" if options.profile else "callbacks support a single run"
    return None


def _finished(job: Job, options: RuntimeOptions, reporter: TrainingReporter) -> TrainResult | None:
    """The result of a run that has nothing left to train; None for other runs."""
    run = job.resumed
    # If the model is missing, it is restored from the last checkpoint.
    if run is None or not (run.result.is_file() and run.model.is_file()):
        return None
    result = run.read_result()
    if not result.is_final(job.config.epochs, options.time_limit):
        return None
    epochs = counted(result.epochs, "epoch")
    more = " or --time-limit" if result.ended_by == "time limit" else ""
    reporter.note(f"{run.path} is already finished ({epochs}). Pass a larger --epochs{more} to train longer.")
    return result


def _load(job: Job, options: RuntimeOptions, reporter: TrainingReporter) -> tuple[Job, Dataset]:
    """Load a run's data; prepare a new run's data if they are missing."""
    if job.resumed is not None:
        return job, job.resumed.load_data(job.data_dir, ordered=True)
    assert job.data_dir is not None, "a new run has a data folder"
    config = job.config
    if job.prepare:
        report = prepare(config.dataset, job.data_dir, offline=options.offline, reporter=reporter.prepare)
        if not report.already:
            reporter.note(f"Prepared {report.title} in {report.folder}.")
    dataset = load_dataset(job.data_dir, config.dataset)
    # The user may have used another spelling of the name.
    config = dataclasses.replace(config, dataset=dataset.name)
    if not job.own_batch_size:
        config = fit_batch_size(dataset, config)
        if config.batch_size < job.config.batch_size:
            reporter.note(f"--batch-size is {config.batch_size}, the number of training images.")
    check_fit(dataset, config)
    return dataclasses.replace(job, config=config), dataset


def _train_together(
    parts: Sequence[tuple[Job, Dataset, TrainingReporter]],
    device: Device,
    options: RuntimeOptions,
    replicas: "Replicas",
) -> list[TrainResult]:
    """Train runs in one program."""
    from cifar_trainer.training.trainer import Trainer, train

    recipe = _recipe(parts[0][0])
    with contextlib.ExitStack() as stack:
        stack.enter_context(replicas.connected())
        stack.enter_context(replicas.starting())
        opened = [
            stack.enter_context(_open(*part, recipe, device, options.side_by_side, replicas))
            for part in parts
        ]
        stack.enter_context(naming_the_line(None if recipe.file is None else recipe.file.path))
        trainers = [
            Trainer(
                job.config, recipe, dataset, run, device, checkpoint,
                options=options, reporter=reporter, replicas=replicas, initial=job.initial,
            )
            for (job, dataset, reporter), (run, checkpoint) in zip(parts, opened, strict=True)
        ]  # fmt: skip
        train(trainers, should_stop=options.should_stop, stacked=options.side_by_side, replicas=replicas)
        return results_of(trainers, [run.path for run, _ in opened])


def results_of(trainers: "Sequence[Trainer]", folders: Sequence[Path]) -> list[TrainResult]:
    """The results of trained runs.

    Raises:
        TrainingStopped: a run was asked to stop.
        Exception: the error of a run that failed.
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
    replicas: "Replicas",
) -> Iterator[tuple[Run, Checkpoint | None]]:
    """Lock a run's folder, write its settings, and find the checkpoint to resume from."""
    config, checkpoint = job.config, None
    described = devices.describe_environment(device)
    if replicas.count > 1:
        described["replicas"] = replicas.count
    if stacked > 1:
        described["side_by_side"] = stacked
    with new_run(job.folder, config.recipe) if job.resumed is None else job.resumed.hold() as run:
        reporter.run_started(run, config, dataset.title, device)
        if job.resumed is not None:
            with writing(run.path, "Free some disk space, or make the folder writable."):
                checkpoint = find_checkpoint(run, config, reporter)
            before = run.read_environment()
            _warn_of_differences(before, described, config, device, reporter)
            earlier = {name: value for name, value in before.items() if name != "earlier"}
            described["earlier"] = [*before.get("earlier", []), earlier]
        extensions = [] if job.resumed is None else _extensions(run, config, checkpoint)
        saved = {} if job.resumed is None else files.read_json(run.config, dict[str, Any])
        parent = saved.get("parent") if job.initial is None else job.initial.parent
        _write_settings(run, config, dataset, described, recipe, extensions, parent)
        if checkpoint is not None:
            done = f"{counted(checkpoint.epoch, 'epoch')} and {counted(checkpoint.step, 'step')}"
            reporter.note(f"Resuming after {done}.")
        step = None if checkpoint is None else checkpoint.global_step
        replicas.broadcast_json({**_shared(config, dataset), "run_dir": str(run.path), "step": step})
        try:
            yield run, checkpoint
        except UsageError:
            # A bug in a custom recipe: free the folder, so that the user can fix it and start again.
            if job.resumed is None:
                run.discard_unless_trained()
            raise


def _extensions(run: Run, config: Settings, checkpoint: Checkpoint | None) -> list[Extension]:
    """The run's extensions, including the current one; `reproduce` repeats them."""
    earlier = [] if checkpoint is None else list(run.read_extensions())
    epochs = run.read_config().epochs
    if checkpoint is not None and checkpoint.global_step > 0 and config.epochs > epochs:
        earlier.append(Extension(epochs, checkpoint.epoch, checkpoint.step))
    return earlier


def _warn_of_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    config: Settings,
    device: Device,
    reporter: TrainingReporter,
) -> None:
    if device.kind == "gpu" and not config.deterministic:
        reporter.warn(
            "Without --deterministic, a GPU may use different kernels in each process: the result may not be "
            "bit-identical to an uninterrupted run."
        )
    for difference in devices.compare_environments(before, now):
        reporter.warn(f"{difference}: the result will not be bit-identical to an uninterrupted run.")


def _train_as_worker(
    job: Job,
    recipe: Recipe,
    dataset: Dataset,
    device: Device,
    reporter: TrainingReporter,
    options: RuntimeOptions,
    replicas: "Replicas",
) -> TrainResult:
    """Train as a worker of the chief's run, writing to a temporary folder.

    Raises:
        UsageError: the chief's settings differ.
        DataError: the chief's data differ.
        RunError: the chief could not start, or no longer responds.
    """
    from cifar_trainer.training.trainer import Trainer, train

    with replicas.connected(), tempfile.TemporaryDirectory(prefix="cifar-trainer-") as folder:
        chief = replicas.broadcast_json(None)
        if "error" in chief:
            raise RunError(f"The first process could not start: {chief['error']}")
        mine = _shared(job.config, dataset)
        if chief["config"] != mine["config"]:
            different = [name for name, value in mine["config"].items() if chief["config"].get(name) != value]
            raise UsageError(
                f"The settings of this process differ from those of the first one: {', '.join(different)}."
            )
        if chief["data"] != mine["data"]:
            raise DataError(f"The data in {dataset.folder} differ from those of the first process.")
        reporter.run_started(Run(Path(chief["run_dir"])), job.config, dataset.title, device)
        checkpoint = None
        if job.resumed is not None and chief["step"] is not None:
            checkpoint = checkpoints.load_step(job.resumed.checkpoints, chief["step"])
        trainer = Trainer(
            job.config, recipe, dataset, Run(Path(folder)), device, checkpoint,
            options=options, reporter=reporter, replicas=replicas, initial=job.initial,
        )  # fmt: skip
        train([trainer], should_stop=options.should_stop, replicas=replicas)
        (result,) = results_of([trainer], [Path(chief["run_dir"])])
        return dataclasses.replace(result, run_dir=chief["run_dir"])


def _shared(config: Settings, dataset: Dataset) -> dict[str, Any]:
    """Settings and data hashes, which must be the same in all processes of a cluster; as JSON."""
    # Their hash identifies the initial weights; machines may have them in different folders.
    settings = {name: value for name, value in config.to_json().items() if name not in ("device", "weights")}
    return {"config": settings, "data": {"train": dataset.train.sha256, "test": dataset.test.sha256}}


def truncate_to_common_step(runs: Sequence[Run]) -> None:
    """Remove checkpoints of stacked runs after the newest step that all of them have saved.

    The runs save one after another, so if the process is killed in between, some are a checkpoint ahead.
    Runs that are finished, or have no checkpoint in common, are left unchanged.
    """
    unfinished = [run for run in runs if run.config.is_file() and not run.is_finished()]
    if not all(run.read_environment().get("side_by_side") for run in unfinished):
        return
    saved = [
        {checkpoint_step(path): path for path in list_checkpoints(run.checkpoints)} for run in unfinished
    ]
    # A run without a checkpoint starts at its first step.
    common = set.intersection(*(set(steps) or {0} for steps in saved)) if saved else set()
    for run, steps in zip(unfinished, saved, strict=True):
        for step, path in steps.items():
            if common and step > max(common):
                with run.hold():
                    shutil.rmtree(path)


def find_checkpoint(run: Run, config: Settings, reporter: TrainingReporter) -> Checkpoint | None:
    """Find the checkpoint to resume from, and remove everything later.

    1. Remove leftovers of interrupted writes.
    2. Load the newest intact checkpoint; report damaged ones and set them aside.
    3. Truncate the event files after its last complete epoch. (history.csv is rewritten from the checkpoint
       when training starts.)

    Returns:
        None if the run was stopped before anything was saved.

    Raises:
        CheckpointError: all checkpoints are damaged, or the intact one belongs to different settings.
    """
    from cifar_trainer.training.tensorboard import truncate_events

    files.remove_partials(run.path)
    if not _has_started(run):
        reporter.note(f"{run.path} was stopped before its first checkpoint; starting from the first step.")
        for split in ("", "train", "validation"):
            truncate_events(run.tensorboard / split, -1)
        return None
    files.remove_partials(run.checkpoints)
    newest = checkpoints.load_newest(run.checkpoints, reporter.warn)
    checkpoints.set_aside_newer(run.checkpoints, newest.global_step)
    differences = list(_differences(newest.identity, config.identity()))
    if differences:
        raise CheckpointError(
            f"The checkpoint in {run.checkpoints} was written with settings that differ from config.json: "
            f"{', '.join(differences)}."
        )
    # Remove all of HParams' events: they are written again, with the raised epochs if there are any.
    for split, last in (("", -1), ("train", newest.epoch), ("validation", newest.epoch)):
        truncate_events(run.tensorboard / split, last)
    return newest


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    # Settings that an earlier version lacked get their defaults.
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    if before.get("recipe_sha256") is None:
        before = {**before, "recipe": FORMER_RECIPES.get(before["recipe"], before["recipe"])}
    for name in now:
        earlier = before.get(name, defaults[name])
        if earlier != now[name]:
            yield f"{name} was {earlier!r} and is {now[name]!r}"


def _find_cluster(config: Settings) -> Cluster | None:
    cluster = find_cluster()
    if cluster is not None:
        if config.batch_size < cluster.count:
            raise UsageError(
                f"--batch-size {config.batch_size} is less than the number of processes, {cluster.count}."
            )
        if config.xla:
            raise UsageError(
                "--xla cannot be used with several processes: XLA cannot sum over them. Leave it out."
            )
    return cluster


def _start(
    config: Settings,
    reporter: TrainingReporter,
    verbose: bool,
    cluster: Cluster | None,
    onednn: bool | None = None,
) -> "tuple[Device, Replicas]":
    """Start TensorFlow, and connect to the other processes of the cluster."""
    nth = None if cluster is None else cluster.local_rank
    device = devices.start(config, split=is_splittable(config), onednn=onednn, verbose=verbose, nth_gpu=nth)
    if device.warning:
        reporter.warn(device.warning)
    if device.kind == "cpu" and devices.is_slow(config.precision):
        reporter.warn(
            f"TensorFlow has no fast kernels for {config.precision} on this processor: training will take at "
            "least several times as long as in float32."
        )
    from cifar_trainer.training.distributed import join

    return device, join(cluster, gpu=device.kind == "gpu")


def _write_settings(
    run: Run,
    config: Settings,
    dataset: Dataset,
    described: Mapping[str, Any],
    recipe: Recipe,
    extensions: Sequence[Extension],
    parent: Mapping[str, Any] | None,
) -> None:
    content = {**config.to_json(), "data": describe_data(dataset, config).to_json()}
    if parent is not None:
        content["parent"] = parent
    if extensions:
        content["extensions"] = [dataclasses.asdict(extension) for extension in extensions]
    with writing(run.path, "Free some disk space, or make the folder writable."):
        if recipe.file is not None:
            files.write_bytes(run.recipe, recipe.file.content)
        files.write_json(run.environment, described)
        files.write_json(run.config, content)


def describe_data(dataset: Dataset, config: Settings) -> DataRecord:
    """The record of a run's data for config.json."""
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
