"""Latency and throughput by batch size, in one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cifar_trainer.benchmarking.latency import Measured
from cifar_trainer.plots import LINES, Theme, new_figure

LEGEND_COLUMNS = 4


def latency_figure(measured: Sequence[Measured], theme: Theme) -> Figure:
    """Left the median latency, up to p99 as a bar; right images a second; a line an artefact."""
    names = labels(measured)
    with new_figure(theme, 9.6, 4.2 + 0.25 * -(-len(measured) // LEGEND_COLUMNS)) as figure:
        left, right = figure.subplots(1, 2)
        for i, each in enumerate(measured):
            color = LINES[i % len(LINES)]
            sizes = [timing.batch_size for timing in each.timings]
            p50 = [timing.p50_ms for timing in each.timings]
            above = [timing.p99_ms - timing.p50_ms for timing in each.timings]
            left.errorbar(
                sizes, p50, yerr=([0] * len(p50), above), color=color, marker="o", ms=4, label=names[i]
            )
            rates = [timing.images_per_second for timing in each.timings]
            right.plot(sizes, rates, color=color, marker="o", ms=4)
        for axes, title in ((left, "latency in ms: median, and up to p99"), (right, "images a second")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel("batch size")
            axes.set_title(title)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        right.set_ylim(bottom=0)
        right.yaxis.set_major_formatter("{x:,.0f}")
        # Below both: inside, it would hide lines.
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    return figure


def labels(measured: Sequence[Measured]) -> list[str]:
    """A short name for each: the file's, with as many folders as tell it from the others, and the device."""
    paths = {Path(each.artefact) for each in measured}
    devices = {each.device for each in measured}
    names = [_short(Path(each.artefact), paths) for each in measured]
    if len(devices) == 1:
        return names
    return [f"{name}, {each.device}" for name, each in zip(names, measured, strict=True)]


def _short(path: Path, paths: set[Path]) -> str:
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if sum(other.parts[-count:] == end for other in paths) == 1:
            return "/".join(end)
    return str(path)
