"""The pictures of a report: each a function from figures to a Matplotlib figure.

The confusion matrix and the gallery, which training shows too, are in `cifar_trainer.plots`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cifar_trainer.evaluation.calibration import Calibration, Reliability
from cifar_trainer.evaluation.robustness import EPSILONS, Robustness
from cifar_trainer.metrics import PrecisionRecall
from cifar_trainer.plots import Theme, new_figure


def per_class_figure(per_class: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    """Precision and recall of each class, with their 95 % intervals."""
    with new_figure(theme, 6.0, 5.6) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(per_class), dtype=float)
        for name, offset, color, marker in (
            ("precision", -0.16, theme.first, "o"),
            ("recall", 0.16, theme.second, "s"),
        ):
            values = np.array([row[name] for row in per_class])
            bounds = np.array([row[f"{name}_interval"] for row in per_class]).T
            axes.errorbar(
                values, places + offset, xerr=np.abs(bounds - values), fmt=marker, color=color,
                markersize=5, elinewidth=1.6, capsize=0, label=name,
            )  # fmt: skip
        axes.set_yticks(places, [row["class"] for row in per_class])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def reliability_figure(calibration: Calibration, theme: Theme) -> Figure:
    """Accuracy against confidence, and below it how many images have that confidence."""
    shown = [("as trained", calibration.before, theme.first, "o")]
    if calibration.after is not None:
        name = f"temperature {calibration.temperature:.2f}"
        shown.append((name, calibration.after, theme.second, "s"))
    with new_figure(theme, 6.0, 5.6) as figure:
        upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
        upper.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--", label="as sure as right")
        width = 0.8 / len(calibration.before.bins) / len(shown)
        for i, (name, found, color, marker) in enumerate(shown):
            filled = [b for b in found.bins if b.images]
            upper.plot(
                [b.confidence for b in filled], [b.accuracy for b in filled],
                color=color, marker=marker, markersize=4, label=f"{name}, ECE {found.ece:.3f}",
            )  # fmt: skip
            lower.bar(*_shares(found, (i - (len(shown) - 1) / 2) * width), width=width, color=color)
        for axes in (upper, lower):
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        upper.set_ylabel("accuracy")
        upper.set_ylim(0, 1.02)
        upper.legend(loc="upper left")
        lower.set_ylabel("share of images")
        lower.set_xlabel("confidence")
        lower.set_xlim(0, 1.01)
        lower.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _shares(found: Reliability, offset: float) -> tuple[list[float], list[float]]:
    total = sum(b.images for b in found.bins)
    return [(b.low + b.high) / 2 + offset for b in found.bins], [b.images / total for b in found.bins]


def precision_recall_figure(
    curves: Sequence[PrecisionRecall], classes: Sequence[str], theme: Theme
) -> Figure:
    """One small curve a class, on the others in grey, with its average precision."""
    columns = 5
    rows = -(-len(classes) // columns)
    with new_figure(theme, 7.6, 1.75 * rows) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, axes in enumerate(panels.flat):
            if i >= len(classes):
                axes.set_axis_off()
                continue
            for curve in curves:
                axes.plot(curve.recall, curve.precision, color=theme.grid, linewidth=0.8)
            axes.plot(curves[i].recall, curves[i].precision, color=theme.first)
            known = not np.isnan(curves[i].average_precision)
            average = f"{curves[i].average_precision:.2f}" if known else "–"
            axes.set_title(f"{classes[i]}  {average}", size=9)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        figure.supxlabel("recall", size=10, color=theme.text)
        figure.supylabel("precision", size=10, color=theme.text)
    return figure


def learning_curves_figure(rows: Sequence[Mapping[str, float | None]], watched: str, theme: Theme) -> Figure:
    """Loss and accuracy by epoch, of the training images and of the watched ones.

    Args:
        rows: of history.csv.
        watched: what the second line is about.
        theme: the colours.
    """
    epochs = [row["epoch"] for row in rows]
    with new_figure(theme, 7.6, 3.2) as figure:
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, label, color, marker in (
                (name, "training", theme.first, "o"),
                (f"val_{name}", watched, theme.second, "s"),
            ):
                axes.plot(epochs, [row[key] for row in rows], color=color, marker=marker, ms=3.5, label=label)
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def gradcam_figure(
    images: np.ndarray, maps: np.ndarray, captions: Sequence[tuple[str, str, bool]], theme: Theme
) -> Figure:
    """Pictures, and beside each the same with its map laid over it, by rows of two pairs.

    Args:
        images: uint8 [K, 32, 32, 3].
        maps: float [K, 32, 32], 0 to 1.
        captions: for each its class, what it was taken for with how sure, and whether rightly.
        theme: the colours.
    """
    columns = 2
    rows = max(1, -(-len(images) // columns))
    across, down = 84, 32
    with new_figure(theme, 3.0 * columns, 3.0 * down / across * rows) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        for i, (image, heat) in enumerate(zip(images, maps, strict=True)):
            left, top = across * (i % columns) + 2, down * (i // columns) + 1
            # The map shows through the grey picture, so that no colour of the picture is taken for heat.
            grey = image @ np.array([0.299, 0.587, 0.114]) / 255
            heated = 0.45 * grey[..., None] + 0.55 * colormaps["inferno"](heat)[..., :3]
            for shift, shown in ((0, image), (31, heated)):
                extent = (left + shift, left + shift + 30, top + 30, top)
                axes.imshow(shown, extent=extent, interpolation="nearest")
            name, guess, right = captions[i]
            axes.text(left + 63, top + 14, name, size=8.5, color=theme.text)
            axes.text(left + 63, top + 19, guess, size=8.5, color=theme.first if right else theme.second)
        axes.set_axis_off()
        axes.set_xlim(0, across * columns)
        axes.set_ylim(down * rows, 0)
    return figure


def robustness_figure(robustness: Robustness, theme: Theme) -> Figure:
    """Accuracy by corruption and severity, and by attack and strength."""
    with new_figure(theme, 7.6, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        names = [result.name.replace("_", " ") for result in robustness.corruptions]
        for severity in range(5):
            left.scatter(
                [result.accuracy[severity] for result in robustness.corruptions], range(len(names)),
                s=26, color=theme.second, alpha=0.25 + 0.15 * severity, linewidths=0,
                label=str(severity + 1),
            )  # fmt: skip
        left.axvline(robustness.clean, color=theme.first, linewidth=1.2)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.tick_params(axis="y", length=0)
        left.set_title("corruptions")
        left.xaxis.set_major_formatter(PercentFormatter(1))
        left.set_xlim(0, 1)
        # Below the axes: inside them it would look like a row of its own.
        figure.legend(loc="outside lower left", ncols=5, handletextpad=0, columnspacing=0.4, title="severity")
        for result, color, marker in zip(
            robustness.attacks, (theme.second, theme.third), ("o", "s"), strict=True
        ):
            right.plot([0, *EPSILONS], [robustness.clean, *result.accuracy], color=color, marker=marker, ms=4,
                       label=result.name)  # fmt: skip
        right.set_title("attacks")
        right.set_xlabel("largest change, in 255ths")
        right.set_xticks([0, *EPSILONS])
        right.yaxis.set_major_formatter(PercentFormatter(1))
        right.set_ylim(0, 1)
        right.legend(loc="upper right")
    return figure
