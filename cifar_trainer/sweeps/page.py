"""sweep.html: one self-contained page with the best trials, importances and all trials."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cifar_trainer import pages
from cifar_trainer.plots import Figure, Theme
from cifar_trainer.sweeps import figures
from cifar_trainer.sweeps.plan import Plan
from cifar_trainer.sweeps.result import SweepResult, best_first, format_value
from cifar_trainer.sweeps.space import describe

if TYPE_CHECKING:
    import optuna

#: Minimum number of complete trials to measure importance.
MIN_TRIALS = 20


def measure_importance(study: "optuna.Study") -> dict[str, float] | None:
    """Optuna's importance of each parameter, largest first; None if trials are too few or all equal."""
    import optuna

    states = (optuna.trial.TrialState.COMPLETE,)
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=states)]
    if len(values) < MIN_TRIALS or len(set(values)) == 1:
        return None
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}


def render_page(result: SweepResult, plan: Plan) -> str:
    """The page's HTML, with all external text escaped."""
    space = plan.space
    trials = result.trials
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "history": lambda theme: figures.history_figure(trials, theme),
        "parallel": lambda theme: figures.parallel_figure(trials, space, theme),
        "slices": lambda theme: figures.slices_figure(trials, space, theme),
    }
    importance = result.importance
    if importance is not None:
        drawings["importance"] = lambda theme: figures.importance_figure(importance, theme)
    states = [trial.state for trial in trials]
    return pages.render(
        "cifar_trainer.sweeps",
        "sweep.html.j2",
        pages.draw_figures(drawings),
        alts=_describe_figures(result),
        result=result,
        ranked=[*best_first(trials), *(trial for trial in trials if trial.state != "complete")],
        counts={state: states.count(state) for state in dict.fromkeys(states)},
        trials={trial.number: trial for trial in trials},
        least=MIN_TRIALS,
        names=list(space),
        space=describe(space),
        settings=plan.common,
        plan=plan,
        value=format_value,
    )


def _describe_figures(result: SweepResult) -> dict[str, str]:
    """Text alternatives of the figures."""
    best, importance = result.best, result.importance or {}
    if best is None:
        return dict.fromkeys(("history", "parallel", "slices"), "No trial is complete.")
    params = ", ".join(f"{name} {format_value(value)}" for name, value in best.params.items())
    winner = f"trial {best.number}, {pages.percent(best.value or 0.0, 2)}, with {params}"
    shares = ", ".join(f"{name} {pages.percent(share)}" for name, share in importance.items())
    return {
        "history": f"Accuracy by trial. The best: {winner}.",
        "parallel": f"One line per trial through its values. The best: {winner}.",
        "slices": f"Accuracy by each parameter. The best: {winner}.",
        "importance": f"Importance of each parameter: {shares}.",
    }
