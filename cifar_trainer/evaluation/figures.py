"""The figures of a report: functions from numbers to Matplotlib figures.

The confusion matrix and the gallery, which training shows too, are in `cifar_trainer.plots`.
With many classes, a figure shows the worst ones. Half-width figures are 6 inches wide and full-width
ones 12.4, so that all text has the same size on the page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.metrics import Calibration, PrecisionRecall, Reliability
from cifar_trainer.plots import (
    LINES,
    Figure,
    LineCollection,
    MaxNLocator,
    PercentFormatter,
    Theme,
    as_rgb,
    drawable_names,
    new_figure,
    shorten,
)

#: Maximum number of rows of `per_class_figure`, and of panels of `precision_recall_figure`.
ROWS, PANELS = 30, 20


def per_class_figure(per_class: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    """Precision and recall by class with 95 % intervals; of many classes, those with the lowest F1."""
    names = drawable_names([row["class"] for row in per_class])
    named = list(zip(per_class, names, strict=True))
    shown = sorted(named, key=lambda pair: pair[0]["f1"])[:ROWS] if len(named) > ROWS else named
    positions = np.arange(len(shown), dtype=float)
    with new_figure(theme, 6.0, max(5.6, 0.9 + 0.25 * len(shown))) as figure:
        axes = figure.add_subplot()
        for name, offset, color, marker in (
            ("precision", -0.16, theme.first, "o"),
            ("recall", 0.16, theme.second, "s"),
        ):
            # A class that was never predicted has no precision.
            at = [i for i, (row, _) in enumerate(shown) if name == "recall" or row["predicted"]]
            if not at:
                continue
            values = np.array([shown[i][0][name] for i in at])
            bounds = np.array([shown[i][0][f"{name}_interval"] for i in at]).T
            axes.errorbar(
                values, positions[at] + offset, xerr=np.abs(bounds - values), fmt=marker, color=color,
                markersize=5, elinewidth=1.6, capsize=0, label=name,
            )  # fmt: skip
        axes.set_yticks(positions, [shorten(name, 24) for _, name in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def reliability_figure(calibration: Calibration, theme: Theme) -> Figure:
    """Accuracy by confidence, and below it the share of images by confidence."""
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
        for i, (name, reliability, color, marker) in enumerate(shown):
            filled = [b for b in reliability.bins if b.images]
            upper.plot(
                [b.confidence for b in filled], [b.accuracy for b in filled],
                color=color, marker=marker, markersize=4, label=f"{name}, ECE {reliability.ece:.3f}",
            )  # fmt: skip
            lower.bar(*_shares(reliability, (i - (len(shown) - 1) / 2) * width), width=width, color=color)
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


def _shares(reliability: Reliability, offset: float) -> tuple[list[float], list[float]]:
    """Positions and heights of the bars: the share of images in each bin."""
    bins = reliability.bins
    total = sum(b.images for b in bins)
    return [(b.low + b.high) / 2 + offset for b in bins], [b.images / total for b in bins]


def precision_recall_figure(
    curves: Sequence[PrecisionRecall], classes: Sequence[str], theme: Theme
) -> Figure:
    """One panel per class, other classes in grey; of many, those with the lowest average precision."""
    shown = list(range(len(classes)))
    if len(shown) > PANELS:
        averages = np.array([curve.average_precision for curve in curves])
        # A class without images has no average precision and sorts last.
        shown = np.argsort(averages, kind="stable")[:PANELS].tolist()
    names = drawable_names(classes)
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
            axes.set_title(f"{shorten(names[label], 40 // columns)}  {average}", size=9)
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
    """Training and validation loss and accuracy by epoch.

    Args:
        rows: the rows of history.csv.
        validation: label of the validation images.
        theme: the colours.
    """
    epochs = [row["epoch"] for row in rows]
    with new_figure(theme, 12.4, 4.2) as figure:
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, label, color, marker in (
                (name, "training", theme.first, "o"),
                (f"val_{name}", validation, theme.second, "s"),
            ):
                axes.plot(epochs, [row[key] for row in rows], color=color, marker=marker, ms=3.5, label=label)
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def heat_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map from yellow to red over the grey image, as on the page of `serve`: float [H, W, 3].

    The image is grey, so that its colours cannot be mistaken for heat.
    """
    grey = as_rgb(image) @ np.array([0.299, 0.587, 0.114]) / 255
    color = np.stack([np.ones_like(heat), (200 - 178 * heat) / 255, np.zeros_like(heat)], axis=-1)
    alpha = 0.75 * heat[..., None]
    mixed = (1 - alpha) * grey[..., None] + alpha * color
    # Rounding can slightly exceed 1, which makes Matplotlib warn.
    overlay: np.ndarray = np.clip(mixed, 0, 1)
    return overlay


def gradcam_figure(
    images: np.ndarray, maps: np.ndarray, captions: Sequence[tuple[str, str, bool]], theme: Theme
) -> Figure:
    """Pairs of an image and its overlaid heat map, two pairs per row.

    Args:
        images: uint8 [K, H, W, C], of one or three channels.
        maps: float [K, H, W], 0 to 1.
        captions: class, prediction and whether it is correct, for each image.
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
            for shift, layer in ((0, as_rgb(image)), (31, heat_overlay(image, heat))):
                extent = (left + shift, left + shift + 30, top + 30, top)
                axes.imshow(layer, extent=extent, interpolation="nearest")
            name, prediction, correct = captions[i]
            color = theme.first if correct else theme.second
            axes.text(left + 63, top + 14, shorten(name, 13), size=8.5, color=theme.text)
            axes.text(left + 63, top + 19, shorten(prediction, 18), size=8.5, color=color)
        axes.set_axis_off()
        axes.set_xlim(0, across * columns)
        axes.set_ylim(down * rows, 0)
    return figure


def robustness_figure(robustness: Robustness, theme: Theme) -> Figure:
    """Accuracy by corruption and severity, and by attack and strength."""
    severities, epsilons = robustness.severities, robustness.epsilons_255
    with new_figure(theme, 12.4, 5.6) as figure:
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
        # Below the axes; inside, it would look like another row.
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
    """Histograms of the energy of the split's images and of other kinds, with the threshold.

    Args:
        energies: float [N] by name, the split's first.
        threshold: images above it are called unfamiliar.
        theme: the colours.
    """
    low, high = np.percentile(np.concatenate(list(energies.values())), (0.5, 99.5))
    edges = np.linspace(low, high, 61)
    with new_figure(theme, 12.4, 4.0) as figure:
        axes = figure.add_subplot()
        for i, (name, values) in enumerate(energies.items()):
            shares, _ = np.histogram(values, edges)
            color = theme.first if i == 0 else (theme.second, theme.third, *LINES[3:])[(i - 1) % 6]
            axes.stairs(shares / len(values), edges, color=color, linewidth=1.6, fill=i == 0,
                        alpha=0.45 if i == 0 else 1, label=shorten(name, 40))  # fmt: skip
        axes.axvline(threshold, color=theme.muted, linewidth=1.2, linestyle="--", label="threshold")
        axes.set_xlabel("energy")
        axes.set_ylabel("share of images")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(loc="outside upper left", ncols=4)
    return figure
