"""The figures of a report: each a function from numbers to a Matplotlib figure.

The confusion matrix and the gallery, which training shows too, are in `cifar_trainer.plots`.
Where there are more classes than a figure can show, it shows those that need attention most.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar_trainer.evaluation.calibration import Calibration, Reliability
from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.metrics import PrecisionRecall
from cifar_trainer.plots import (
    LINES,
    Figure,
    LineCollection,
    MaxNLocator,
    PercentFormatter,
    Theme,
    as_rgb,
    colormaps,
    new_figure,
    shorten,
)

#: At most so many rows of `per_class_figure` and panels of `precision_recall_figure`.
ROWS, PANELS = 30, 20


def per_class_figure(per_class: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    """Precision and recall of each class, with their 95 % intervals; of many, those with the lowest F1."""
    shown = sorted(per_class, key=lambda row: row["f1"])[:ROWS] if len(per_class) > ROWS else per_class
    places = np.arange(len(shown), dtype=float)
    with new_figure(theme, 6.0, max(5.6, 0.9 + 0.25 * len(shown))) as figure:
        axes = figure.add_subplot()
        for name, offset, color, marker in (
            ("precision", -0.16, theme.first, "o"),
            ("recall", 0.16, theme.second, "s"),
        ):
            values = np.array([row[name] for row in shown])
            bounds = np.array([row[f"{name}_interval"] for row in shown]).T
            axes.errorbar(
                values, places + offset, xerr=np.abs(bounds - values), fmt=marker, color=color,
                markersize=5, elinewidth=1.6, capsize=0, label=name,
            )  # fmt: skip
        axes.set_yticks(places, [shorten(row["class"], 24) for row in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
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
        upper.plot(
            [0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--", label="confidence = accuracy"
        )
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
        lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
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
    """A small curve for each class, the others in grey; of many, those of the lowest average precision."""
    shown = list(range(len(classes)))
    if len(shown) > PANELS:
        averages = np.array([curve.average_precision for curve in curves])
        # A class without images has none, and comes last.
        shown = np.argsort(averages, kind="stable")[:PANELS].tolist()
    columns = 3 if len(shown) <= 12 else 4
    rows = -(-len(shown) // columns)
    paths = [np.column_stack([curves[label].recall, curves[label].precision]) for label in shown]
    with new_figure(theme, 6.0, max(2.4, 1.4 * rows)) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, label in zip(panels.flat, shown, strict=False):
            axes.add_collection(LineCollection(paths, colors=theme.grid, linewidths=0.8), autolim=False)
            curve = curves[label]
            axes.plot(curve.recall, curve.precision, color=theme.first)
            known = not np.isnan(curve.average_precision)
            average = f"{curve.average_precision:.2f}" if known else "–"
            axes.set_title(f"{shorten(classes[label], 40 // columns)}  {average}", size=9)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        figure.supxlabel("recall", size=10, color=theme.text)
        figure.supylabel("precision", size=10, color=theme.text)
    return figure


def learning_curves_figure(
    rows: Sequence[Mapping[str, float | None]], validation: str, theme: Theme
) -> Figure:
    """Loss and accuracy by epoch, of the training images and of those that validate.

    Args:
        rows: of history.csv.
        validation: which images those are.
        theme: the colours.
    """
    epochs = [row["epoch"] for row in rows]
    with new_figure(theme, 7.6, 3.2) as figure:
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, label, color, marker in (
                (name, "training", theme.first, "o"),
                (f"val_{name}", validation, theme.second, "s"),
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
    """Images, and beside each the same with its map laid over it, in rows of two pairs.

    Args:
        images: uint8 [K, H, W, C], square, of one or three channels.
        maps: float [K, H, W], 0 to 1.
        captions: for each its class, the prediction, and whether it is correct.
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
            # The map shows through the grey image, so that no colour of the image is taken for heat.
            grey = as_rgb(image) @ np.array([0.299, 0.587, 0.114]) / 255
            heated = 0.45 * grey[..., None] + 0.55 * colormaps["inferno"](heat)[..., :3]
            for shift, layer in ((0, as_rgb(image)), (31, heated)):
                extent = (left + shift, left + shift + 30, top + 30, top)
                axes.imshow(layer, extent=extent, interpolation="nearest")
            name, prediction, correct = captions[i]
            color = theme.first if correct else theme.second
            axes.text(left + 63, top + 14, shorten(name, 13), size=8.5, color=theme.text)
            axes.text(left + 63, top + 19, prediction, size=8.5, color=color)
        axes.set_axis_off()
        axes.set_xlim(0, across * columns)
        axes.set_ylim(down * rows, 0)
    return figure


def robustness_figure(robustness: Robustness, theme: Theme) -> Figure:
    """Accuracy by corruption and severity, and by attack and strength."""
    severities, epsilons = robustness.severities, robustness.epsilons_255
    with new_figure(theme, 7.6, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        names = [result.name.replace("_", " ") for result in robustness.corruptions]
        for i, severity in enumerate(severities):
            left.scatter(
                [result.accuracy[i] for result in robustness.corruptions], range(len(names)),
                s=26, color=theme.second, alpha=0.25 + 0.6 * i / max(1, len(severities) - 1), linewidths=0,
                label=str(severity),
            )  # fmt: skip
        left.axvline(robustness.clean, color=theme.first, linewidth=1.2)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.tick_params(axis="y", length=0)
        left.set_title("corruptions")
        left.xaxis.set_major_formatter(PercentFormatter(1))
        left.set_xlim(0, 1)
        # Below the axes: inside them it would look like a row of its own.
        figure.legend(loc="outside lower left", ncols=len(severities), handletextpad=0, columnspacing=0.4,
                      title="severity")  # fmt: skip
        for result, color, marker in zip(
            robustness.attacks, (theme.second, theme.third), ("o", "s"), strict=True
        ):
            right.plot([0, *epsilons], [robustness.clean, *result.accuracy], color=color, marker=marker, ms=4,
                       label=result.name)  # fmt: skip
        right.set_title("attacks")
        right.set_xlabel("largest change, in 255ths")
        right.set_xticks([0, *epsilons])
        right.yaxis.set_major_formatter(PercentFormatter(1))
        right.set_ylim(0, 1)
        right.legend(loc="upper right")
    return figure


def unfamiliar_figure(energies: Mapping[str, np.ndarray], threshold: float, theme: Theme) -> Figure:
    """How the energy of familiar images and of each other kind is distributed, and the threshold.

    Args:
        energies: float [N] by name; the first are the images of the split.
        threshold: images above it are called unfamiliar.
        theme: the colours.
    """
    low, high = np.percentile(np.concatenate(list(energies.values())), (0.5, 99.5))
    edges = np.linspace(low, high, 61)
    with new_figure(theme, 7.6, 2.9) as figure:
        axes = figure.add_subplot()
        for i, (name, values) in enumerate(energies.items()):
            shares, _ = np.histogram(values, edges)
            color = theme.first if i == 0 else (theme.second, theme.third, *LINES[3:])[(i - 1) % 6]
            axes.stairs(shares / len(values), edges, color=color, linewidth=1.6, fill=i == 0,
                        alpha=0.45 if i == 0 else 1, label=shorten(name, 40))  # fmt: skip
        axes.axvline(threshold, color=theme.muted, linewidth=1.2, linestyle="--", label="threshold")
        axes.set_xlabel("energy")
        axes.set_ylabel("share of images")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.legend(loc="outside upper left", ncols=4)
    return figure
