"""Carrying a run out: alone or as the first of several processes, or along with the first one.

What trains a run is a generator: it yields the `Steps` that it wants to be run next, and is sent what they
gave. So whoever drives it may run the steps of one run, or those of several at once.

Importing this imports no TensorFlow.
"""

import dataclasses
import functools
import inspect
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

from cifar_trainer.data.dataset import Dataset
from cifar_trainer.devices import Device
from cifar_trainer.errors import DataError, RunError, TrainingStopped, UsageError
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.own import naming_the_line
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import Settings
from cifar_trainer.training.control import Options, TrainingReporter

if TYPE_CHECKING:
    from cifar_trainer.training.checkpoint import Checkpoint
    from cifar_trainer.training.engine import Chunk, StepLoop
    from cifar_trainer.training.replicas import Alone

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """Steps that a run wants to be run.

    Attributes:
        loop: of the run.
        start: the first one within its epoch.
        count: how many; 0 asks for no more than that all which an epoch needs is compiled.
        global_start: steps of the whole run before the first of these.
    """

    loop: "StepLoop"
    start: int
    count: int
    global_start: int


@dataclasses.dataclass(frozen=True, eq=False)
class Done:
    """What steps gave, and the seconds that they took.

    Attributes:
        chunk: of as many steps as were asked for, or fewer; None where none were.
        seconds: of the steps alone.
    """

    chunk: "Chunk | None"
    seconds: float


#: Trains a run.
Work = Generator[Steps, Done, T]


def proceed(work: Work[T], compute: Callable[[], Done]) -> Steps:
    """Send `work` what `compute` gives, or the exception that it raises; the steps that are wanted next.

    Raises:
        StopIteration: the run is at its end; its `value` is the result.
    """
    try:
        done = compute()
    except BaseException as error:
        return work.throw(error)
    return work.send(done)


def run_alone(steps: Steps) -> Done:
    """Run the steps of one run."""
    began = time.monotonic()
    chunk = None
    if steps.count == 0:
        steps.loop.compile()
    else:
        chunk = steps.loop.run(steps.start, steps.count, steps.global_start)
    return Done(chunk, time.monotonic() - began)


def finish_alone(work: Work[T], steps: Steps) -> T:
    """Drive `work` to its end, from the `steps` on that it wants next."""
    while True:
        try:
            steps = proceed(work, functools.partial(run_alone, steps))
        except StopIteration as end:
            result: T = end.value
            return result


def alone(work: Callable[P, Work[T]], name: str) -> Callable[P, T]:
    """The function `name` that carries out the `work` which another one begins."""

    @functools.wraps(work)
    def carried_out(*args: P.args, **kwargs: P.kwargs) -> T:
        begun = work(*args, **kwargs)
        try:
            steps = next(begun)
        except StopIteration as end:
            result: T = end.value
            return result
        return finish_alone(begun, steps)

    # What help() shows: the name, and the result instead of the generator.
    signature = inspect.signature(work)
    result_type = get_args(signature.return_annotation)[-1]
    carried_out.__signature__ = signature.replace(return_annotation=result_type)  # type: ignore[attr-defined]
    carried_out.__name__ = carried_out.__qualname__ = name
    return carried_out


def train_recorded(
    config: Settings,
    recipe: Recipe,
    dataset: Dataset,
    run: Run,
    checkpoint: "Checkpoint | None",
    device: Device,
    reporter: TrainingReporter,
    options: Options,
    replicas: "Alone",
) -> Work[TrainResult]:
    """Train a run whose settings are written, from its first step or from `checkpoint` on.

    Where other processes train along, they are told which run it is.

    Raises:
        RunError: the run's folder cannot be written.
        TrainingError: a loss or weight is not finite, or memory ran out.
        TrainingStopped: `options.should_stop` asked for it.
    """
    from cifar_trainer.training.assembly import train_run

    if replicas.is_chief:
        step = None if checkpoint is None else checkpoint.global_step
        replicas.message({**_handed_over(config, dataset), "run_dir": str(run.path), "step": step})
    try:
        with naming_the_line(None if recipe.file is None else recipe.file.path):
            result = yield from train_run(
                config, recipe, dataset, run, checkpoint, device, reporter, options, replicas
            )
    except OSError as error:
        raise RunError(
            f"{run.path} could not be written: {error.strerror or error}. The last checkpoint is whole; make "
            f"room, then go on with: cifar-trainer train --resume {run.path}"
        ) from error
    if result is None:
        raise TrainingStopped(run.path)
    return result


def train_along(
    config: Settings,
    recipe: Recipe,
    dataset: Dataset,
    resumed: Run | None,
    device: Device,
    reporter: TrainingReporter,
    options: Options,
    replicas: "Alone",
) -> Work[TrainResult]:
    """Train with a chief whose run it is; what this process would write goes into a folder that is deleted.

    Raises:
        UsageError: the chief has other settings.
        DataError: it has other data.
        RunError: it could not begin, or has gone.
    """
    from cifar_trainer.training import checkpoint as checkpoints

    with replicas.together(), tempfile.TemporaryDirectory(prefix="cifar-trainer-") as folder:
        told = replicas.message(None)
        if "error" in told:
            raise RunError(f"The first process could not begin: {told['error']}")
        mine = _handed_over(config, dataset)
        if told["config"] != mine["config"]:
            different = [name for name, value in mine["config"].items() if told["config"].get(name) != value]
            raise UsageError(
                f"This process was started with other settings than the first one: {', '.join(different)}."
            )
        if told["data"] != mine["data"]:
            raise DataError(f"{dataset.folder} holds other data than the first process has.")
        reporter.begun(Run(Path(told["run_dir"])), config, dataset.title, device)
        checkpoint = None
        if resumed is not None and told["step"] is not None:
            checkpoint = checkpoints.load_step(resumed.checkpoints, told["step"])
        run = Run(Path(folder))
        try:
            result = yield from train_recorded(
                config, recipe, dataset, run, checkpoint, device, reporter, options, replicas
            )
        except TrainingStopped as error:
            raise TrainingStopped(Path(told["run_dir"])) from error
        return dataclasses.replace(result, run_dir=told["run_dir"])


def _handed_over(config: Settings, dataset: Dataset) -> dict[str, Any]:
    """What must be the same in all processes of a cluster, as JSON."""
    settings = {name: value for name, value in config.to_json().items() if name != "device"}
    return {"config": settings, "data": {"train": dataset.train.sha256, "test": dataset.test.sha256}}
