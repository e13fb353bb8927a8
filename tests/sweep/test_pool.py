"""How a command drives its workers, with workers that only pretend to train."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from cifar_trainer.errors import DataError
from cifar_trainer.sweeps import pool
from cifar_trainer.sweeps.pool import WorkerPool
from cifar_trainer.sweeps.result import SweepReporter, Trial
from cifar_trainer.sweeps.storage import Database, parse_storage
from cifar_trainer.sweeps.trials import MAX_DEATHS, Trials
from cifar_trainer.sweeps.worker import Job

#: `say(kind, ...)` sends a message, `hear()` waits for one.
_PRELUDE = """
    import json, sys
    def say(kind, **content): print(json.dumps({"kind": kind, **content}), flush=True)
    def hear(): return json.loads(sys.stdin.readline() or "null")
"""

Run = Callable[..., tuple[bool, list[str]]]


class Reporter(SweepReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def trial_ended(self, trial: Trial, state: str, value: float | None, message: str | None) -> None:
        self.lines.append(" ".join(map(str, filter(None, (trial.number, state, value, message)))))


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[Trials]:
    """The trials of a study: two are to be trained."""
    with Database(parse_storage(None, tmp_path), 15) as database:
        study = optuna.create_study(storage=database.optuna, direction="maximize")
        space: dict[str, Any] = {"learning_rate": optuna.distributions.FloatDistribution(0.1, 0.2)}
        yield Trials(database, study, tmp_path, space, budget=2)


@pytest.fixture
def run(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a pool whose workers execute this code; returns whether all is done, and what was reported."""

    def run(code: str, size: int = 1, stop: Callable[[], bool] = lambda: False) -> tuple[bool, list[str]]:
        program = textwrap.dedent(_PRELUDE) + textwrap.dedent(code)
        monkeypatch.setattr(pool, "module_command", lambda module: [sys.executable, "-c", program])
        reporter = Reporter()
        workers = WorkerPool(size, [{}], reporter, stop)
        try:
            done = workers.run(trials, lambda trial: Job({}, "unused"), lambda trial, state: None)
        finally:
            workers.close()
        return done, reporter.lines

    return run


def states(trials: Trials) -> list[str]:
    return [trial.state for trial in trials.listed()]


def test_one_worker_trains_all_trials(run: Run, trials: Trials) -> None:
    done, lines = run(
        """
        while hear():
            say("epoch", epoch=1, accuracy=0.25)
            assert hear() == {"continue": True}
            say("done", value=0.5)
        """
    )
    assert (done, lines, states(trials)) == (True, ["complete 0.5", "1 complete 0.5"], ["complete"] * 2)


def test_workers_that_die_at_once_end_the_sweep_and_say_how(run: Run, trials: Trials) -> None:
    done, lines = run("sys.exit(7)", size=2)
    assert (done, states(trials)) == (True, ["failed"] * 2)
    assert (
        lines.count("warning: trial 0: its worker died with exit code 7; another one will resume it.")
        == MAX_DEATHS
    )
    assert "failed Its worker died too often, the last time with exit code 7." in lines


def test_a_trial_whose_worker_died_is_resumed_and_counts_once(
    run: Run, trials: Trials, tmp_path: Path
) -> None:
    done, lines = run(
        f"""
        import os
        hear()
        if not os.path.exists({str(tmp_path / "died")!r}):
            open({str(tmp_path / "died")!r}, "w").close()
            os.kill(os.getpid(), 9)
        say("done", value=0.5)
        hear()
        say("done", value=0.75)
        """
    )
    assert (done, [trial.attempts for trial in trials.listed()]) == (True, [(0, 1), (2,)])
    assert lines[0] == "warning: trial 0: its worker died by signal 9; another one will resume it."


def test_a_stop_lets_the_workers_save_and_their_trials_wait(run: Run, trials: Trials) -> None:
    asked: list[Trial] = []

    def stop() -> bool:
        asked.extend(trials.listed())
        return len(states(trials)) == 2

    done, lines = run('hear(); assert hear() == {"continue": False}; say("stopped")', size=2, stop=stop)
    assert (done, sorted(lines), states(trials)) == (False, ["1 stopped", "stopped"], ["waiting"] * 2)


def test_an_error_that_would_meet_every_trial_ends_the_sweep(run: Run, trials: Trials) -> None:
    with pytest.raises(DataError, match=r"^No data\.$"):
        run('hear(); say("fatal", error="DataError", text="No data."); hear()')
    assert states(trials) == ["waiting"]


def test_a_failed_trial_says_why_and_the_others_are_trained(run: Run, trials: Trials) -> None:
    done, lines = run('hear(); say("failed", text="nan"); hear(); say("done", value=0.5)')
    assert (done, lines) == (True, ["failed nan", "1 complete 0.5"])


def test_a_warning_that_all_trials_share_is_shown_once(run: Run) -> None:
    _, lines = run(
        """
        for number in range(2):
            hear()
            say("warn", text=f"Slow: {number} s.")
            say("done", value=0.5)
        """
    )
    assert [line for line in lines if line.startswith("warning")] == ["warning: trial 0: Slow: 0 s."]
