"""Latency and throughput by batch size, in one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cifar_trainer.benchmarking.latency import Measured
from cifar_trainer.plots import LINES, Theme, new_figure


def latency_figure(measured: Sequence[Measured], theme: Theme) -> Figure:
    """Left the median latency, up to p99 as a bar; right images a second; a line an artefact."""
    several = len({each.device for each in measured}) > 1
    with new_figure(theme, 9.6, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        for i, each in enumerate(measured):
            color = LINES[i % len(LINES)]
            name = Path(each.artefact).name + (f", {each.device}" if several else "")
            sizes = [timing.batch_size for timing in each.timings]
            p50 = [timing.p50_ms for timing in each.timings]
            above = [timing.p99_ms - timing.p50_ms for timing in each.timings]
            left.errorbar(sizes, p50, yerr=([0] * len(p50), above), color=color, marker="o", ms=4, label=name)
            rates = [timing.images_per_second for timing in each.timings]
            right.plot(sizes, rates, color=color, marker="o", ms=4)
        for axes, title in ((left, "latency in ms: median, and up to p99"), (right, "images a second")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel("batch size")
            axes.set_title(title)
        left.legend()
    return figure
