"""Train, resume and reproduce a run, or a group of runs that differ only in their seeds.

Importing this does not import TensorFlow; the functions do so after checking the settings, the folder and
the data.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from cifar_trainer import devices, files
from cifar_trainer.errors import RunError, TrainingStopped, UsageError
from cifar_trainer.recipes import Recipe, get_recipe
from cifar_trainer.recipes.own import load_copy
from cifar_trainer.results import Result
from cifar_trainer.run import GROUP_FILE, Run, TrainResult, check_new, open_run, reserve_folder
from cifar_trainer.settings import (
    DEFAULT_DATA_DIR,
    STACKS,
    RuntimeOptions,
    Settings,
    check_choice,
    check_known,
    check_seed,
    declared,
    documented,
    option_name,
)
from cifar_trainer.training.distributed import check_single_process
from cifar_trainer.training.jobs import Job, train_jobs, truncate_to_common_step
from cifar_trainer.training.reporter import TrainingReporter
from cifar_trainer.training.transfer import find_parent

F = TypeVar("F", bound=Callable[..., Any])

#: The declared runtime options, and the defaults of the others that `train` and `resume` accept.
_OPTIONS = declared(RuntimeOptions)
_UNDECLARED = {
    field.name: field.default
    for field in dataclasses.fields(RuntimeOptions)
    if field.name not in {*_OPTIONS, "side_by_side"}
}
#: More seeds than anyone trains, so that a typo cannot fill the memory.
MAX_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class MeanAccuracy:
    """The mean accuracy of several runs.

    Attributes:
        mean: over the runs.
        standard_deviation: sample standard deviation (n - 1); None for a single run.
        n: number of runs.
        interval: 95 % interval of the mean by Student's t, clipped to 0 to 1; None for a single run.
    """

    mean: float
    standard_deviation: float | None
    n: int
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class GroupResult(Result):
    """A trained group: what `train --seeds --json` prints.

    Attributes:
        group_dir: the group's folder.
        runs: results in the order of the seeds.
        accuracy: validation accuracy in the runs' selected epochs.
    """

    group_dir: str
    runs: tuple[TrainResult, ...]
    accuracy: MeanAccuracy


@dataclasses.dataclass(frozen=True)
class Reproduction(Result):
    """A run, or a group, and its repetition.

    Attributes:
        run_dir: the folder of the run or group.
        reproduced_in: the folder of the repetition.
        same: whether all weights are bit-identical.
        weights_sha256: of the repetition; in a group, of the first run that differs, or of the first run.
        expected_sha256: the same of the original.
        differences: environment differences that can change the result.
    """

    run_dir: str
    reproduced_in: str
    same: bool
    weights_sha256: str
    expected_sha256: str
    differences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Group:
    """The content of group.json.

    Attributes:
        seeds: the runs' seeds.
        settings: the arguments of `train` that all runs share.
    """

    seeds: tuple[int, ...]
    settings: dict[str, Any]


@overload
def train(*, seeds: None = None, **arguments: Any) -> TrainResult: ...


@overload
def train(*, seeds: int | str | Sequence[int], **arguments: Any) -> GroupResult: ...


@documented([*declared(Settings).values(), *_OPTIONS.values()], _UNDECLARED)
def train(
    *,
    seeds: int | str | Sequence[int] | None = None,
    stack: str = "auto",
    run_dir: str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    **arguments: Any,
) -> TrainResult | GroupResult:
    """Train a model in a new run folder, or a group of runs with several seeds.

    Args:
        seeds: seeds of a group: a number of seeds, a list, or a string such as "1,2,3"; None trains one run.
        stack: whether to train the seeds side by side in one program: `auto` (on a GPU), `on`, or `off`.
        run_dir: folder of the run or group; by default, `runs/TIME-RECIPE`.
        data_dir: folder of the prepared data sets; a missing data set is prepared.
        {settings}
        callbacks: Keras callbacks, called at epochs and between chunks of steps.
        reporter: receives progress; None prints it.
        should_stop: called between chunks of steps; True saves and stops.
        end_after: epochs after which training ends; the schedule still spans all epochs.
        verbose: show TensorFlow's own messages.

    Raises:
        UsageError: a setting is invalid, or does not fit the data.
        DataError: the data are missing or damaged.
        DeviceError: the device is not available.
        RunError: the folder is in use, not empty, or cannot be written.
        TrainingError: a loss or weight is not finite, or the device ran out of memory.
        TrainingStopped: `should_stop` returned True; `resume` continues.
    """
    settings, options = _split_arguments("train", arguments)
    folder = None if run_dir is None else Path(run_dir).expanduser()
    data = Path(data_dir).expanduser()
    recipe = get_recipe(str(settings.get("recipe", declared(Settings)["recipe"].default)))
    job = Job(
        recipe.settings(settings),
        recipe,
        folder=folder,
        data_dir=data,
        own_batch_size="batch_size" in settings,
    )
    if seeds is None:
        (result,) = train_jobs([job], options)
        return result
    if "seed" in settings:
        raise UsageError("--seed cannot be combined with --seeds. Leave one of them out.")
    check_single_process("--seeds")
    check_choice("stack", stack, STACKS)
    normalized = {name: getattr(job.config, name) for name in settings}
    group = _Group(parse_seeds(seeds), {**normalized, "data_dir": str(data.absolute()), "stack": stack})
    if folder is not None:
        check_new(folder)
    with _new_group(folder, recipe, group) as made:
        jobs = [
            dataclasses.replace(
                job, config=dataclasses.replace(job.config, seed=seed), folder=_member(made, seed).path
            )
            for seed in group.seeds
        ]
        return _train_group(made, jobs, stack, options)


@overload
def resume(run: Run, **arguments: Any) -> TrainResult: ...


@overload
def resume(run: str | Path, **arguments: Any) -> TrainResult | GroupResult: ...


@documented(
    [*(each for each in declared(Settings).values() if each.resumable), *_OPTIONS.values()],
    _UNDECLARED, defaults=False,
)  # fmt: skip
def resume(
    run: Run | str | Path,
    *,
    data_dir: str | Path | None = None,
    **arguments: Any,
) -> TrainResult | GroupResult:
    """Continue a run or group from its newest intact checkpoint.

    The result is bit-identical to that of an uninterrupted run. A finished run keeps its result, unless
    `epochs`, or the time limit that ended it, is raised.

    Args:
        run: the run or group, or its folder.
        data_dir: folder of the prepared data sets; by default, the one that the run was trained from.
        {settings}
        callbacks, reporter, should_stop, end_after, verbose: as in `train`.

    `epochs` can only be raised. Other settings are accepted only if they equal the run's.

    Returns:
        A `TrainResult` for a run, a `GroupResult` for a group.

    Raises:
        UsageError: a setting differs from the run's.
        DataError: the run's data are missing or have changed.
        RunError: there is no such run, or it is in use.
        CheckpointError: no checkpoint is intact.
        DeviceError, TrainingError, TrainingStopped: as in `train`.
    """
    settings, options = _split_arguments("resume", arguments)
    data = None if data_dir is None else Path(data_dir).expanduser()
    if not isinstance(run, Run):
        folder = Path(run).expanduser()
        if (folder / GROUP_FILE).is_file():
            return _resume_group(folder, settings, data, options)
        run = open_run(folder)
    (result,) = train_jobs([_resumed(run, settings, data)], options)
    return result


def _split_arguments(function: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], RuntimeOptions]:
    """Split a function's arguments into settings and runtime options; None counts as omitted.

    Raises:
        UsageError: an argument is unknown or invalid.
    """
    check_known(function, arguments, [*declared(Settings), *_OPTIONS, *_UNDECLARED])
    options = {name: value for name, value in arguments.items() if value is not None}
    settings = {name: options.pop(name) for name in declared(Settings) if name in options}
    if "weights" in settings:
        settings["weights"] = str(settings["weights"])
    return settings, RuntimeOptions(**options)


def _resumed(run: Run, changes: Mapping[str, Any], data_dir: Path | None) -> Job:
    """A job that resumes a run with these settings changed."""
    run.check_recipe()
    return Job(resumed_settings(run.read_config(), changes), resumed=run, data_dir=data_dir)


def resumed_settings(saved: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings of a resumed run: the saved ones, with more epochs or another device if requested.

    Raises:
        UsageError: another setting would change, or the epochs would decrease.
    """
    changed = dataclasses.replace(saved, **changes)
    differences = [
        f"{option_name(name)} was {'not set' if before is None else before} for this run, got {value}"
        for name, value in changes.items()
        if getattr(changed, name) != (before := getattr(saved, name)) and name in saved.identity()
    ]
    if changed.epochs < saved.epochs:
        differences.append(
            f"--epochs was {saved.epochs} for this run and can only be raised, got {changed.epochs}"
        )
    if differences:
        raise UsageError(f"{'; '.join(differences)}. Leave it out, or start a new run without --resume.")
    return changed


def parse_seeds(seeds: int | str | Sequence[int]) -> tuple[int, ...]:
    """Read seeds: a number of seeds (5 means 0 to 4), a list, or either as a string, such as `1,2,3`.

    Raises:
        UsageError: the value is invalid, or a seed is out of range or repeated.
    """
    numbers: Sequence[int] | int = seeds if not isinstance(seeds, str) else _numbers(seeds)
    if isinstance(numbers, int):
        if numbers > MAX_SEEDS:
            raise UsageError(f"--seeds {numbers} is out of range. Expected at most {MAX_SEEDS} seeds.")
        numbers = range(numbers)
    if not hasattr(numbers, "__len__"):
        numbers = ()
    if len(numbers) == 0 or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"--seeds {seeds!r} is invalid. Expected a number of seeds, such as 5, or different seeds, such "
            "as 1,2,3."
        )
    for seed in numbers:
        check_seed(seed)
    return tuple(numbers)


def _numbers(text: str) -> list[int] | int:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if "," in text else numbers[0]


def mean_accuracy(accuracies: Sequence[float]) -> MeanAccuracy:
    """The mean of one or more accuracies, their standard deviation, and the mean's 95 % interval."""
    # Slow to import (0.5 s); a usage error need not wait for it.
    from scipy.stats import t as student

    n, mean = len(accuracies), statistics.fmean(accuracies)
    if n == 1:
        return MeanAccuracy(mean, None, n, None)
    deviation = statistics.stdev(accuracies)
    half = float(student.ppf(0.975, n - 1)) * deviation / n**0.5
    return MeanAccuracy(mean, deviation, n, (max(0.0, mean - half), min(1.0, mean + half)))


@contextlib.contextmanager
def _new_group(folder: Path | None, recipe: Recipe, group: _Group) -> Iterator[Path]:
    """Create a group's folder. If the block fails before a run has started, delete what was created."""
    existed = folder is not None and folder.exists()
    made = reserve_folder(f"{recipe.name}-seeds") if folder is None else folder
    with files.writing(made, "Choose another --run-dir."):
        made.mkdir(parents=True, exist_ok=True)
        if recipe.file is not None:
            # Copy the recipe, so that runs which start later use the same version.
            files.write_bytes(made / "recipe.py", recipe.file.content)
        _write_group(made, group, recipe)
    try:
        yield made
    finally:
        if not any(_member(made, seed).config.is_file() for seed in group.seeds):
            for name in (GROUP_FILE, "recipe.py"):
                (made / name).unlink(missing_ok=True)
            if not existed:
                with contextlib.suppress(OSError):
                    made.rmdir()


def _write_group(folder: Path, group: _Group, recipe: Recipe) -> None:
    sha256 = None if recipe.file is None else recipe.file.sha256
    settings = {**group.settings, "recipe": recipe.name, "recipe_sha256": sha256}
    files.write_json(folder / GROUP_FILE, {"seeds": group.seeds, "settings": settings})


def _member(folder: Path, seed: int) -> Run:
    return Run(folder / f"seed-{seed}")


def _resume_group(
    folder: Path,
    changes: dict[str, Any],
    data_dir: Path | None,
    options: RuntimeOptions,
) -> GroupResult:
    """Continue a group: resume the runs that have started, and start the others."""
    check_single_process("Resuming a group")
    group = files.read_json(folder / GROUP_FILE, _Group)
    common = dict(group.settings)
    stack, group_data = common.pop("stack", "off"), Path(common.pop("data_dir", DEFAULT_DATA_DIR))
    recipe = _recipe_of_group(folder, common)
    jobs = []
    for seed in group.seeds:
        run = _member(folder, seed)
        if run.config.is_file():
            # An earlier resume of the group may have been stopped before it changed this run.
            saved = run.read_config()
            agreed = {
                "epochs": max(saved.epochs, common.get("epochs", 0)),
                "device": common.get("device", saved.device),
            }
            jobs.append(_resumed(run, agreed | changes, data_dir))
        else:
            planned = recipe.settings({**common, "seed": seed})
            settings = resumed_settings(planned, changes)
            if settings.epochs > planned.epochs:
                # Its schedule would differ from that of the extended runs.
                raise UsageError(
                    f"--epochs can only be raised once all seeds have started; seed {seed} has not. "
                    "Resume without --epochs first."
                )
            jobs.append(
                Job(
                    settings,
                    recipe,
                    folder=run.path,
                    data_dir=data_dir or group_data,
                    prepare=False,
                    own_batch_size="batch_size" in common,
                )
            )
    truncate_to_common_step([_member(folder, seed) for seed in group.seeds])
    if changes.keys() & {"epochs", "device"}:
        _write_group(folder, _Group(group.seeds, {**group.settings, **changes}), recipe)
    return _train_group(folder, jobs, stack, options)


def _recipe_of_group(folder: Path, settings: dict[str, Any]) -> Recipe:
    """The recipe for a group's runs that have not started; removes its entries from `settings`."""
    name, sha256 = settings.pop("recipe", "tutorial"), settings.pop("recipe_sha256", None)
    copy = folder / "recipe.py"
    return load_copy(copy, sha256) if copy.is_file() else get_recipe(name)


def _train_group(folder: Path, jobs: Sequence[Job], stack: str, options: RuntimeOptions) -> GroupResult:
    try:
        results = train_jobs(jobs, options, stack=stack)
    except TrainingStopped as error:
        raise TrainingStopped(folder) from error
    accuracy = mean_accuracy([float(result.validation["accuracy"]) for result in results])
    return GroupResult(str(folder), tuple(results), accuracy)


def reproduce(
    run: Run | str | Path,
    *,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    reporter: TrainingReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
) -> Reproduction:
    """Train a finished run or group again from its recorded settings, and compare the weights.

    A run that was extended is extended in the same way. If it started from another run's weights, that run is
    repeated first, and so on back to the first run of the chain.

    Args:
        run: the run or group, or its folder.
        run_dir: folder of the repetition; by default, `runs/TIME-RUN-again`. A stopped repetition continues.
            The run whose weights it started from is repeated in the folder `run_dir`-parent, and so on.
        data_dir: folder of the prepared data sets of all runs; by default, those that they were trained from.
        reporter, should_stop, verbose: as in `train`.

    Returns:
        The comparison; or that of the first run of the chain whose repetition differs, which ends it.

    Raises:
        UsageError: `run_dir` is the folder of the run or group itself.
        RunError: the run is unfinished or damaged, was extended within an epoch, or started from weights that
            are missing or have changed.
        DataError: its data are missing or have changed.
        CifarTrainerError: as in `train`.
    """
    check_single_process("reproduce")
    path = run.path if isinstance(run, Run) else Path(run).expanduser()
    folder = None if run_dir is None else Path(run_dir).expanduser()
    if folder is not None and folder.resolve() == path.resolve():
        raise UsageError(
            f"--run-dir {folder} is the folder to reproduce. Choose another one, or leave it out."
        )
    group = files.read_json(path / GROUP_FILE, _Group) if (path / GROUP_FILE).is_file() else None

    def runs_in(folder: Path) -> list[Run]:
        return [Run(folder)] if group is None else [_member(folder, seed) for seed in group.seeds]

    originals = [open_run(path)] if group is None else runs_in(path)
    first = originals[0]
    config, parts, parent = first.read_config(), _parts(path, originals), find_parent(first)
    arguments: dict[str, Any] = {"reporter": reporter, "should_stop": should_stop, "verbose": verbose}
    common: dict[str, Any] = {
        "data_dir": first.load_data(data_dir, ordered=True).folder.parent,
        **{name: getattr(config, name) for name in declared(Settings)},
        **arguments,
    }
    if parent is not None:
        folder = folder or reserve_folder(f"{path.resolve().name}-again")
        common["weights"] = folder.with_name(f"{folder.name}-parent")
        try:
            repeated = reproduce(parent, run_dir=common["weights"], data_dir=data_dir, **arguments)
        except TrainingStopped as error:
            raise TrainingStopped(folder) from error
        if not repeated.same:
            return repeated
    seeds = {}
    if group is not None:
        seeds = {"seeds": group.seeds, "stack": group.settings.get("stack", "off")}
        del common["seed"]
    for epochs, end_after in parts:
        common |= {"epochs": epochs, "end_after": end_after}
        if folder is None or not runs_in(folder)[0].config.is_file():
            if config.recipe_sha256 is not None:
                first.read_recipe()
                common["recipe"] = first.recipe
            folder = folder or reserve_folder(f"{path.resolve().name}-again")
            train(run_dir=folder, **seeds, **common)
            common["recipe"] = config.recipe
        elif runs_in(folder)[0].read_config().epochs <= epochs:
            resume(folder, **common)
    assert folder is not None, "there is at least one part"
    copies = runs_in(folder)
    hashes = [[each.read_result().weights_sha256 for each in runs] for runs in (originals, copies)]
    pairs = list(zip(*hashes, strict=True))
    expected, received = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    differences = devices.compare_environments(first.read_environment(), copies[0].read_environment())
    return Reproduction(
        run_dir=str(path),
        reproduced_in=str(folder),
        same=expected == received,
        weights_sha256=received,
        expected_sha256=expected,
        differences=tuple(differences),
    )


def _parts(path: Path, runs: Sequence[Run]) -> list[tuple[int, int | None]]:
    """The planned epochs of each part of the runs, and the epoch after which it ended early, or None.

    An extension starts a new part.

    Raises:
        RunError: a run was extended within an epoch, or the runs of a group ended differently.
    """
    parts_of_runs = []
    for run in runs:
        config, result = run.read_config(), run.read_result()
        parts = []
        for extension in run.read_extensions():
            if extension.step:
                raise RunError(
                    f"{run.path} cannot be reproduced: it was extended beyond {extension.epochs} epochs "
                    f"in the middle of an epoch, after {extension.epoch} epochs and {extension.step} steps."
                )
            parts.append((extension.epochs, extension.epoch if extension.epoch < extension.epochs else None))
        ended = result.ended_by != "patience" and result.epochs < config.epochs
        parts_of_runs.append([*parts, (config.epochs, result.epochs if ended else None)])
    if any(parts != parts_of_runs[0] for parts in parts_of_runs):
        raise RunError(f"The runs of {path} ended after different epochs. Reproduce them one by one.")
    return parts_of_runs[0]
