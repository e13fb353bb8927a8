"""Whether two models differ by more than chance, on the same images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import binomtest

from cifar_trainer import records
from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.plots import LINES, Theme, new_figure
from cifar_trainer.run import Run


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers (McNemar 1947; Dietterich 1998, section 3.1).

    Attributes:
        only_first: images that only the first classifies rightly.
        only_second: images that only the second does.
        statistic: (only_first - only_second)² / (only_first + only_second), to be held
            against chi-square with one degree of freedom; 0 where they never differ.
        p_value: exact and two-sided: that of only_first among their sum in a fair toss.
    """

    only_first: int
    only_second: int
    statistic: float
    p_value: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Test two classifiers by which of the same images each classified rightly: bool [N], twice."""
    first = int(np.sum(first_right & ~second_right))
    second = int(np.sum(second_right & ~first_right))
    differing = first + second
    if differing == 0:
        return McNemar(0, 0, 0.0, 1.0)
    p_value = float(binomtest(first, differing).pvalue)
    return McNemar(first, second, (first - second) ** 2 / differing, p_value)


#: Settings that may differ between the runs of a group: the seed, and what changes no result much.
_NOT_GROUPED = ("seed", "device", "deterministic", "xla")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A run, and what its report on a split says.

    Attributes:
        run, config: the run and its settings.
        accuracy, interval, loss, ece: of the split; the interval is at 95 %.
        epochs, seconds, parameters: of the training.
        joules: the GPU's energy; None where it was not measured.
        right: bool [N], which images of the split were classified rightly.
        history: the rows of history.csv.
    """

    run: Run
    config: TrainConfig
    accuracy: float
    interval: tuple[float, float]
    loss: float
    ece: float
    epochs: int
    seconds: float
    parameters: int
    joules: float | None
    right: np.ndarray
    history: list[dict[str, float | None]]

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        return {
            "run_dir": str(self.run.path),
            **{name: getattr(self.config, name) for name in ("recipe", "dataset", "seed", "precision")},
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "loss": self.loss,
            "ece": self.ece,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "energy_joules": self.joules,
            "parameters": self.parameters,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ by their seed only.

    Attributes:
        name: what tells the groups apart.
        runs: its members.
        accuracy, loss, seconds: mean and sample standard deviation (n - 1; None for one run).
    """

    name: str
    runs: tuple[Evaluated, ...]
    accuracy: tuple[float, float | None]
    loss: tuple[float, float | None]
    seconds: tuple[float, float | None]

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON object."""
        spread = {
            key: dict(zip(("mean", "standard_deviation"), getattr(self, key), strict=True))
            for key in ("accuracy", "loss", "seconds")
        }
        seeds = [each.config.seed for each in self.runs]
        return {"name": self.name, "n": len(seeds), "seeds": seeds, **spread}


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Runs beside each other.

    Attributes:
        split: what they were evaluated on.
        images: of the split.
        runs: in the order given.
        groups: by settings, in the order of their first run.
        tests: each later run against the first.
    """

    split: str
    images: int
    runs: tuple[Evaluated, ...]
    groups: tuple[Group, ...]
    tests: tuple[McNemar, ...]

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints."""
        first, *others = (str(each.run.path) for each in self.runs)
        return {
            "split": self.split,
            "images": self.images,
            "runs": [each.to_json() for each in self.runs],
            "groups": [group.to_json() for group in self.groups],
            "mcnemar": [
                {"first": first, "second": other, **dataclasses.asdict(test)}
                for other, test in zip(others, self.tests, strict=True)
            ],
        }


def read_evaluated(run: Run, split: str, images: Split) -> Evaluated | None:
    """What a run's report says; None where there is none, or it is about other weights or another order.

    Args:
        run: the run.
        split: `test` or `validation`.
        images: of the split; the labels are used.

    Raises:
        RunError: one of the run's files cannot be read.
    """
    folder = run.evaluation(split)
    if not (folder / "report.json").is_file() or not (folder / "logits.npy").is_file():
        return None
    report, result = records.read(folder / "report.json", dict[str, Any]), run.read_result()
    if report.get("weights_sha256") != result.weights_sha256:
        return None
    if report.get("split_sha256") != images.sha256:
        return None
    try:
        logits = np.load(folder / "logits.npy", allow_pickle=False)
        history = run.read_history()
        joules = [row["energy_joules"] for row in history if row["energy_joules"] is not None]
        return Evaluated(
            run=run,
            config=run.read_config(),
            accuracy=float(report["accuracy"]),
            interval=(float(report["accuracy_interval"][0]), float(report["accuracy_interval"][1])),
            loss=float(report["loss"]),
            ece=float(report["calibration"]["before"]["ece"]),
            epochs=result.epochs,
            seconds=result.seconds,
            parameters=result.parameters,
            joules=float(sum(joules)) if joules else None,
            right=logits.argmax(axis=1) == images.labels,
            history=history,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"{folder} cannot be read ({error}). Write it anew: cifar-trainer evaluate {run.path}"
        ) from error


def check_comparable(configs: Sequence[tuple[Run, TrainConfig]], split: str) -> None:
    """Raise UsageError unless there are two runs or more, each once, with the same images in `split`."""
    if len(configs) < 2:
        raise UsageError("compare needs two runs or more. `cifar-trainer runs` lists what is there.")
    paths = [run.path.resolve() for run, _ in configs]
    doubled = next((path for path in paths if paths.count(path) > 1), None)
    if doubled is not None:
        raise UsageError(f"{doubled} was named twice. Name each run once.")
    first = configs[0][1].dataset
    for run, config in configs:
        if config.dataset != first:
            raise UsageError(
                f"{run.path} was trained on {config.dataset}, {configs[0][0].path} on {first}; "
                "accuracies on different data do not compare."
            )
        if split == "validation" and (config.validation, config.seed) != ("holdout", configs[0][1].seed):
            raise UsageError(
                f"--split validation: {run.path} did not hold out the same images as {configs[0][0].path}; "
                "only runs with --validation holdout and one seed do. Compare them on --split test."
            )


def compare(split: str, runs: Sequence[Evaluated]) -> Comparison:
    """Set runs beside each other; all were evaluated on the same images of `split`."""
    return Comparison(
        split=split,
        images=len(runs[0].right),
        runs=tuple(runs),
        groups=group(runs),
        tests=tuple(mcnemar(runs[0].right, other.right) for other in runs[1:]),
    )


def group(runs: Sequence[Evaluated]) -> tuple[Group, ...]:
    """Put together the runs that have the same settings but for the seed."""
    groups: dict[tuple[tuple[str, Any], ...], list[Evaluated]] = {}
    for each in runs:
        settings = {k: v for k, v in each.config.to_json().items() if k not in _NOT_GROUPED}
        groups.setdefault(tuple({**settings, "epochs": each.epochs}.items()), []).append(each)
    varied = {
        name for key in groups for name, value in key if any(dict(other)[name] != value for other in groups)
    }
    return tuple(_group(dict(key), varied, members) for key, members in groups.items())


def _group(settings: dict[str, Any], varied: set[str], members: list[Evaluated]) -> Group:
    told = [settings["recipe"]]
    told += [f"{k} {v}" for k, v in settings.items() if k in varied and k != "recipe"]
    return Group(
        name=", ".join(told),
        runs=tuple(members),
        accuracy=_spread([each.accuracy for each in members]),
        loss=_spread([each.loss for each in members]),
        seconds=_spread([each.seconds for each in members]),
    )


def _spread(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


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
