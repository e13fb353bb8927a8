"""Several runs that differ by their seed, trained side by side in one program.

Each is an ordinary run with a folder, checkpoints and a model of its own; what they share is the program that
runs their steps. Importing this imports no TensorFlow.
"""

import functools
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cifar_trainer.devices import Device
from cifar_trainer.recipes import Recipe
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.control import Options, TrainingReporter
from cifar_trainer.training.execution import Done, Steps, Work, finish_alone, proceed

if TYPE_CHECKING:
    from cifar_trainer.training.engine import Chunk
    from cifar_trainer.training.stacked import StackedLoop

T = TypeVar("T")


class SideBySide:
    """Whether the runs of a group are trained in one program, and what they have in common then.

    Args:
        count: runs of the group.
        stack: one of `settings.STACKS`.
        should_stop: asked once after each call of the program, so that all runs stop at the same step.

    Attributes:
        decided: how many runs are trained in one program; None until the first of them has begun.
    """

    def __init__(self, count: int, stack: str, should_stop: Callable[[], bool]) -> None:
        self._count, self._stack, self._should_stop = count, stack, should_stop
        self._stops = False
        self.decided: int | None = None

    def decide(
        self,
        config: Settings,
        recipe: Recipe,
        device: Device,
        options: Options,
        reporter: TrainingReporter,
    ) -> int:
        """How many runs share a program: all, or 1. Where that is not what was asked for, it is said why."""
        if self.decided is None:
            wanted = self._stack == "on" or (self._stack == "auto" and device.kind == "gpu")
            reason = obstacle(config, recipe, options) if wanted and self._count > 1 else None
            if reason is not None:
                reporter.note(f"The seeds are trained one after the other: {reason}.")
            self.decided = self._count if wanted and reason is None else 1
        return self.decided

    def should_stop(self) -> bool:
        """Whether to save and stop, the same for all runs until the next call of the program."""
        self._stops = self._stops if self.decided not in (None, 1) else bool(self._should_stop())
        return self._stops

    def ask(self) -> None:
        """Ask again whether to stop."""
        self._stops = bool(self._should_stop())


def obstacle(config: Settings, recipe: Recipe, options: Options) -> str | None:
    """Why these settings cannot be trained for several seeds in one program; None where they can."""
    if not recipe.stackable:
        return f"the recipe {recipe.name} cannot be stacked"
    if config.precision == "float16":
        return "with --precision float16 each seed scales its loss by itself"
    if config.validation == "holdout":
        return "with --validation holdout each seed trains on other images"
    if config.conv == "cudnn":
        return "--conv cudnn has no form for several seeds"
    if options.profile or options.callbacks:
        return f"{'--profile' if options.profile else 'callbacks'} are for one run"
    return None


class GroupReporter(TrainingReporter):
    """Tells a reporter what happens in one run of a group; with its seed, where runs are side by side.

    Args:
        reporter: told.
        seed: of the run.
        side_by_side: whether they are.
        leads: whether a live bar shows this run then.
    """

    def __init__(
        self, reporter: TrainingReporter, seed: int, side_by_side: SideBySide, *, leads: bool
    ) -> None:
        self._reporter, self._seed, self._side_by_side, self._leads = reporter, seed, side_by_side, leads
        self.prepare = reporter.prepare

    @property
    def _stacked(self) -> bool:
        return self._side_by_side.decided not in (None, 1)

    def _with_seed(self, text: str) -> str:
        return f"seed {self._seed}: {text}" if self._stacked else text

    def note(self, text: str) -> None:
        self._reporter.note(self._with_seed(text))

    def warn(self, text: str) -> None:
        self._reporter.warn(self._with_seed(text))

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._reporter.begun(run, config, title, device)

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if self._leads or not self._stacked:
            self._reporter.epoch_begun(epoch, epochs, step, steps)

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        if self._leads or not self._stacked:
            self._reporter.progress(step, loss, accuracy, images_per_second, seconds_left)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._reporter.epoch_ended({**row, "seed": self._seed} if self._stacked else row, epochs)


def finish_together(begun: Iterable[Callable[[], Work[T]]], side_by_side: SideBySide) -> list[T | Exception]:
    """Carry runs out: side by side where `side_by_side` has decided so once the first has begun.

    Args:
        begun: a function for each run that begins it.
        side_by_side: what the runs were begun with.

    Returns:
        For each run its result, or what it raised. Where they are trained one after the other, those
        after the first that raised are left out.
    """
    works = [begin() for begin in begun]
    results: dict[int, T | Exception] = {}
    wanted: dict[int, Steps] = {}
    try:
        for i, work in enumerate(works):
            _keep(i, functools.partial(next, work), wanted, results)
            if side_by_side.decided == 1 and i in wanted:
                _keep_result(i, functools.partial(finish_alone, work, wanted.pop(i)), results)
            if side_by_side.decided in (None, 1) and isinstance(results.get(i), Exception):
                break
        if wanted:
            _run_rounds(works, wanted, results, side_by_side)
    finally:
        for work in works:
            work.close()
    return [results[i] for i in sorted(results)]


def _run_rounds(
    works: Sequence[Work[T]],
    wanted: dict[int, Steps],
    results: dict[int, T | Exception],
    side_by_side: SideBySide,
) -> None:
    """Run the steps of all that want some, until none does."""
    from cifar_trainer.training.stacked import StackedLoop

    places = list(wanted)
    stack: StackedLoop = StackedLoop([wanted[i].loop for i in places], width=side_by_side.decided or 1)
    while wanted:
        if len({(steps.start, steps.global_start) for steps in wanted.values()}) > 1:
            # A checkpoint was lost. Each goes on from where it is.
            for i, steps in wanted.items():
                _keep_result(i, functools.partial(finish_alone, works[i], steps), results)
            return
        answers = _run_round(stack, places, wanted)
        side_by_side.ask()
        asked = list(wanted)
        wanted.clear()
        for i in asked:
            answer = functools.partial(_answer, answers, i)
            _keep(i, functools.partial(proceed, works[i], answer), wanted, results)


def _run_round(
    stack: "StackedLoop", places: Sequence[int], wanted: Mapping[int, Steps]
) -> dict[int, Done] | BaseException:
    """What the steps that all want gave, by run; or what running them raised."""
    first = next(iter(wanted.values()))
    count = min(steps.count for steps in wanted.values())
    began = time.monotonic()
    try:
        if count == 0:
            stack.compile()
            chunks: Sequence[Chunk | None] = [None] * len(wanted)
        else:
            members = [places.index(i) for i in wanted]
            chunks = stack.run(members, first.start, count, first.global_start)
    except BaseException as error:
        return error
    seconds = time.monotonic() - began
    return {i: Done(chunk, seconds) for i, chunk in zip(wanted, chunks, strict=True)}


def _answer(answers: dict[int, Done] | BaseException, i: int) -> Done:
    if isinstance(answers, BaseException):
        raise answers
    return answers[i]


def _keep(
    i: int,
    step: Callable[[], Steps],
    wanted: dict[int, Steps],
    results: dict[int, T | Exception],
) -> None:
    """Keep what a run wants next, or where it is at its end, the result or what it raised."""
    try:
        wanted[i] = step()
    except StopIteration as end:
        results[i] = end.value
    except Exception as error:
        results[i] = error


def _keep_result(i: int, finish: Callable[[], T], results: dict[int, T | Exception]) -> None:
    try:
        results[i] = finish()
    except Exception as error:
        results[i] = error


def align(runs: Sequence[Run]) -> None:
    """Bring runs that were trained side by side to the newest step that all have a checkpoint of.

    They save one after the other, so a process that was killed in between has left some one checkpoint
    ahead of others. Runs that are finished, or have no checkpoint in common, are left as they are.
    """
    open_runs = [run for run in runs if run.config.is_file() and not run.result.is_file()]
    if not all(run.read_environment().get("side_by_side") for run in open_runs):
        return
    saved = [{checkpoint_step(path): path for path in list_checkpoints(run.checkpoints)} for run in open_runs]
    # A run that has none begins at its first step.
    common = set.intersection(*(set(steps) or {0} for steps in saved)) if saved else set()
    for run, steps in zip(open_runs, saved, strict=True):
        for step, path in steps.items():
            if common and step > max(common):
                with run.hold():
                    shutil.rmtree(path)
