"""Sweeps that several commands share through a real PostgreSQL; skipped where none is installed."""

import contextlib
import functools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import run_command, start_command
from holding import holding, is_held
from postgres_server import Server

from cifar_trainer.sweeps.result import Trial
from cifar_trainer.sweeps.sampler import DistinctSampler
from cifar_trainer.sweeps.space import parse_space
from cifar_trainer.sweeps.storage import MISSED_HEARTBEATS, Database, parse_storage
from cifar_trainer.sweeps.trials import Trials

PATIENCE = 120.0


Begin = Callable[..., Trials]


@pytest.fixture
def another_command(postgres: Server) -> Iterator[Begin]:
    """What a command does before it trains: `begin(NAME, budget=N, heartbeat=SECONDS)`."""
    with contextlib.ExitStack() as opened:
        yield functools.partial(begin, opened, postgres.url)


def begin(opened: contextlib.ExitStack, url: str, name: str, *, budget: int, heartbeat: int = 1) -> Trials:
    database = opened.enter_context(Database(parse_storage(url, Path("unused")), heartbeat))
    space = parse_space(["batch_size=16..64:step=16", "epochs=1..4"])
    with database.lock(name):
        study = optuna.create_study(
            storage=database.optuna, study_name=name, direction="maximize",
            sampler=DistinctSampler("tpe", 0, space), pruner=optuna.pruners.NopPruner(), load_if_exists=True,
        )  # fmt: skip
    return Trials(database, study, Path("unused"), space, budget=budget)


def test_a_trial_without_heartbeats_is_taken_over(another_command: Begin) -> None:
    dead = another_command("dead", budget=1).claim()
    assert dead is not None
    other = another_command("dead", budget=1)
    assert other.claim() is None
    until = time.monotonic() + PATIENCE
    while (again := other.claim()) is None:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert (again.number, again.params, again.attempts) == (dead.number, dead.params, (0, 1))


def test_a_trial_with_heartbeats_stays_where_it_is(another_command: Begin) -> None:
    alive = another_command("alive", budget=1)
    alive.claim()
    other = another_command("alive", budget=1)
    with alive.heartbeats():
        time.sleep(MISSED_HEARTBEATS + 2)
        assert other.claim() is None


def test_commands_that_ask_at_once_share_the_trials_and_no_values(another_command: Begin) -> None:
    claimed: list[Trial] = []

    def work(trials: Trials) -> None:
        while (trial := trials.claim()) is not None:
            claimed.append(trial)
            trials.end(trial, "complete", 0.5)

    # Opened here: the filters of warnings must not change while another thread uses Optuna.
    commands = [another_command("crowd", budget=12, heartbeat=60) for _ in range(4)]
    threads = [threading.Thread(target=work, args=[trials]) for trials in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(trial.number for trial in claimed) == list(range(12))
    assert len({tuple(sorted(trial.params.items())) for trial in claimed}) == 12


def test_a_server_that_is_restarted_is_waited_for(postgres: Server, another_command: Begin) -> None:
    trials = another_command("away", budget=1)
    trial = trials.claim()
    assert trial is not None
    postgres.control("-m", "immediate", "stop")
    restart = threading.Timer(1.5, postgres.control, ["start"])
    restart.start()
    trials.end(trial, "complete", 0.5)
    restart.join()
    assert [(each.state, each.value) for each in trials.listed()] == [("complete", 0.5)]


@pytest.fixture(scope="module")
def shared(
    postgres: Server, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """A sweep of two commands, one of which was killed: its folder, what the other printed, all output."""
    root = tmp_path_factory.mktemp("shared")
    folder, (recipe, go) = root / "s", holding(root)
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--limit", 64, "--device", "cpu"]
    space = ["--set", "learning_rate=1e-3..1e-2:log", "--pruner", "none", "--confirm", 0, "--epochs", 3]
    name = ["--name", "shared", "--recipe", recipe, "--run-dir", folder]
    command = ["sweep", *name, *space, *data, "--trials", 2, "--json"]
    more = {"env": {"CIFAR_TRAINER_SWEEP_STORAGE": postgres.url, "CIFAR_TRAINER_SWEEP_HEARTBEAT": "1"}}
    killed = start_command(command, **more)
    until = time.monotonic() + PATIENCE
    while not is_held(folder / "trial-0"):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    lost = killed.communicate(timeout=PATIENCE)
    go.touch()
    done = run_command(command, **more)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), "".join([*lost, done.stdout, done.stderr])


def test_after_a_death_every_trial_is_complete_once(shared: tuple[Path, dict[str, Any], str]) -> None:
    trials = shared[1]["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert sorted(len(trial["attempts"]) for trial in trials) == [1, 2]


def test_a_trial_that_was_taken_over_resumed_its_run(shared: tuple[Path, dict[str, Any], str]) -> None:
    folder, printed, _ = shared
    assert printed["trials"][0]["run_dir"] == str(folder / "trial-0")
    assert len(json.loads((folder / "trial-0" / "environment.json").read_text())["earlier"]) == 1


def test_no_file_and_no_output_has_the_password(shared: tuple[Path, dict[str, Any], str]) -> None:
    folder, printed, output = shared
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".html", ".csv", ".jsonl")]
    assert [str(path) for path in texts if "secret" in path.read_text(encoding="utf-8")] == []
    assert ("secret" in output, "me:***@" in printed["storage"]) == (False, True)
