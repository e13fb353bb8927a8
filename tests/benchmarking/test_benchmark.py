"""`benchmark`: percentiles and rates of what was timed, and every artefact in the table."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cifar_trainer.artefacts.formats import Artefact
from cifar_trainer.benchmarking import (
    LEAST_CALLS,
    Latency,
    LatencyBenchmark,
    Timing,
    latency_figure,
    measure_latency,
)
from cifar_trainer.cli.benchmark import latency_table
from cifar_trainer.images import Preprocessing
from cifar_trainer.plots import LIGHT, pixels

RunCli = Callable[..., subprocess.CompletedProcess[str]]


class Clockwork(Artefact):
    """An artefact whose n-th call takes n milliseconds, by a clock of its own."""

    format, classes, preprocessing = "clockwork", (), Preprocessing((28, 28, 1))

    def __init__(self) -> None:
        self.now, self.calls, self.shapes = 0.0, 0, set()

    def predict(self, images: np.ndarray) -> None:
        self.calls += 1
        self.shapes.add((images.shape, images.dtype.name))
        self.now += self.calls / 1000

    def clock(self) -> float:
        return self.now


def test_percentiles_and_throughput_are_of_the_calls_after_the_warm_up() -> None:
    made = Clockwork()
    timing = measure_latency(made, 8, seconds=0.001, clock=made.clock)
    warm_up = made.calls - LEAST_CALLS
    assert timing.calls == LEAST_CALLS
    assert warm_up >= 3
    durations = np.arange(warm_up + 1, made.calls + 1)
    assert timing.p50_ms == pytest.approx(np.percentile(durations, 50))
    assert timing.p99_ms == pytest.approx(np.percentile(durations, 99))
    assert timing.images_per_second == pytest.approx(8 * LEAST_CALLS / (durations.sum() / 1000))
    assert made.shapes == {((8, 28, 28, 1), "uint8")}


PATHS = ("x/a.onnx", "x/b.onnx", "more/b.onnx", "one/export/c.onnx", "two/export/c.onnx")
TIMINGS = tuple(Timing(size, 100, size / 10, size / 9, size / 8, 1000.0 * size) for size in (1, 8, 64))
MEASURED = tuple(Latency(path, "onnx", "cpu", 1, TIMINGS) for path in PATHS)


def test_the_figure_has_a_line_for_each_artefact() -> None:
    figure = latency_figure(MEASURED, LIGHT)
    _, right = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a.onnx", "x/b.onnx", "more/b.onnx", "one/export/c.onnx", "two/export/c.onnx",
    ]  # fmt: skip
    assert len(right.lines) == 5


def test_artefacts_of_the_same_speed_can_be_told_apart_in_the_figure() -> None:
    """Whiskers stand side by side, and each artefact has a marker of its own in both panels."""
    figure = latency_figure(MEASURED, LIGHT)
    left, right = figure.axes
    pixels(figure)
    series = left.containers
    for size in range(len(TIMINGS)):
        whiskers = [each.lines[2][0].get_segments()[size] for each in series]
        across = sorted(left.transData.transform(whisker)[0][0] for whisker in whiskers)
        assert np.diff(across).min() > 2, "pixels"
    for lines in ([each.lines[0] for each in series], right.lines):
        assert len({line.get_marker() for line in lines}) == len(PATHS)


@pytest.mark.parametrize("slowest", [0.22, 0.4, 5, 5000])
def test_the_axis_of_the_latency_has_plain_numbers_however_narrow_its_range(slowest: float) -> None:
    timings = tuple(Timing(size, 100, ms, ms, ms, 1000 / ms) for size, ms in ((1, 0.21), (8, slowest)))
    figure = latency_figure([Latency("a.onnx", "onnx", "cpu", 1, timings)], LIGHT)
    pixels(figure)
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    texts = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    numbers = [float(text) for text in texts if text]
    assert len(set(numbers)) == len(numbers) >= 3


@pytest.mark.parametrize("width", [120, 60, 34])
def test_the_table_fits_the_terminal_and_keeps_the_latency(width: int) -> None:
    shown = io.StringIO()
    Console(file=shown, width=width).print(latency_table(LatencyBenchmark("a CPU", {}, MEASURED), width))
    assert max(len(line.rstrip()) for line in shown.getvalue().splitlines()) <= width
    assert ("size" in shown.getvalue()) == (width == 120)
    assert "p50 ms" in shown.getvalue()
    assert "…" not in shown.getvalue()


def test_artefacts_are_measured_at_each_batch_size(
    run_cli: RunCli, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    paths = [path for name, path in artefacts.items() if name in ("litert", "onnx", "saved_model")]
    sizes = ["--batch-size", 1, "--batch-size", 8]
    plot = tmp_path / "latency.png"
    done = run_cli(["benchmark", *paths, *sizes, "--seconds", 0.01, "--plot", plot, "--json"])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"versions", "processor", "device"} <= set(result["environment"])
    assert [each["artefact"] for each in result["artefacts"]] == [str(path) for path in paths]
    for each in result["artefacts"]:
        assert [timing["batch_size"] for timing in each["timings"]] == [1, 8]
        for timing in each["timings"]:
            assert 0 < timing["p50_ms"] <= timing["p95_ms"] <= timing["p99_ms"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_training_a_recipe_is_measured_in_silence_and_nothing_is_written(
    run_cli: RunCli, tmp_path: Path
) -> None:
    arguments = ["-q", "benchmark", "--train", "--seconds", 0.1, "--device", "cpu", "--json"]
    done = run_cli(arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    training = json.loads(done.stdout)["training"]
    assert (training["recipe"], training["batch_size"], training["device"]) == ("tutorial", 32, "cpu")
    assert training["images_per_second"] == pytest.approx(32 * training["steps"] / training["seconds"])
    assert training["joules_per_image"] is None
    assert not list(tmp_path.iterdir())
