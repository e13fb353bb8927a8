"""The figures of a sweep: history, importance, parallel coordinates, slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from cifar_trainer.plots import (
    Figure,
    LinearSegmentedColormap,
    LineCollection,
    MaxNLocator,
    PercentFormatter,
    Theme,
    new_figure,
)
from cifar_trainer.sweeps.result import Trial, best_first
from cifar_trainer.sweeps.space import Range, Space

#: Maximum number of slices per row.
COLUMNS = 3


def history_figure(trials: Sequence[Trial], theme: Theme) -> Figure:
    """Accuracy by trial number, and the best so far."""
    with new_figure(theme, 6.2, 3.6) as figure:
        axes = figure.add_subplot()
        complete = [(t.number, t.value) for t in trials if t.state == "complete" and t.value is not None]
        pruned = [(t.number, t.value) for t in trials if t.state == "pruned" and t.value is not None]
        failed = [t.number for t in trials if t.state == "failed"]
        if complete:
            numbers, values = map(np.array, zip(*complete, strict=True))
            axes.step(
                numbers, np.maximum.accumulate(values), where="post", color=theme.third, label="best so far"
            )
            axes.plot(numbers, values, "o", color=theme.first, markersize=5, label="complete")
        if pruned:
            axes.plot(*zip(*pruned, strict=True), "x", color=theme.second, markersize=6, label="pruned")
        if failed:
            bottom = axes.get_ylim()[0]
            axes.plot(failed, [bottom] * len(failed), "v", color=theme.muted, label="failed", clip_on=False)
        axes.set_xlabel("trial")
        axes.set_ylabel("accuracy on held-out images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        # Above the axes, where it covers no trial.
        if complete or pruned or failed:
            figure.legend(loc="outside upper left", ncols=4)
    return figure


def importance_figure(importance: Mapping[str, float], theme: Theme) -> Figure:
    """Each parameter's importance as a bar, the largest at the top."""
    names = sorted(importance, key=lambda name: importance[name])
    with new_figure(theme, 6.2, max(1.6, 0.6 * len(names) + 1.0)) as figure:
        axes = figure.add_subplot()
        bars = axes.barh(names, [importance[name] for name in names], color=theme.first, height=0.55)
        axes.bar_label(bars, [f"{importance[name]:.0%}" for name in names], padding=4, color=theme.text)
        axes.set_xlim(0, 1.08)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(False, axis="y")
        axes.set_xlabel("importance")
    return figure


def parallel_figure(trials: Sequence[Trial], space: Space, theme: Theme) -> Figure:
    """One line per trial through its parameters' values; better ones have more colour, the best is orange."""
    shown = sorted((t for t in trials if t.value is not None), key=lambda trial: trial.value or 0.0)
    with new_figure(theme, 12.4, 4.2) as figure:
        axes = figure.add_subplot()
        columns = [*space, None]
        if shown:
            values = np.array([trial.value for trial in shown])
            # The worst trials would compress the scale for all others.
            low, high = float(np.quantile(values, 0.1)), float(values.max())
            heights = np.array(
                [
                    [
                        *(position(values, trial.params[name]) for name, values in space.items()),
                        _fraction(v, low, high),
                    ]
                    for trial, v in zip(shown, values, strict=True)
                ]
            )
            ramp = LinearSegmentedColormap.from_list("", [theme.grid, theme.first])
            lines = [np.column_stack([range(len(columns)), row]) for row in heights]
            axes.add_collection(LineCollection(lines, colors=ramp(heights[:, -1]), linewidths=1.6))
            for best in best_first(shown)[:1]:
                row = heights[shown.index(best)]
                axes.plot(range(len(columns)), row, color=theme.second, linewidth=2.6)
            ticks = [(low, f"≤ {low:.1%}"), (high, f"{high:.1%}")] if high > low else [(high, f"{high:.1%}")]
            _axis(axes, len(space), [(_fraction(v, low, high), text) for v, text in ticks], theme)
        for index, each in enumerate(space.values()):
            _axis(axes, index, _ticks(each), theme)
        axes.set_xlim(-0.25, len(space) + 0.35)
        axes.set_ylim(-0.06, 1.06)
        axes.set_xticks(range(len(columns)), [*space, "accuracy"])
        axes.tick_params(length=0, pad=10)
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return figure


def slices_figure(trials: Sequence[Trial], space: Space, theme: Theme) -> Figure:
    """Accuracy against each parameter."""
    columns = min(COLUMNS, len(space))
    rows = -(-len(space) // columns)
    with new_figure(theme, 12.4, 3.4 * rows) as figure:
        plots = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for (name, values), axes in zip(space.items(), plots, strict=False):
            for state, color, mark in (("complete", theme.first, "o"), ("pruned", theme.second, "x")):
                chosen = [t for t in trials if t.state == state and t.value is not None]
                positions = [position(values, t.params[name]) for t in chosen]
                axes.plot(positions, [t.value for t in chosen], mark, color=color, markersize=5)
            axes.set_xlim(-0.05, 1.05)
            labels = axes.set_xticks(*zip(*_ticks(values), strict=True))
            # Centred, the outer labels would overlap those of the next plot.
            for tick, side in ((labels[0], "left"), (labels[-1], "right")):
                tick.label1.set_horizontalalignment(side if len(labels) > 1 else "center")
            axes.set_xlabel(name)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        for axes in plots[len(space) :]:
            axes.set_visible(False)
        for axes in plots[::columns]:
            axes.set_ylabel("accuracy on held-out images")
    return figure


def position(values: Range, value: int | float | str) -> float:
    """Position of a value between the bounds or among the choices, 0 to 1."""
    if isinstance(values, CategoricalDistribution):
        return _fraction(_ordered(values).index(value), 0, len(values.choices) - 1)
    number, low, high = float(value), float(values.low), float(values.high)
    if values.log:
        number, low, high = np.log(number), np.log(low), np.log(high)
    return _fraction(number, low, high)


def _fraction(number: float, low: float, high: float) -> float:
    return 0.5 if high <= low else float(np.clip((number - low) / (high - low), 0.0, 1.0))


def _ordered(values: CategoricalDistribution) -> list[Any]:
    """The choices, sorted if they are numbers."""
    numeric = all(isinstance(choice, int | float) for choice in values.choices)
    return sorted(values.choices, key=float) if numeric else list(values.choices)


def _ticks(values: Range) -> list[tuple[float, str]]:
    """Positions and labels of the ticks on a parameter's axis."""
    if isinstance(values, CategoricalDistribution):
        return [(position(values, each), str(each)) for each in _ordered(values)]
    low, high = float(values.low), float(values.high)
    if values.log:
        powers = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
        between = [10.0**power for power in powers]
        # A label close to a bound would overlap that of the bound.
        between = [each for each in between if 0.15 < position(values, each) < 0.85]
    else:
        middle = (low + high) / 2
        between = [middle] if isinstance(values, FloatDistribution) or middle.is_integer() else []
    return [(position(values, each), f"{each:g}") for each in dict.fromkeys([low, *between, high])]


def _axis(axes: "object", x: int, ticks: Sequence[tuple[float, str]], theme: Theme) -> None:
    """Draw a vertical axis with its ticks."""
    axes.plot([x, x], [0, 1], color=theme.muted, linewidth=1.0)  # type: ignore[attr-defined]
    for height, text in ticks:
        axes.plot([x - 0.012, x], [height, height], color=theme.muted, linewidth=1.0)  # type: ignore[attr-defined]
        axes.text(  # type: ignore[attr-defined]
            x - 0.025, height, text, ha="right", va="center", size=8.5, color=theme.text, zorder=5,
            bbox={"facecolor": theme.background, "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
