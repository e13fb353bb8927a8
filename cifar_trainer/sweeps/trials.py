"""A study's trials, as a `sweep` command takes, reports and ends them; no trial is lost or counts twice.

Optuna's heartbeats belong to `Study.optimize`, which this does not call: a worker is another process.
So the command gives the signs of life itself (`Trials.beat`) and, before it takes a trial, lets Optuna
fail those without one (`fail_stale_trials`). A trial whose command has died, or was asked to stop, is
told as failed and comes back as a waiting one with the same values and the same run
(`RetryHeartbeatStaleTrialCallback`). All of this happens in turns (`Database.turn`).
"""

import copy
import dataclasses
import functools
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from cifar_trainer.sweeps.storage import Database

#: How often the worker or the command of a trial may die before the trial counts as failed.
DEATHS = 5
#: Seconds that a server may be away, and between two attempts to reach it.
OUTAGE_SECONDS, RETRY_SECONDS = 120.0, 1.0
#: Names of what is kept with a trial: why it failed, its run's folder, who took it, that it was stopped.
FAILURE, RUN_DIR, TAKEN_BY, STOPPED = "failure", "run_dir", "taken_by", "stopped"
#: And with a run on all training images: the number of the trial whose values it has.
CONFIRMS = "confirms"


P = ParamSpec("P")
R = TypeVar("R")


def _patient(method: Callable[Concatenate["Trials", P], R]) -> Callable[Concatenate["Trials", P], R]:
    """Let a method wait for a server that is away, such as one that is started anew.

    For methods that may be called again where they have failed in the middle.
    """

    @functools.wraps(method)
    def patient(self: "Trials", /, *args: P.args, **kwargs: P.kwargs) -> R:
        until = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                return method(self, *args, **kwargs)
            except (sqlalchemy.exc.OperationalError, optuna.exceptions.StorageInternalError):
                if self._database.alone or time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)

    return patient


@dataclasses.dataclass
class Claim:
    """A trial that this command has taken.

    Attributes:
        trial: Optuna's.
        original: the number of the first attempt, by which people know the trial.
        values: of the parameters.
        run_dir: the run that an earlier attempt has begun; None if there is none.
        given_away: another command has taken the trial since, because this one seemed dead.
    """

    trial: optuna.Trial
    original: int
    values: dict[str, Any]
    run_dir: Path | None
    given_away: bool = False

    @property
    def label(self) -> str:
        """What people call it, such as `trial 7`."""
        confirmed = self.trial.user_attrs.get(CONFIRMS)
        return f"trial {self.original}" if confirmed is None else f"trial {confirmed} again"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One trial, its attempts taken together.

    Attributes:
        number: of its first attempt.
        state: `complete`, `pruned`, `failed`, `running` or `waiting`.
        params: the values.
        value: the accuracy: of the last epoch that was validated where it was pruned; None if there is none.
        run_dir: its run's folder, where it was trained last.
        message: why it failed.
        attempts: Optuna's numbers, the first one first.
        epochs: accuracy by epoch, which counts from 1.
    """

    number: int
    state: str
    params: dict[str, Any]
    value: float | None = None
    run_dir: str | None = None
    message: str | None = None
    attempts: tuple[int, ...] = ()
    epochs: dict[int, float] = dataclasses.field(default_factory=dict)


class Trials:
    """The trials of one study.

    Args:
        database: where it is kept.
        study: Optuna's.
        space: the parameters' distributions.
        budget: how many trials there are to be; None takes waiting ones only.
        exhausted: whether the given trials leave no values to try.
    """

    def __init__(
        self,
        database: Database,
        study: optuna.Study,
        space: Mapping[str, BaseDistribution],
        *,
        budget: int | None = None,
        exhausted: Callable[[Sequence[FrozenTrial]], bool] = lambda trials: False,
    ) -> None:
        self._database, self.study, self._space = database, study, dict(space)
        self._budget, self._exhausted = budget, exhausted
        self._mine: dict[int, Claim] = {}
        self._lock = threading.Lock()

    @_patient
    def claim(self) -> Claim | None:
        """Take a trial that waits, or a new one; None where nothing is left to take at the moment."""
        with self._database.turn(self.study.study_name):
            self._take_back()
            trials = self.study.get_trials(deepcopy=False)
            if not any(each.state == TrialState.WAITING for each in trials):
                counted = len(trials) - len(superseded(trials))
                if self._budget is None or counted >= self._budget or self._exhausted(trials):
                    return None
            with warnings.catch_warnings():
                # It says that heartbeats are for `Study.optimize`: see above.
                warnings.simplefilter("ignore")
                trial = self.study.ask(self._space)
            if not self._database.alone:
                self._database.optuna.record_heartbeat(trial._trial_id)
            # Where it is missing or is another attempt's, the command died at this very place.
            trial.set_user_attr(
                TAKEN_BY, {"attempt": trial.number, "host": socket.gethostname(), "process": os.getpid()}
            )
        frozen = self.study._storage.get_trial(trial._trial_id)
        run_dir = frozen.user_attrs.get(RUN_DIR)
        claim = Claim(trial, original_number(frozen), dict(frozen.params), Path(run_dir) if run_dir else None)
        with self._lock:
            self._mine[trial.number] = claim
        return claim

    @_patient
    def begun(self, claim: Claim, run_dir: Path) -> None:
        """The trial's run is in that folder."""
        claim.run_dir = run_dir
        if self._still_mine(claim):
            claim.trial.set_user_attr(RUN_DIR, str(run_dir.absolute()))

    @_patient
    def report(self, claim: Claim, epoch: int, value: float) -> bool:
        """An epoch, counted from 1, was validated; returns whether the trial is to go on."""
        if not self._still_mine(claim):
            return False
        with warnings.catch_warnings():
            # After a resume an epoch may come again, with the same value.
            warnings.simplefilter("ignore")
            claim.trial.report(value, epoch)
        return not claim.trial.should_prune()

    @_patient
    def complete(self, claim: Claim, value: float) -> None:
        """The trial was trained to its end."""
        self._tell(claim, TrialState.COMPLETE, value)

    @_patient
    def prune(self, claim: Claim) -> None:
        """The trial was ended early, as `report` asked."""
        self._tell(claim, TrialState.PRUNED)

    @_patient
    def fail(self, claim: Claim, message: str) -> None:
        """The trial cannot be trained; it is not tried again."""
        if self._still_mine(claim):
            claim.trial.set_user_attr(FAILURE, message)
        self._tell(claim, TrialState.FAIL)

    @_patient
    def release(self, claim: Claim) -> None:
        """Let others go on with the trial; its run is stopped."""
        with self._database.turn(self.study.study_name):
            if self._still_mine(claim):
                claim.trial.set_user_attr(STOPPED, claim.trial.number)
            self._tell(claim, TrialState.FAIL)
            self._take_back()

    def beat(self) -> None:
        """Give a sign of life for each trial that this command has taken."""
        with self._lock:
            numbers = [claim.trial._trial_id for claim in self._mine.values()]
        for number in numbers:
            self._database.optuna.record_heartbeat(number)

    @_patient
    def open(self) -> int:
        """How many trials run or wait, here or elsewhere."""
        states = (TrialState.RUNNING, TrialState.WAITING)
        return len(self.study.get_trials(deepcopy=False, states=states))

    @_patient
    def entries(self) -> list[Entry]:
        """All trials in the order of their numbers, the attempts of each taken together."""
        return read_entries(self.study.get_trials(deepcopy=False))

    def _still_mine(self, claim: Claim) -> bool:
        state = self.study._storage.get_trial(claim.trial._trial_id).state
        claim.given_away = claim.given_away or state != TrialState.RUNNING
        return not claim.given_away

    def _tell(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        with self._lock:
            self._mine.pop(claim.trial.number, None)
        self.study.tell(claim.trial, value, state, skip_if_finished=True)

    def _take_back(self) -> None:
        """Let trials whose command has died wait again. Only in a turn."""
        study = self.study
        if not self._database.alone:
            # Where the server was away, this command's own trials have no fresh sign of life either.
            self.beat()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
            retry = optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            taken = trial.user_attrs.get(TAKEN_BY, {}).get("attempt") == trial.number
            if not taken or (self._database.alone and trial.number not in self._mine):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = study.get_trials(deepcopy=False)
        retried = superseded(trials)
        for trial in trials:
            lost = trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs
            if lost and trial.number not in retried and deaths(trial, trials) <= DEATHS:
                # It would add to the list of attempts that Optuna has cached.
                retry(study, copy.deepcopy(trial))


def history(trial: FrozenTrial) -> list[int]:
    """The numbers of a trial's earlier attempts, the first one first."""
    earlier: list[int] = trial.system_attrs.get("retry_history", [])
    return earlier


def original_number(trial: FrozenTrial) -> int:
    """The number of a trial's first attempt."""
    return next(iter(history(trial)), trial.number)


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of the attempts that a later one has taken the place of."""
    return {number for trial in trials for number in history(trial)}


def deaths(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """How many attempts up to this one ended by a death, and not because somebody asked."""
    attempts = [trials[number] for number in (*history(trial), trial.number)]
    return sum(each.user_attrs.get(STOPPED) != each.number for each in attempts)


def read_entries(trials: Sequence[FrozenTrial]) -> list[Entry]:
    """All trials in the order of their numbers, the attempts of each taken together."""
    retried = superseded(trials)
    return sorted(
        (_entry(trial) for trial in trials if trial.number not in retried), key=lambda entry: entry.number
    )


def _entry(trial: FrozenTrial) -> Entry:
    message = None
    if trial.state == TrialState.FAIL:
        message = trial.user_attrs.get(FAILURE, f"Its worker died {len(history(trial)) + 1} times.")
    return Entry(
        number=original_number(trial),
        state="failed" if trial.state == TrialState.FAIL else trial.state.name.lower(),
        params=dict(trial.params),
        value=trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        run_dir=trial.user_attrs.get(RUN_DIR),
        message=message,
        attempts=(*history(trial), trial.number),
        epochs=dict(trial.intermediate_values),
    )
