"""The page of a sweep, its figures, and the live table, from made-up trials."""

import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from browser import problems_on_screens
from rich.console import Console

from cifar_trainer.cli.console import Output
from cifar_trainer.cli.sweep_display import SweepDisplay
from cifar_trainer.plots import DARK, LIGHT, pixels
from cifar_trainer.sweeps import figures
from cifar_trainer.sweeps.page import measure_importance, render_page
from cifar_trainer.sweeps.plan import Plan
from cifar_trainer.sweeps.result import Confirmed, SweepResult, Trial, best_first
from cifar_trainer.sweeps.space import parse_space

SPACE = parse_space(["learning_rate=1e-4..1e-2:log", "batch_size=128,32,64", "recipe=tutorial,regularized"])


PLAN = Plan(
    name="s", space=SPACE, trials=4, sampler="tpe", pruner="median", seed=0, workers=1, confirm=1,
    confirm_seeds=1, heartbeat=15, settings={"epochs": 3}, runtime={},
)  # fmt: skip


def a_trial(number: int, state: str, value: float | None, message: str | None = None) -> Trial:
    params = {"learning_rate": 1e-4 * 1.5**number, "batch_size": 32, "recipe": "tutorial"}
    return Trial(number, state, params, value, f"runs/s/trial-{number}", message, (number,), (0.5,))


TRIALS = (
    a_trial(0, "complete", 0.61),
    a_trial(1, "pruned", 0.2),
    a_trial(2, "complete", 0.7),
    a_trial(3, "failed", None, "The loss <nan> is not finite."),
)


def a_page(trials: tuple[Trial, ...], importance: dict[str, float] | None = None) -> str:
    best = next(iter(best_first(trials)), None)
    confirmed = () if best is None else (Confirmed(best.number, best.params, ("runs/s/c",), 0.6543),)
    result = SweepResult(
        "<s>", "sqlite:///x", trials, best, confirmed, importance, "runs/s", "runs/s/sweep.html"
    )
    return render_page(result, PLAN)


@pytest.fixture(scope="module")
def page() -> str:
    """The page of these trials."""
    return a_page(TRIALS)


def test_the_page_has_the_best_trial_and_its_accuracy_on_the_test_set(page: str) -> None:
    assert [text for text in ("70.00 %", "65.43 %", "train --from-trial runs/s:2") if text not in page] == []


def test_the_page_is_accessible_on_a_screen_and_on_a_phone(page: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.html").write_text(page)
    assert problems_on_screens((tmp_path / "sweep.html").as_uri()) == []


def test_the_best_trials_are_at_the_top_of_the_table(page: str) -> None:
    rows = page.split("<h2>Trials</h2>")[1].split("</tbody>")[0]
    assert re.findall(r"<tr[^>]*><td><a [^>]*>(\d+)<", rows) == ["2", "0", "1", "3"]


def test_what_comes_from_outside_is_escaped(page: str) -> None:
    assert ("<nan>" in page, "&lt;nan&gt;" in page, "<s>" in page.replace("<style>", "")) == (
        False, True, False,
    )  # fmt: skip


@pytest.mark.parametrize("trials", [(), TRIALS[3:], TRIALS[1:2]])
def test_there_is_a_page_however_few_trials_there_are(trials: tuple[Trial, ...]) -> None:
    assert "</html>" in a_page(trials)


def test_importance_has_at_most_one_decimal_and_is_shown_where_it_was_measured() -> None:
    page = a_page(TRIALS, {"learning_rate": 0.7512, "batch_size": 0.2488, "recipe": 0.0})
    assert ("75.1 %" in page, "75.12" in page, "at least 20 complete trials" in page) == (True, False, False)


def test_without_importance_the_page_says_how_many_trials_it_takes(page: str) -> None:
    assert "at least 20 complete trials" in page


def test_trials_link_to_their_runs_and_confirmed_ones_to_their_reports(page: str) -> None:
    links = ('href="trial-2/"', 'href="c/evaluation/test/report.html"')
    assert [link for link in links if link not in page] == []


@pytest.mark.parametrize("values", [(0.61, 0.7, 0.7), (0.7, 0.7, 0.7), (0.7, 0.61, 0.7)])
def test_of_equal_trials_one_is_the_best_in_the_headline_the_table_and_the_figure(
    values: tuple[float, ...],
) -> None:
    # A pruned trial may have been better when it ended.
    trials = (*(a_trial(n, "complete", v) for n, v in enumerate(values)), a_trial(3, "pruned", 0.9))
    page = a_page(trials)
    number = values.index(0.7)
    assert f"trial {number}; the highest of 3" in page
    row = page.split('<tr class="best">')[1].split("</tr>")[0]
    assert f'href="trial-{number}/"' in row
    figure = figures.parallel_figure(trials, SPACE, LIGHT)
    [drawn] = [line for line in figure.axes[0].lines if line.get_color() == LIGHT.second]
    rate = trials[number].params["learning_rate"]
    assert drawn.get_ydata()[1] == pytest.approx(figures.position(SPACE["learning_rate"], rate))


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
    assert figures.position(SPACE[name], value) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_parameter_that_decides_alone_is_the_important_one() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda t: t.suggest_float("a", 0, 1) + 0 * t.suggest_float("b", 0, 1), n_trials=40)
    found = measure_importance(study)
    assert found is not None
    assert found["a"] > 0.8


@pytest.mark.parametrize("values", [[0.1, 0.2] * 9, [0.5] * 30])
def test_too_few_or_equal_trials_have_no_importance(values: list[float]) -> None:
    study = optuna.create_study(direction="maximize")
    for value in values:
        trial = study.ask()
        trial.suggest_float("a", 0, 1)
        study.tell(trial, value)
    assert measure_importance(study) is None


def test_the_live_table_has_the_best_trials_first() -> None:
    display = SweepDisplay(Output())
    display.listed(TRIALS)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(display.table())
    lines = captured.get().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["2", "0"]
    assert lines[0].strip() == "4 trials done"
