"""Several runs that differ only by their seed: trained side by side or in turn, summed up together.

A group is a folder with a run in `seed-N` for each seed and `group.json`, which holds what
they have in common, so that a group that was stopped goes on with what is missing.
Imports no TensorFlow.
"""

import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from cifar_trainer import files
from cifar_trainer.devices.cluster import check_alone
from cifar_trainer.errors import RunError, TrainingStopped, UsageError
from cifar_trainer.recipes import get_recipe
from cifar_trainer.results import Result
from cifar_trainer.run import GROUP_FILE, Run, TrainResult, check_new, reserve_folder
from cifar_trainer.settings import STACKS, check_choice, check_seed
from cifar_trainer.training import session
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.control import Options

#: Arguments of `train` that say how a run is carried out, and that a resumed group may change.
_CARRIED_OUT = (
    "time_limit", "checkpoint_every", "profile", "histograms", "callbacks", "offline", "reporter",
    "should_stop", "verbose",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeanAccuracy:
    """The accuracy of several runs.

    Attributes:
        mean: over the runs.
        standard_deviation: of one run, from n - 1; None for a single one.
        n: the number of runs.
        interval: the 95 % interval of the mean by Student's t; None for a single run.
    """

    mean: float
    standard_deviation: float | None
    n: int
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class GroupResult(Result):
    """What `train --seeds --json` prints.

    Attributes:
        group_dir: the group's folder.
        runs: the runs, in the order of their seeds.
        accuracy: on the validation split after the last epoch.
    """

    group_dir: str
    runs: tuple[TrainResult, ...]
    accuracy: MeanAccuracy


@dataclasses.dataclass(frozen=True)
class Group:
    """group.json.

    Attributes:
        seeds: of the runs.
        settings: the arguments of `train` that all runs have in common.
    """

    seeds: tuple[int, ...]
    settings: dict[str, Any]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `5`, which means 0 to 4, or a list such as `1,2,3`.

    Raises:
        UsageError: it is neither, or a seed is out of range or stands twice.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    seeds = numbers if "," in text else list(range(numbers[0])) if numbers else []
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"--seeds {text!r} is not known. Expected how many, such as 5, or different seeds, such as 1,2,3."
        )
    for seed in seeds:
        check_seed(seed)
    return tuple(seeds)


def mean_accuracy(accuracies: Sequence[float]) -> MeanAccuracy:
    """Mean, standard deviation and the mean's 95 % interval, of one accuracy or more."""
    n, mean = len(accuracies), statistics.fmean(accuracies)
    if n == 1:
        return MeanAccuracy(mean, None, n, None)
    deviation = statistics.stdev(accuracies)
    half = float(student.ppf(0.975, n - 1)) * deviation / n**0.5
    return MeanAccuracy(mean, deviation, n, (mean - half, mean + half))


def train_seeds(
    seeds: Sequence[int], *, run_dir: Path | str | None = None, stack: str = "auto", **options: Any
) -> GroupResult:
    """Train the same settings with each of `seeds`.

    Args:
        seeds: different from each other.
        run_dir: the group's folder; None is `runs/TIME-RECIPE-seeds`.
        stack: `auto` trains the seeds side by side in one program on a GPU, `on` on a CPU too, `off` in
            turn. So does every setting with which that is not possible, and it is said why.
        options: the other arguments of `train`, without `seed`.

    Raises:
        TrainingStopped: its `run_dir` is the group's; `resume_seeds` goes on.
        CifarTrainerError: as `train` raises it. The runs before are kept.
    """
    check_alone("--seeds")
    check_choice("stack", stack, STACKS)
    recipe = get_recipe(str(options.get("recipe", "document")))
    if run_dir is None:
        folder = reserve_folder(f"{recipe.name}-seeds")
    else:
        folder = Path(run_dir).expanduser()
        check_new(folder)
    with files.writing(folder, "Choose another --run-dir."):
        if recipe.file is not None:
            # All runs of the group have the recipe as it is now, also those that are trained later.
            folder.mkdir(parents=True, exist_ok=True)
            files.write_bytes(folder / "recipe.py", recipe.file.content)
            options["recipe"] = folder / "recipe.py"
        settings = {name: _plain(value) for name, value in options.items() if name not in _CARRIED_OUT}
        settings["stack"] = stack
        files.write_json(folder / GROUP_FILE, dataclasses.asdict(Group(tuple(seeds), settings)))
    return _train_missing(folder, Group(tuple(seeds), settings), options)


def is_group(path: Path) -> bool:
    """Whether a folder is a group's."""
    return (path / GROUP_FILE).is_file()


def resume_seeds(group_dir: Path | str, **options: Any) -> GroupResult:
    """Go on with a group: what was begun is resumed, what is missing is trained, what is finished stays.

    Args:
        group_dir: the group's folder.
        options: those of `resume`.

    Raises:
        RunError: it is not a group.
        CifarTrainerError: as `resume` and `train` raise it.
    """
    check_alone("The resume of a group")
    folder = Path(group_dir).expanduser()
    if not is_group(folder):
        raise RunError(f"{folder} is not a group of runs: it has no {GROUP_FILE}.")
    return _train_missing(folder, files.read_json(folder / GROUP_FILE, Group), options)


def _train_missing(folder: Path, group: Group, options: Mapping[str, Any]) -> GroupResult:
    carried_out = {name: value for name, value in options.items() if name in _CARRIED_OUT}
    changes = {name: options[name] for name in ("epochs", "device") if options.get(name) is not None}
    settings = {**group.settings, **changes}
    stack = settings.pop("stack", "off")
    runs = {seed: Run(folder / f"seed-{seed}") for seed in group.seeds}
    truncate_to_common_step(list(runs.values()))
    offline = carried_out.pop("offline", False)
    reporter, verbose = carried_out.pop("reporter", None), carried_out.pop("verbose", False)
    jobs = [
        session.resumed_job(run, changes)
        if run.config.is_file()
        else session.new_job(seed=seed, run_dir=run.path, offline=offline, **settings)
        for seed, run in runs.items()
    ]
    carried_out["callbacks"] = tuple(carried_out.get("callbacks", ()))
    try:
        results = session.train_jobs(
            jobs, Options(**carried_out), stack=stack, reporter=reporter, verbose=verbose
        )
    except TrainingStopped as error:
        raise TrainingStopped(folder) from error
    accuracy = mean_accuracy([float(result.validation["accuracy"]) for result in results])
    return GroupResult(str(folder), tuple(results), accuracy)


def truncate_to_common_step(runs: Sequence[Run]) -> None:
    """Remove the checkpoints of stacked runs after the newest step that all have saved.

    The runs save one after the other, so if the process was killed in between, some are a checkpoint ahead.
    Runs that are finished, or have no checkpoint in common, are left as they are.
    """
    unfinished = [run for run in runs if run.config.is_file() and not run.result.is_file()]
    if not all(run.read_environment().get("side_by_side") for run in unfinished):
        return
    saved = [
        {checkpoint_step(path): path for path in list_checkpoints(run.checkpoints)} for run in unfinished
    ]
    # A run without a checkpoint begins at its first step.
    common = set.intersection(*(set(steps) or {0} for steps in saved)) if saved else set()
    for run, steps in zip(unfinished, saved, strict=True):
        for step, path in steps.items():
            if common and step > max(common):
                with run.hold():
                    shutil.rmtree(path)


def _plain(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value
