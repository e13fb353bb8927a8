"""Accuracy against time on a CPU: whole processes of `train` and of the script of TensorFlow's CNN tutorial.

    python benchmarks/pareto.py --data-dir data --output pareto.json --plot pareto.svg
    python benchmarks/pareto.py --airbench cifar10-airbench --torch VENV/bin/python
    python benchmarks/pareto.py --draw-only --output first.json --also second.json --plot pareto.svg

Each run is a new process, timed from start to exit, on all training images. Its accuracy is measured on the
test set after the last epoch, and for `train` only then (`--validate end`); the script also measures it after
each epoch, as the tutorial does. A run's seed is the number of the round. The contestants take turns, so that
a slow phase of the machine affects all of them. Times are ratios to the script's median time, T. Results are
saved after each run; calling the script again continues from them. Results of several sessions can be drawn
together, each relative to its own T. bfloat16 needs a processor that supports it.

airbench94 in PyTorch takes part if `--airbench` names a clone of github.com/KellerJordan/cifar10-airbench and
`--torch` an interpreter with PyTorch and torchvision (see airbench.py).
"""

import argparse
import csv
import dataclasses
import json
import os
import platform
import re
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from against_listing import ROOT, processor, run

#: The contestant whose median time is T.
SCRIPT = "the tutorial's script"
#: airbench94 with Muon in PyTorch, by airbench.py.
AIRBENCH = "airbench94_muon"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A recipe and a number of epochs to train it for.

    Attributes:
        recipe: the recipe, `SCRIPT` or `AIRBENCH`.
        epochs: number of epochs.
        precision: the value of `--precision`.
        rounds: number of runs.
        above: whether the plot's label is above the point, where the space below is taken.
    """

    recipe: str
    epochs: int
    precision: str = "float32"
    rounds: int = 3
    above: bool = False

    @property
    def name(self) -> str:
        """The name in tables and in the saved results."""
        return f"{self.recipe}, {self.epochs} epochs, {self.precision}"


CONTESTANTS = (
    Contestant(SCRIPT, 10),
    Contestant("cpu90", 6, "bfloat16", rounds=5),
    Contestant("cpu90", 6, rounds=5),
    Contestant("cpu90", 1, "bfloat16"),
    Contestant("cpu90", 2, "bfloat16"),
    Contestant("tutorial", 10, above=True),
    Contestant("regularized", 5, above=True),
    Contestant("regularized", 20),
    Contestant("fast94", 9, "bfloat16"),
    Contestant(AIRBENCH, 8, "bfloat16", above=True),
)


def measure(contestant: Contestant, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and accuracy of one run in a new process."""
    data = ["--data-dir", str(options.data_dir), "--dataset", options.dataset]
    data += [] if options.limit is None else ["--limit", str(options.limit)]
    if contestant.recipe == AIRBENCH:
        command = [str(options.torch), str(ROOT / "benchmarks" / "airbench.py"), str(options.airbench), *data]
        return timed([*command, "--precision", contestant.precision, "--seed", str(seed)])
    epochs = ["--epochs", str(contestant.epochs)]
    if contestant.recipe == SCRIPT:
        return timed([sys.executable, str(ROOT / "examples" / "listing.py"), *data, *epochs])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cifar_trainer", "train", "--quiet", "--offline", *data, *epochs]
        command += ["--validate", "end"]
        command += ["--recipe", contestant.recipe, "--precision", contestant.precision, "--device", "cpu"]
        done = run([*command, "--seed", str(seed), "--run-dir", f"{folder}/run"], "cpu")
        with open(f"{folder}/run/history.csv", encoding="utf-8") as file:
            accuracy = list(csv.DictReader(file))[-1]["val_accuracy"]
    return {"seconds": done["seconds"], "accuracy": float(accuracy)}


def timed(command: list[str]) -> dict[str, float]:
    """Seconds and accuracy of a command that prints its accuracy at the end."""
    done = run(command, "cpu")
    accuracy = re.findall(r"test accuracy: ([\d.]+)", done["output"])[-1]
    return {"seconds": done["seconds"], "accuracy": float(accuracy)}


def format_table(runs: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table: the time of each contestant, and the mean and range of its accuracy."""
    lines = ["| | n | median s | share of T | mean accuracy | lowest, highest |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, done in runs.items():
        seconds, accuracies = median_seconds(done), [each["accuracy"] for each in done]
        lines.append(
            f"| {name} | {len(done)} | {seconds:.1f} | {seconds / reference(runs):.2f} "
            f"| {statistics.fmean(accuracies):.2%} | {min(accuracies):.2%}, {max(accuracies):.2%} |"
        )
    return "\n".join(lines)


def finished(results: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The runs of the contestants that have any."""
    return {name: done for name, done in results["runs"].items() if done}


def median_seconds(done: list[dict[str, float]]) -> float:
    """The median time of a contestant's runs."""
    return statistics.median(each["seconds"] for each in done)


def reference(runs: dict[str, list[dict[str, float]]]) -> float:
    """T, the script's median time in s; NaN if it did not run."""
    done = runs.get(CONTESTANTS[0].name)
    return median_seconds(done) if done else float("nan")


def draw(sessions: list[dict[str, list[dict[str, float]]]], path: Path) -> None:
    """Draw the accuracy of each contestant against its share of its session's T, with the range of its runs.

    A contestant of several sessions is drawn for the first of them.
    """
    from matplotlib.ticker import LogLocator

    from cifar_trainer.plots import LIGHT, LINES, PercentFormatter, new_figure, render

    recipes = list(dict.fromkeys(each.recipe for each in CONTESTANTS))
    with new_figure(LIGHT, 7, 4) as figure:
        axes = figure.add_subplot()
        for contestant in CONTESTANTS:
            runs = next((each for each in sessions if contestant.name in each), None)
            if runs is None:
                continue
            done = runs[contestant.name]
            shares = [each["seconds"] / reference(runs) for each in done]
            accuracies = [each["accuracy"] for each in done]
            x, y = statistics.median(shares), statistics.fmean(accuracies)
            color = LINES[recipes.index(contestant.recipe)]
            axes.errorbar(
                x, y, [[y - min(accuracies)], [max(accuracies) - y]], [[x - min(shares)], [max(shares) - x]],
                fmt="o" if contestant.precision == "float32" else "s", color=color, capsize=2,
            )  # fmt: skip
            plural = "" if contestant.epochs == 1 else "s"
            label = f"{contestant.recipe}\n{contestant.epochs} epoch{plural}"
            end, shift, va = (max, 5, "bottom") if contestant.above else (min, -5, "top")
            axes.annotate(
                label, (x, end(accuracies)), (0, shift), textcoords="offset points", ha="center", va=va,
                color=color, fontsize=8,
            )  # fmt: skip
        axes.set_xlabel("time of the whole process / time of the tutorial's script")
        axes.set_ylabel("accuracy on the test set")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
        axes.margins(0.2)
        # The longest runs take more than twenty times as long as the shortest.
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title("○ float32   □ bfloat16   bars: all runs", fontsize=8)
        path.write_bytes(render(figure, path.suffix[1:]))


def main() -> None:
    """Run the contestants in turn, print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--limit", type=int, help="train on only the first LIMIT images, for a quick look")
    parser.add_argument("--only", nargs="*", default=[], help="contestants whose names contain one of these")
    parser.add_argument("--rounds", type=int, help="default: three, and five of cpu90")
    parser.add_argument(
        "--output", type=Path, default=Path("pareto.json"), help="save or continue the results"
    )
    parser.add_argument("--airbench", type=Path, help="a clone of KellerJordan/cifar10-airbench")
    parser.add_argument("--torch", default=sys.executable, help="the interpreter for airbench94_muon")
    parser.add_argument("--plot", type=Path, help="PNG or SVG file")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="results of other sessions to draw")
    parser.add_argument("--draw-only", action="store_true", help="print and draw the saved results")
    options = parser.parse_args()

    results: dict[str, Any] = {
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
            "tensorflow": version("tensorflow"), "keras": version("keras"),
        },
        "runs": {},
    }  # fmt: skip
    if options.output.is_file():
        results = json.loads(options.output.read_text(encoding="utf-8"))
    chosen = [
        each
        for each in CONTESTANTS
        if (not options.only or any(word in each.name for word in options.only))
        and (each.recipe != AIRBENCH or options.airbench)
    ]
    if not chosen:
        parser.error("no contestant is left; airbench94_muon needs --airbench")
    for seed in range(0 if options.draw_only else max(each.rounds for each in chosen)):
        for contestant in chosen:
            done = results["runs"].setdefault(contestant.name, [])
            if len(done) > seed or seed >= (options.rounds or contestant.rounds):
                continue
            done.append(measure(contestant, seed, options))
            print(contestant.name, done[-1], flush=True)
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    runs = finished(results)
    print(json.dumps(results["machine"], indent=2))
    print(f"T: {reference(runs):.1f} s")
    print(format_table(runs))
    if options.plot:
        others = [finished(json.loads(path.read_text(encoding="utf-8"))) for path in options.also]
        draw([runs, *others], options.plot)


if __name__ == "__main__":
    main()
