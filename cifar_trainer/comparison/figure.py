"""The learning curves and the accuracies of several runs, in one picture."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cifar_trainer.comparison.compare import Comparison
from cifar_trainer.plots import LINES, Theme, new_figure


def comparison_figure(comparison: Comparison, theme: Theme) -> Figure:
    """Left the watched accuracy by epoch, a line a run; right each run's accuracy with its interval."""
    color = {
        id(each): LINES[place % len(LINES)]
        for place, group in enumerate(comparison.groups)
        for each in group.runs
    }
    names = [each.run.path.resolve().name for each in comparison.runs]
    with new_figure(theme, 9.6, max(3.4, 1.8 + 0.3 * len(names)) + 0.22 * len(comparison.groups)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        labelled = set()
        for place, group in enumerate(comparison.groups):
            for each in group.runs:
                points = [(row["epoch"], row["val_accuracy"]) for row in each.history]
                label = None if place in labelled else f"{group.name} (n = {len(group.runs)})"
                labelled.add(place)
                left.plot(*np.array(points, float).T, color=color[id(each)], linewidth=1.4, label=label)
        left.set_xlabel("epoch")
        left.set_title("watched accuracy")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.yaxis.set_major_formatter(PercentFormatter(1))
        for row, each in enumerate(comparison.runs):
            low, high = each.interval
            right.plot([low, high], [row, row], color=color[id(each)])
            right.plot(each.accuracy, row, "o", color=color[id(each)], markersize=5)
        right.set_yticks(range(len(names)), names)
        right.set_ylim(len(names) - 0.4, -0.6)
        right.grid(axis="y", visible=False)
        right.tick_params(axis="y", length=0)
        right.set_title(f"{comparison.split} accuracy, 95 % interval")
        right.xaxis.set_major_locator(MaxNLocator(4))
        right.xaxis.set_major_formatter(PercentFormatter(1))
        # Below both: a group's name may be as long as its settings are many.
        figure.legend(loc="outside lower left")
    return figure
