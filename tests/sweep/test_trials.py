"""A study's trials as commands take and end them: none is lost, none counts twice. No training here."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
import pytest

from cifar_trainer.errors import RunError
from cifar_trainer.sweeps.result import Trial
from cifar_trainer.sweeps.sampler import PRUNERS, DistinctSampler
from cifar_trainer.sweeps.space import parse_space
from cifar_trainer.sweeps.storage import Database, lock_file, parse_storage
from cifar_trainer.sweeps.trials import MAX_DEATHS, Trials

FINITE = ("batch_size=32,64", "epochs=2..4")
INFINITE = ("learning_rate=1e-4..1e-2:log",)


class OpenStudy(Protocol):
    def __call__(self, folder: str = "s", seed: int = 0) -> Trials: ...


class MakeSweep(Protocol):
    def __call__(
        self,
        *,
        budget: int = 3,
        space: tuple[str, ...] = INFINITE,
        sampler: str = "tpe",
        pruner: str = "none",
    ) -> OpenStudy: ...


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[MakeSweep]:
    """Commands that use one SQLite file in turn: each takes the trials of the earlier ones for dead."""
    with contextlib.ExitStack() as opened:

        def make(
            *, budget: int = 3, space: tuple[str, ...] = INFINITE, sampler: str = "tpe", pruner: str = "none"
        ) -> OpenStudy:
            parameters = parse_space(space)

            def command(folder: str = "s", seed: int = 0) -> Trials:
                (tmp_path / folder).mkdir(exist_ok=True)
                database = opened.enter_context(Database(parse_storage(None, tmp_path / folder), 15))
                distinct = DistinctSampler(sampler, seed, parameters)
                median = optuna.pruners.MedianPruner(n_startup_trials=1)
                study = optuna.create_study(
                    storage=database.optuna, study_name="s", direction="maximize", sampler=distinct,
                    pruner=median if pruner == "median" else PRUNERS[pruner](9), load_if_exists=True,
                )  # fmt: skip
                return Trials(
                    database, study, tmp_path / folder, parameters, budget=budget,
                    exhausted=lambda trials: distinct.untried(trials) == [],
                )  # fmt: skip

            return command

        yield make


def claim(trials: Trials) -> Trial:
    trial = trials.claim()
    assert trial is not None
    return trial


def values(trials: Trials, count: int) -> list[dict[str, Any]]:
    claimed = []
    for _ in range(count):
        trial = claim(trials)
        # Hyperband has brackets only after it was asked once.
        trials.report(trial, 1, 0.5)
        trials.end(trial, "complete", 0.5)
        claimed.append(trial.params)
    return claimed


def distinct(trials: list[dict[str, Any]]) -> int:
    return len({tuple(sorted(each.items())) for each in trials})


def test_no_more_trials_are_taken_than_asked_for(sweep: MakeSweep) -> None:
    trials = sweep(budget=2)()
    assert [trials.claim() is None for _ in range(3)] == [False, False, True]


def test_a_trial_whose_command_died_comes_back_with_its_values_its_run_and_its_epochs(
    sweep: MakeSweep, tmp_path: Path
) -> None:
    command = sweep()
    first = command()
    lost = claim(first)
    first.started(lost, tmp_path / "s" / "trial-0")
    first.report(lost, 1, 0.25)
    again = claim(command())
    assert (again.number, again.params, again.run_dir, again.epochs) == (
        0, lost.params, str(tmp_path / "s" / "trial-0"), (0.25,),
    )  # fmt: skip


def test_a_run_outside_of_the_sweeps_folder_keeps_its_path(sweep: MakeSweep, tmp_path: Path) -> None:
    trials = sweep()()
    trials.started(claim(trials), tmp_path / "elsewhere")
    assert trials.listed()[0].run_dir == str(tmp_path / "elsewhere")


def test_a_run_in_the_sweeps_folder_is_named_as_the_folder_is(
    sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = sweep()()
    trials._folder = Path("s")
    monkeypatch.chdir(tmp_path)
    trials.started(claim(trials), tmp_path / "s" / "trial-0")
    assert trials.listed()[0].run_dir == "s/trial-0"


def test_the_attempts_of_a_trial_are_one_trial(sweep: MakeSweep) -> None:
    command = sweep(budget=1)
    for _ in range(3):
        claim(command())
    last = command()
    last.end(claim(last), "complete", 0.75)
    assert last.claim() is None
    assert [(each.number, each.state, each.value, each.attempts) for each in last.listed()] == [
        (0, "complete", 0.75, (0, 1, 2, 3))
    ]


def test_a_death_takes_no_trial_away_from_those_that_were_asked_for(sweep: MakeSweep) -> None:
    command = sweep(budget=2)
    claim(command())
    trials = command()
    values(trials, 2)
    assert [each.state for each in trials.listed()] == ["complete", "complete"]


def test_a_trial_that_kills_its_command_each_time_fails_in_the_end(sweep: MakeSweep) -> None:
    command = sweep(budget=1)
    for _ in range(MAX_DEATHS + 1):
        claim(command())
    last = command()
    assert last.claim() is None
    assert [(each.state, each.message) for each in last.listed()] == [
        ("failed", f"Its worker died {MAX_DEATHS + 1} times, the last time with its command.")
    ]


def test_a_trial_that_kills_its_worker_each_time_fails_in_the_end_and_says_how(sweep: MakeSweep) -> None:
    trials = sweep(budget=1)()
    resumed = [trials.release(claim(trials), death="by signal 9") for _ in range(MAX_DEATHS + 1)]
    assert resumed == [True] * MAX_DEATHS + [False]
    assert trials.listed()[0].message == f"Its worker died {MAX_DEATHS + 1} times, the last time by signal 9."


def test_a_stop_on_request_is_not_a_death(sweep: MakeSweep) -> None:
    command = sweep(budget=1)
    for _ in range(MAX_DEATHS + 3):
        trials = command()
        trials.release(claim(trials))
    claim(command())


def test_a_failed_trial_is_not_tried_again(sweep: MakeSweep) -> None:
    command = sweep(budget=1)
    trials = command()
    trials.end(claim(trials), "failed", message="The loss (nan) is not finite.")
    assert command().claim() is None
    assert [(each.state, each.message) for each in trials.listed()] == [
        ("failed", "The loss (nan) is not finite.")
    ]


def test_a_command_whose_trial_was_taken_over_cannot_change_it(sweep: MakeSweep) -> None:
    command = sweep(budget=1)
    first = command()
    lost = claim(first)
    second = command()
    taken = claim(second)
    assert not first.report(lost, 1, 0.9)
    assert not first.end(lost, "pruned")
    first.end(lost, "complete", 0.9)
    second.end(taken, "complete", 0.6)
    assert [each.value for each in second.listed()] == [0.6]


def test_a_trial_below_the_median_ends(sweep: MakeSweep) -> None:
    trials = sweep(pruner="median")()
    good = claim(trials)
    assert trials.report(good, 1, 0.9)
    trials.end(good, "complete", 0.9)
    bad = claim(trials)
    assert not trials.report(bad, 1, 0.1)
    assert trials.end(bad, "pruned")
    assert [(each.state, each.value) for each in trials.listed()] == [("complete", 0.9), ("pruned", 0.1)]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_two_trials_have_the_same_values_and_a_finite_space_ends(
    sweep: MakeSweep, sampler: str, pruner: str
) -> None:
    trials = sweep(budget=50, space=FINITE, sampler=sampler, pruner=pruner)()
    assert distinct(values(trials, 6)) == 6
    assert trials.claim() is None


def test_trials_that_run_side_by_side_have_different_values(sweep: MakeSweep) -> None:
    trials = sweep(budget=6, space=FINITE)()
    assert distinct([claim(trials).params for _ in range(6)]) == 6


def test_the_same_seed_proposes_the_same_values_and_another_seed_others(sweep: MakeSweep) -> None:
    command = sweep(budget=12)
    one, same, other = (values(command(name, seed), 12) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert one == same
    assert one[:2] != other[:2]


def test_sqlite_lets_one_command_in_at_a_time(tmp_path: Path) -> None:
    storage = parse_storage(None, tmp_path)
    with lock_file(storage), pytest.raises(RunError, match="is in use by"), lock_file(storage):
        pass


def test_an_error_of_the_sweep_is_not_an_error_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), lock_file(parse_storage(None, tmp_path)):
        (tmp_path / "gone").read_text()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="file/s cannot be written"),
        lock_file(parse_storage(None, tmp_path / "file" / "s")),
    ):
        pass


def test_a_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("this is not a database, but a text " * 100)
    with pytest.raises(RunError, match=r"optuna\.db cannot be used: file is not a database"):
        Database(parse_storage(None, tmp_path), 15)


def test_a_database_of_another_version_of_optuna_says_so(tmp_path: Path) -> None:
    storage = parse_storage(None, tmp_path)
    with Database(storage, 15):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with pytest.raises(RunError, match="written by another version of Optuna"):
        Database(storage, 15)
