"""sweep.html: the best trials, what mattered, all trials; one page that loads nothing from elsewhere."""

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jinja2

from cifar_trainer import __version__
from cifar_trainer.plots import DARK, LIGHT, Figure, Theme
from cifar_trainer.plots import render as render_figure
from cifar_trainer.sweeps import figures
from cifar_trainer.sweeps.result import SweepResult, best_first
from cifar_trainer.sweeps.space import read_description

if TYPE_CHECKING:
    import optuna

#: Importance is not measured from fewer complete trials.
LEAST_TRIALS = 20


def measure_importance(study: "optuna.Study") -> dict[str, float] | None:
    """Each parameter's importance by Optuna, the largest first; None where the trials do not tell."""
    import optuna

    states = (optuna.trial.TrialState.COMPLETE,)
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=states)]
    if len(values) < LEAST_TRIALS or len(set(values)) == 1:
        return None
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}


def render_page(result: SweepResult, sampler: str, pruner: str, agreed: Mapping[str, Any]) -> str:
    """The page's HTML; everything that comes from outside is escaped.

    Args:
        result: what it is about.
        sampler, pruner: by which they were chosen and ended.
        agreed: the space and the settings of all trials.
    """
    space = read_description(agreed["space"])
    trials = result.trials
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "history": lambda theme: figures.history_figure(trials, theme),
        "parallel": lambda theme: figures.parallel_figure(trials, space, theme),
        "slices": lambda theme: figures.slices_figure(trials, space, theme),
    }
    importance = result.importance
    if importance is not None:
        drawings["importance"] = lambda theme: figures.importance_figure(importance, theme)
    drawn = {
        name: tuple(_data_uri(render_figure(draw(theme), "png")) for theme in (LIGHT, DARK))
        for name, draw in drawings.items()
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_trainer.sweeps"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "value": format_value,
    }
    states = [trial.state for trial in trials]
    return environment.get_template("sweep.html.j2").render(
        result=result,
        ranked=[*best_first(trials), *(trial for trial in trials if trial.state != "complete")],
        counts={state: states.count(state) for state in dict.fromkeys(states)},
        trials={trial.number: trial for trial in trials},
        least=LEAST_TRIALS,
        names=[parameter.name for parameter in space],
        space=agreed["space"],
        settings={key: value for key, value in agreed["settings"].items() if value is not None},
        sampler=sampler,
        pruner=pruner,
        figures=drawn,
        version=__version__,
    )


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{share * 100:.{digits}f} %"


def format_value(value: Any) -> str:
    """A parameter's value in a few digits, such as 0.000734."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
