"""The confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def draw_confusion_matrix(matrix: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG of a confusion matrix: counts in the cells, their share of the row as colour.

    Args:
        matrix: integer [classes, classes], by true class, then by predicted class.
        classes: the names, by label.
        title: what it is about.
        path: where to write.
    """
    # Figure is used without pyplot: no window system, no state that another call could find.
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(8.2, 7.4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=40, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    for row in ticks:
        for column in ticks:
            color = "black" if shares[row, column] > 0.55 else "white"
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=color, size=9)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    figure.savefig(path)
