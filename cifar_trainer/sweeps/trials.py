"""The trials of an Optuna study: no trial is lost, and each completes once.

This module calls `study.ask` and `study.tell`. Calling `study.optimize` in each worker has four faults:

- Several workers start more trials than requested. - Two workers can choose values at the same moment,
without knowing each other's. - The heartbeat thread ends at the first database error, so a server restart
makes live trials look dead. - A process that is killed between `ask` and its first heartbeat, or between
failing a stale trial and
  enqueuing it again, loses that trial.

Here, trials are taken under a database lock (`Database.lock`). A trial that was stopped, or whose worker or
command died, is marked as failed and enqueued again, as in Optuna: with the same values, the number of the
earlier attempt, and the run's folder.
"""

import contextlib
import copy
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cifar_trainer.sweeps.result import Trial
from cifar_trainer.sweeps.storage import Database

#: A trial fails if its worker or command dies more often than this.
MAX_DEATHS = 5
#: How long to retry while the database server is unreachable, and the pause between two attempts.
OUTAGE_SECONDS, RETRY_SECONDS = 120.0, 1.0
#: Attributes of Optuna's trials: reason of a failure, run folder, attempt that was taken (number and host),
#: attempt that was stopped on request, how the worker died.
FAILURE, RUN_DIR, TAKEN, STOPPED, DEATH = "failure", "run_dir", "taken", "stopped", "death"
#: Attribute of a run that confirms a trial: the number of that trial.
CONFIRMS = "confirms"

P = ParamSpec("P")
R = TypeVar("R")


def _retrying(method: Callable[Concatenate["Trials", P], R]) -> Callable[Concatenate["Trials", P], R]:
    """Retry a method while the database server is unreachable, such as during a restart."""

    @functools.wraps(method)
    def retry(self: "Trials", /, *args: P.args, **kwargs: P.kwargs) -> R:
        until = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                return method(self, *args, **kwargs)
            except (sqlalchemy.exc.OperationalError, StorageInternalError):
                if self._database.local or time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)

    return retry


class Trials:
    """The trials of one study.

    Args:
        database: the database of the study.
        study: Optuna's study.
        folder: the sweep's folder. Paths of runs are stored relative to it.
        space: the parameters' distributions.
        budget: number of trials; None takes only enqueued ones.
        exhausted: whether these trials leave no values to try.
    """

    def __init__(
        self,
        database: Database,
        study: optuna.Study,
        folder: Path,
        space: Mapping[str, BaseDistribution],
        *,
        budget: int | None = None,
        exhausted: Callable[[Sequence[FrozenTrial]], bool] = lambda trials: False,
    ) -> None:
        self._database, self.study, self._folder, self._space = database, study, folder, dict(space)
        self._budget, self._exhausted = budget, exhausted
        #: The trials that this command has taken, by number of the attempt.
        self._taken: dict[int, optuna.Trial] = {}

    @_retrying
    def claim(self) -> Trial | None:
        """Take an enqueued trial, or a new one; None if there is nothing to take now."""
        with self._database.lock(self.study.study_name):
            self._recover()
            trials = self.study.get_trials(deepcopy=False)
            if not any(trial.state == TrialState.WAITING for trial in trials):
                count = len(trials) - len(_superseded(trials))
                if self._budget is None or count >= self._budget or self._exhausted(trials):
                    return None
            taken = self.study.ask(self._space)
            if not self._database.local:
                self._database.optuna.record_heartbeat(taken._trial_id)
            # If a running trial lacks this attribute, its command died before this line.
            taken.set_user_attr(TAKEN, {"attempt": taken.number, "host": socket.gethostname()})
        self._taken[taken.number] = taken
        return self._trial(self._frozen(taken), [])

    @_retrying
    def started(self, trial: Trial, run_dir: Path) -> None:
        """Record the folder of the trial's run."""
        run_dir, folder = run_dir.absolute(), self._folder.absolute()
        inside = run_dir.is_relative_to(folder)
        self._set(trial, {RUN_DIR: str(run_dir.relative_to(folder) if inside else run_dir)})

    @_retrying
    def report(self, trial: Trial, epoch: int, value: float) -> bool:
        """Record an epoch's accuracy; returns whether the trial continues.

        It stops if the pruner stops it, or if another command has taken it over.
        """
        taken = self._taken[trial.attempts[-1]]
        try:
            # A resumed run may repeat an epoch, with the same value.
            if epoch not in self._frozen(taken).intermediate_values:
                taken.report(value, epoch)
        except UpdateFinishedTrialError:
            return False
        return self._frozen(taken).state == TrialState.RUNNING and not taken.should_prune()

    @_retrying
    def end(self, trial: Trial, state: str, value: float | None = None, message: str | None = None) -> bool:
        """End a trial for good, unless another command has taken it over.

        Args:
            trial: a trial that this command has taken.
            state: `complete`, `pruned` or `failed`.
            value: the accuracy of a complete trial.
            message: why a trial has failed.

        Returns:
            Whether the trial still belonged to this command.
        """
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        return self._tell(trial, states[state], value, {} if message is None else {FAILURE: message})

    @_retrying
    def release(self, trial: Trial, death: str | None = None) -> bool:
        """Let this command or another resume the trial, unless its workers have died too often.

        Args:
            trial: a trial that this command has taken.
            death: how its worker died; None if it was stopped on request.

        Returns:
            Whether the trial will be resumed; if not, it has failed.
        """
        attempt = trial.attempts[-1]
        reason = {STOPPED: attempt} if death is None else {DEATH: {"attempt": attempt, "how": death}}
        with self._database.lock(self.study.study_name):
            self._tell(trial, TrialState.FAIL, None, reason)
            self._recover()
            return attempt in _superseded(self.study.get_trials(deepcopy=False))

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats in the background, for a database that several commands share."""
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(self._database.heartbeat):
                # If the server is unreachable, retry at the next heartbeat.
                with contextlib.suppress(Exception):
                    self.beat()

        thread = threading.Thread(target=send, daemon=True)
        if not self._database.local:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()

    def beat(self) -> None:
        """Send one heartbeat for each trial that this command has taken."""
        for taken in list(self._taken.values()):
            self._database.optuna.record_heartbeat(taken._trial_id)

    @_retrying
    def unfinished(self) -> int:
        """Number of running or waiting trials, of all commands."""
        states = (TrialState.RUNNING, TrialState.WAITING)
        return len(self.study.get_trials(deepcopy=False, states=states))

    @_retrying
    def listed(self) -> tuple[Trial, ...]:
        """All trials, sorted by number."""
        trials = self.study.get_trials(deepcopy=False)
        superseded = _superseded(trials)
        last_attempts = [trial for trial in trials if trial.number not in superseded]
        return tuple(sorted((self._trial(each, trials) for each in last_attempts), key=lambda t: t.number))

    def _trial(self, last: FrozenTrial, trials: Sequence[FrozenTrial]) -> Trial:
        """A trial from its last attempt."""
        attempts = (*_history(last), last.number)
        message = None
        if last.state == TrialState.FAIL:
            death = last.user_attrs.get(DEATH, {})
            how = death["how"] if death.get("attempt") == last.number else "with its command"
            times = f"Its worker died {_deaths(last, trials)} times, the last time {how}."
            message = last.user_attrs.get(FAILURE, times)
        run_dir = last.user_attrs.get(RUN_DIR)
        ended = last.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return Trial(
            number=last.user_attrs.get(CONFIRMS, attempts[0]),
            state="failed" if last.state == TrialState.FAIL else last.state.name.lower(),
            params=dict(last.params),
            value=last.value if ended else None,
            run_dir=None if run_dir is None else str(self._folder / run_dir),
            message=message,
            attempts=attempts,
            epochs=tuple(value for _, value in sorted(last.intermediate_values.items())),
        )

    def _frozen(self, taken: optuna.Trial) -> FrozenTrial:
        return self.study._storage.get_trial(taken._trial_id)

    def _tell(
        self, trial: Trial, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> bool:
        self._set(trial, attributes)
        ended = self.study.tell(trial.attempts[-1], value, state, skip_if_finished=True)
        self._taken.pop(trial.attempts[-1], None)
        return ended.state == state

    def _set(self, trial: Trial, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a trial unless another command has taken it over."""
        storage, number = self.study._storage, trial.attempts[-1]
        identifier = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        with contextlib.suppress(UpdateFinishedTrialError):
            for name, content in attributes.items():
                storage.set_trial_user_attr(identifier, name, content)

    def _recover(self) -> None:
        """Enqueue again the trials whose worker or command has died. Call only under the lock."""
        study = self.study
        if not self._database.local:
            # While the server was unreachable, this command's own trials missed heartbeats.
            self.beat()
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            taken = trial.user_attrs.get(TAKEN, {}).get("attempt") == trial.number
            if not taken or (self._database.local and trial.number not in self._taken):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = study.get_trials(deepcopy=False)
        superseded = _superseded(trials)
        enqueue = optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        for trial in trials:
            lost = trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs
            if lost and trial.number not in superseded and _deaths(trial, trials) <= MAX_DEATHS:
                # Copy: the callback modifies the list of attempts, which Optuna caches.
                enqueue(study, copy.deepcopy(trial))


def _history(trial: FrozenTrial) -> list[int]:
    """Numbers of a trial's earlier attempts, oldest first."""
    earlier: list[int] = trial.system_attrs.get("retry_history", [])
    return earlier


def _superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the attempts that a later one has replaced."""
    return {number for trial in trials for number in _history(trial)}


def _deaths(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Number of attempts, up to this one, that ended with a death and not on request."""
    attempts = [trials[number] for number in (*_history(trial), trial.number)]
    return sum(attempt.user_attrs.get(STOPPED) != attempt.number for attempt in attempts)
