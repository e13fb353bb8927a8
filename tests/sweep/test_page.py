"""The page of a sweep, its figures, and what a person sees meanwhile; from trials that nobody trained."""

import numpy as np
import optuna
import pytest
from rich.console import Console

from cifar_trainer.cli.console import Output
from cifar_trainer.cli.signals import StopRequest
from cifar_trainer.cli.sweep_display import SweepDisplay
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.plots import DARK, LIGHT, pixels
from cifar_trainer.sweeps import figures
from cifar_trainer.sweeps.page import measure_importance, render_page
from cifar_trainer.sweeps.record import Confirmed, SweepResult, TrialRecord
from cifar_trainer.sweeps.space import describe, parse_space
from cifar_trainer.sweeps.trials import Entry

SPACE = parse_space(["learning_rate=1e-4..1e-2:log", "batch_size=128,32,64", "recipe=document,regularized"])


def a_trial(number: int, state: str, value: float | None, message: str | None = None) -> TrialRecord:
    params = {"learning_rate": 1e-4 * 1.5**number, "batch_size": 32, "recipe": "document"}
    return TrialRecord(number, state, params, value, f"runs/s/trial-{number}", message, (number,))


TRIALS = (
    a_trial(0, "complete", 0.61),
    a_trial(1, "pruned", 0.2),
    a_trial(2, "complete", 0.7),
    a_trial(3, "failed", None, "The loss <nan> is not finite."),
)


def a_page(trials: tuple[TrialRecord, ...], importance: dict[str, float] | None = None) -> str:
    best = max((t for t in trials if t.state == "complete"), key=lambda t: t.value or 0.0, default=None)
    confirmed = () if best is None else (Confirmed(best.number, best.params, ("runs/s/c",), 0.6543),)
    result = SweepResult(
        "<s>", "sqlite:///x", trials, best, confirmed, importance, "runs/s", "runs/s/sweep.html"
    )
    entries = [Entry(t.number, t.state, t.params, epochs={1: 0.5}) for t in trials]
    agreed = {"space": describe(SPACE), "settings": {"epochs": 3, "limit": None}}
    return render_page(result, entries, "tpe", "median", agreed)


def test_the_page_tells_the_best_and_what_it_came_to_on_the_test_set() -> None:
    page = a_page(TRIALS)
    assert [text for text in ("70.00 %", "65.43 %", "train --from-trial runs/s:2") if text not in page] == []


def test_the_best_trial_stands_at_the_top_of_the_table() -> None:
    rows = a_page(TRIALS).split("<h2>Trials</h2>")[1].split("<tr")[2:6]
    assert [row.split("<td>")[1].split("<")[0] for row in rows[:1]] == ["2"]


def test_what_comes_from_outside_is_escaped() -> None:
    page = a_page(TRIALS)
    assert ("<nan>" in page, "&lt;nan&gt;" in page, "<s>" in page.replace("<style>", "")) == (
        False,
        True,
        False,
    )


@pytest.mark.parametrize("trials", [(), TRIALS[3:], TRIALS[1:2], TRIALS[:1]])
def test_there_is_a_page_however_few_trials_there_are(trials: tuple[TrialRecord, ...]) -> None:
    assert "</html>" in a_page(trials)


def test_importance_is_told_where_it_was_measured() -> None:
    page = a_page(TRIALS, {"learning_rate": 0.75, "batch_size": 0.25, "recipe": 0.0})
    assert "75.00 %" in page


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_figures_can_be_told_from_empty_ones(theme: object) -> None:
    for draw in (
        lambda trials: figures.history_figure(trials, theme),  # type: ignore[arg-type]
        lambda trials: figures.parallel_figure(trials, SPACE, theme),  # type: ignore[arg-type]
        lambda trials: figures.slices_figure(trials, SPACE, theme),  # type: ignore[arg-type]
    ):
        assert not np.array_equal(pixels(draw(TRIALS)), pixels(draw(())))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", 1e-3, 0.5),
        ("batch_size", 32, 0.0),
        ("batch_size", 64, 0.5),
        ("recipe", "regularized", 1.0),
    ],
)
def test_a_value_has_its_place_on_its_axis(name: str, value: float | str, expected: float) -> None:
    """Logarithmic where the range is; choices that are numbers in their order."""
    parameter = next(each for each in SPACE if each.name == name)
    assert figures.place(parameter, value) == pytest.approx(expected)


def test_a_parameter_that_decides_alone_is_the_important_one() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda t: t.suggest_float("a", 0, 1) + 0 * t.suggest_float("b", 0, 1), n_trials=40)
    found = measure_importance(study)
    assert found is not None
    assert found["a"] > 0.8


@pytest.mark.parametrize("values", [[0.1, 0.2], [0.5] * 6])
def test_trials_that_tell_nothing_have_no_importance(values: list[float]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for value in values:
        trial = study.ask()
        trial.suggest_float("a", 0, 1)
        study.tell(trial, value)
    assert measure_importance(study) is None


def test_the_live_table_has_the_best_trials_first() -> None:
    display = SweepDisplay(Output(), PrepareReporter(), StopRequest())
    display.listed(TRIALS)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(display.table())
    lines = captured.get().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["2", "0"]
    assert lines[0].strip() == "4 trials done"
