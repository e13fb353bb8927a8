"""A study's trials as commands take and end them: none is lost, none counts twice. No training here."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
import pytest

from cifar_trainer.errors import RunError
from cifar_trainer.sweeps.samplers import DistinctSampler, distributions
from cifar_trainer.sweeps.space import Space, parse_space
from cifar_trainer.sweeps.storage import Database, hold_alone, parse_storage
from cifar_trainer.sweeps.trials import DEATHS, Trials

FINITE = ("batch_size=32,64", "epochs=2..4")
ENDLESS = ("learning_rate=1e-4..1e-2:log",)


class Commands:
    """Commands that share a study, one after the other, as SQLite has it."""

    def __init__(
        self, opened: contextlib.ExitStack, folder: Path, budget: int, space: tuple[str, ...], sampler: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._opened, self._storage = opened, parse_storage(None, folder)
        self._space: Space = parse_space(space)
        self._budget, self._sampler = budget, sampler

    def begin(self, seed: int = 0) -> Trials:
        """Another command: what the one before had taken, it takes for dead."""
        database = self._opened.enter_context(Database(self._storage, 15, 60))
        sampler = DistinctSampler(self._sampler, seed, self._space)
        study = optuna.create_study(
            storage=database.optuna, study_name="s", direction="maximize", sampler=sampler,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1), load_if_exists=True,
        )  # fmt: skip
        return Trials(
            database, study, distributions(self._space), budget=self._budget,
            exhausted=lambda trials: sampler.left(trials) == [],
        )  # fmt: skip


class MakeCommands(Protocol):
    def __call__(
        self, name: str = "s", *, budget: int = 3, space: tuple[str, ...] = ENDLESS, sampler: str = "tpe"
    ) -> Commands: ...


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[MakeCommands]:
    """The commands of a sweep, by the name of its folder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with contextlib.ExitStack() as opened:

        def make(
            name: str = "s", *, budget: int = 3, space: tuple[str, ...] = ENDLESS, sampler: str = "tpe"
        ) -> Commands:
            return Commands(opened, tmp_path / name, budget, space, sampler)

        yield make


def values(trials: Trials, count: int, value: float = 0.5) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        claim = trials.claim()
        assert claim is not None
        trials.complete(claim, value)
        found.append(claim.values)
    return found


def test_no_more_trials_are_taken_than_asked_for(commands: MakeCommands) -> None:
    trials = commands(budget=2).begin()
    assert [trials.claim() is None for _ in range(3)] == [False, False, True]


def test_a_trial_whose_command_died_comes_back_with_its_values_and_its_run(
    commands: MakeCommands, tmp_path: Path
) -> None:
    shared = commands()
    first = shared.begin()
    lost = first.claim()
    assert lost is not None
    first.begun(lost, tmp_path / "trial-0")
    again = shared.begin().claim()
    assert again is not None
    assert (again.original, again.values, again.run_dir) == (0, lost.values, tmp_path / "trial-0")


def test_what_was_reported_before_a_death_is_kept(commands: MakeCommands) -> None:
    shared = commands()
    first = shared.begin()
    lost = first.claim()
    assert lost is not None
    first.report(lost, 1, 0.25)
    second = shared.begin()
    second.claim()
    assert second.entries()[0].epochs == {1: 0.25}


def test_the_attempts_of_a_trial_are_one_trial(commands: MakeCommands) -> None:
    shared = commands(budget=1)
    for _ in range(3):
        assert shared.begin().claim() is not None
    last = shared.begin()
    claim = last.claim()
    assert claim is not None
    last.complete(claim, 0.75)
    assert last.claim() is None
    assert [(each.number, each.state, each.value, each.attempts) for each in last.entries()] == [
        (0, "complete", 0.75, (0, 1, 2, 3))
    ]


def test_a_death_takes_no_trial_away_from_those_that_were_asked_for(commands: MakeCommands) -> None:
    shared = commands(budget=2)
    assert shared.begin().claim() is not None
    trials = shared.begin()
    values(trials, 2)
    assert [each.state for each in trials.entries()] == ["complete", "complete"]


def test_a_trial_that_kills_its_command_each_time_fails_in_the_end(commands: MakeCommands) -> None:
    shared = commands(budget=1)
    for _ in range(DEATHS + 1):
        assert shared.begin().claim() is not None
    last = shared.begin()
    assert last.claim() is None
    assert [(each.state, each.message) for each in last.entries()] == [
        ("failed", f"Its worker died {DEATHS + 1} times.")
    ]


def test_a_stop_that_was_asked_for_is_no_death(commands: MakeCommands) -> None:
    shared = commands(budget=1)
    for _ in range(DEATHS + 3):
        trials = shared.begin()
        claim = trials.claim()
        assert claim is not None
        trials.release(claim)
    assert shared.begin().claim() is not None


def test_a_failed_trial_is_not_tried_again(commands: MakeCommands) -> None:
    shared = commands(budget=1)
    trials = shared.begin()
    claim = trials.claim()
    assert claim is not None
    trials.fail(claim, "The loss (nan) is not finite.")
    assert shared.begin().claim() is None
    assert [(each.state, each.message) for each in trials.entries()] == [
        ("failed", "The loss (nan) is not finite.")
    ]


def test_a_trial_that_was_given_away_is_not_told_of(commands: MakeCommands) -> None:
    shared = commands(budget=1)
    first = shared.begin()
    claim = first.claim()
    assert claim is not None
    second = shared.begin()
    other = second.claim()
    assert other is not None
    assert not first.report(claim, 1, 0.9)
    first.complete(claim, 0.9)
    second.complete(other, 0.6)
    assert [each.value for each in second.entries()] == [0.6]


def test_a_trial_below_the_median_is_to_end(commands: MakeCommands) -> None:
    trials = commands().begin()
    good = trials.claim()
    assert good is not None
    assert trials.report(good, 1, 0.9)
    trials.complete(good, 0.9)
    bad = trials.claim()
    assert bad is not None
    assert not trials.report(bad, 1, 0.1)
    trials.prune(bad)
    assert [(each.state, each.value) for each in trials.entries()] == [("complete", 0.9), ("pruned", 0.1)]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_two_trials_have_the_same_values_and_a_finite_space_ends(
    commands: MakeCommands, sampler: str
) -> None:
    trials = commands(budget=50, space=FINITE, sampler=sampler).begin()
    found = values(trials, 6)
    assert len({tuple(sorted(each.items())) for each in found}) == 6
    assert trials.claim() is None


def test_trials_that_run_side_by_side_have_different_values(commands: MakeCommands) -> None:
    trials = commands(budget=6, space=FINITE).begin()
    claims = [trials.claim() for _ in range(6)]
    assert len({tuple(sorted(each.values.items())) for each in claims if each is not None}) == 6


def test_the_same_seed_proposes_the_same(commands: MakeCommands) -> None:
    one, other = (values(commands(name, budget=12).begin(), 12) for name in ("one", "other"))
    assert one == other


def test_another_seed_proposes_something_else(commands: MakeCommands) -> None:
    one = values(commands("one").begin(seed=0), 2)
    assert values(commands("other").begin(seed=1), 2) != one


def test_sqlite_lets_one_command_in_at_a_time(tmp_path: Path) -> None:
    storage = parse_storage(None, tmp_path)
    with hold_alone(storage), pytest.raises(RunError, match="is in use by"), hold_alone(storage):
        pass


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("this is no database, but a text " * 100)
    with pytest.raises(RunError, match=r"optuna\.db cannot be used: file is not a database"):
        Database(parse_storage(None, tmp_path), 15, 60)


def test_a_database_of_another_version_of_optuna_says_so(tmp_path: Path) -> None:
    import sqlite3

    storage = parse_storage(None, tmp_path)
    with Database(storage, 15, 60):
        pass
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    connection.close()
    with pytest.raises(RunError, match="written by another version of Optuna"):
        Database(storage, 15, 60)
