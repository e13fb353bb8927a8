"""Compare runs: metrics, groups of seeds, and whether two models differ by more than chance.

Does not import TensorFlow, and imports Matplotlib only to draw.
"""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import files
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.splits import check_split, evaluated_split
from cifar_trainer.errors import CifarTrainerError, DataError, DeviceError, RunError, UsageError
from cifar_trainer.evaluation.evaluate import LOGITS_FILE, REPORT_FILE, SPLITS
from cifar_trainer.evaluation.subject import total_energy
from cifar_trainer.process import module_command
from cifar_trainer.results import Result
from cifar_trainer.run import Run, open_run
from cifar_trainer.settings import Settings, check_choice

if TYPE_CHECKING:
    from cifar_trainer.plots import Figure, Theme


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers (McNemar 1947; Dietterich 1998, section 3.1).

    Attributes:
        only_first: number of images that only the first classifies correctly.
        only_second: number of images that only the second classifies correctly.
        statistic: (only_first - only_second)² / (only_first + only_second), chi-square distributed with one
            degree of freedom; 0 if the two never differ.
        p_value: exact and two-sided, by the binomial test of only_first among the images where they differ.
    """

    only_first: int
    only_second: int
    statistic: float
    p_value: float


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> McNemar:
    """Compare two classifiers by the images that each classified correctly, both bool [N]."""
    # Imported here because it is slow, and a usage error need not wait for it.
    from scipy.stats import binomtest

    first = int(np.sum(first_correct & ~second_correct))
    second = int(np.sum(second_correct & ~first_correct))
    differing = first + second
    if differing == 0:
        return McNemar(0, 0, 0.0, 1.0)
    p_value = float(binomtest(first, differing).pvalue)
    return McNemar(first, second, (first - second) ** 2 / differing, p_value)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A run and the metrics of its report on a split.

    Attributes:
        run, config: the run and its settings.
        accuracy, interval, loss, ece: on the split; the interval is the accuracy's 95 % interval.
        epochs, seconds, parameters: as in the run's result.
        joules: energy that the GPU used for the training; None if it was not measured.
        test_looks: number of looks at the run's test set so far.
        correct: bool [N], whether each image of the split was classified correctly.
        history: rows of history.csv up to the end of training.
    """

    run: Run
    config: Settings
    accuracy: float
    interval: tuple[float, float]
    loss: float
    ece: float
    epochs: int
    seconds: float
    parameters: int
    joules: float | None
    test_looks: int
    correct: np.ndarray
    history: Sequence[Mapping[str, float | None]]

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
            "test_looks": self.test_looks,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        name: the recipe, and the settings that differ between groups.
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
class Comparison(Result):
    """Runs compared on the same images.

    Attributes:
        split: `test` or `validation`.
        images: number of images.
        runs: in the given order.
        groups: by settings, in the order of their first run.
        tests: each other run against the first.
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


def compare(
    runs: Sequence[str | Path],
    *,
    split: str = "test",
    data_dir: str | Path | None = None,
    on_evaluate: Callable[[Path], None] = lambda run: None,
) -> Comparison:
    """Compare runs on the same images, after evaluating runs that have no report on them.

    Each run is evaluated in its own process, so that its metrics are bit-identical to those of `evaluate`,
    whatever the device and settings of the others.

    Args:
        runs: the folders of two or more runs.
        split: `test`, or `validation` if all runs held out the same images.
        data_dir: the data folder; None: the one that each run was trained from.
        on_evaluate: called with a run's folder before it is evaluated.

    Raises:
        UsageError: the runs cannot be compared, or the split is unknown.
        DataError: a run's data are missing or have changed.
        RunError: a run is missing, has no model, is damaged, or cannot be evaluated.
    """
    check_choice("split", split, SPLITS)
    opened = [open_run(path) for path in runs]
    check_comparable(opened, split)
    for run in opened:
        run.check_model()
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    splits = [evaluated_split(run.load_data(data_dir), run.read_config(), split) for run in opened]
    if any(images.sha256 != splits[0].sha256 for images in splits):
        raise UsageError(
            "The runs have the same images in different orders, in data folders that were prepared from "
            "different sources. Pass one folder for all of them with --data-dir."
        )
    evaluated = []
    for run, images in zip(opened, splits, strict=True):
        report = read_evaluated(run, split, images)
        if report is None:
            on_evaluate(run.path)
            evaluate_apart(run, split, data_dir)
            report = read_evaluated(run, split, images)
        if report is None:
            raise RunError(f"{run.evaluation(split)} was changed while it was read. Try again.")
        evaluated.append(report)
    return summarize(split, evaluated)


def check_comparable(runs: Sequence[Run], split: str) -> None:
    """Raise UsageError unless these are two or more different runs with the same images in `split`."""
    if len(runs) < 2:
        raise UsageError("compare needs two or more runs. `cifar-trainer runs` lists them.")
    paths = [run.path.resolve() for run in runs]
    doubled = next((path for path in paths if paths.count(path) > 1), None)
    if doubled is not None:
        raise UsageError(f"{doubled} was given twice. Give each run once.")
    first, first_config, first_data = runs[0], runs[0].read_config(), runs[0].read_data()
    for run in runs:
        config, data = run.read_config(), run.read_data()
        if (data.name, data.test.fingerprint) != (first_data.name, first_data.test.fingerprint):
            names = (data.title, first_data.title)
            what = f"{names[0]}, {first.path} on {names[1]}" if names[0] != names[1] else "other images"
            raise UsageError(
                f"{run.path} was trained on {what}; accuracies on different data cannot be compared."
            )
        check_split(config, split)
        if split == "validation" and config.seed != first_config.seed:
            raise UsageError(
                f"--split validation: {run.path} did not hold out the same images as {first.path}; "
                "only runs with the same seed do. Compare them on --split test."
            )


@dataclasses.dataclass(frozen=True)
class _Reliability:
    ece: float


@dataclasses.dataclass(frozen=True)
class _Calibration:
    before: _Reliability


@dataclasses.dataclass(frozen=True)
class _Reported:
    """The part of a report.json that a comparison needs."""

    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    calibration: _Calibration
    weights_sha256: str
    split_sha256: str


def read_evaluated(run: Run, split: str, images: Split) -> Evaluated | None:
    """Read a run's report; None if there is none, or if it is on other weights or images.

    Args:
        run: the run.
        split: `test` or `validation`.
        images: the split's images and labels.

    Raises:
        RunError: one of the run's files cannot be read.
    """
    folder = run.evaluation(split)
    if not (folder / REPORT_FILE).is_file() or not (folder / LOGITS_FILE).is_file():
        return None
    remedy = f"To write it again: cifar-trainer evaluate {run.path} --split {split}"
    report, result = files.read_json(folder / REPORT_FILE, _Reported, remedy=remedy), run.read_result()
    if report.weights_sha256 != result.weights_sha256 or report.split_sha256 != images.sha256:
        return None
    try:
        logits = np.load(folder / LOGITS_FILE, allow_pickle=False)
        correct = logits.argmax(axis=1) == images.labels
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / LOGITS_FILE} cannot be read: {error}. {remedy}") from error
    # If the run was extended and then stopped, the file has more epochs than the result.
    history = run.read_history()[: result.epochs]
    return Evaluated(
        run=run,
        config=run.read_config(),
        accuracy=report.accuracy,
        interval=report.accuracy_interval,
        loss=report.loss,
        ece=report.calibration.before.ece,
        epochs=result.epochs,
        seconds=result.seconds,
        parameters=result.parameters,
        joules=total_energy(history),
        test_looks=len(run.read_looks()),
        correct=correct,
        history=history,
    )


def evaluate_apart(run: Run, split: str, data_dir: Path | None) -> None:
    """Evaluate a run in its own process.

    Raises:
        CifarTrainerError: the evaluation failed; message and class are those of that process's error.
    """
    options = [] if data_dir is None else ["--data-dir", str(data_dir)]
    command = module_command("cifar_trainer", "evaluate", "--quiet", "--json", "--split", split)
    # These variables are meant for the user's own `evaluate`, such as a required accuracy.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CIFAR_TRAINER_EVALUATE_")}
    with subprocess.Popen(
        [*command, *options, "--", str(run.path)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            # Terminating it leaves no partial files.
            process.terminate()
            raise
    if process.returncode != 0:
        kinds: dict[int, type[CifarTrainerError]] = {3: DataError, 5: DeviceError}
        reason = errors.strip().removeprefix("Error: ") or f"it ended with {process.returncode}."
        raise kinds.get(process.returncode, RunError)(f"{run.path} could not be evaluated: {reason}")


def summarize(split: str, runs: Sequence[Evaluated]) -> Comparison:
    """Compare runs that were all evaluated on the same images of `split`."""
    return Comparison(
        split=split,
        images=len(runs[0].correct),
        runs=tuple(runs),
        groups=group(runs),
        tests=tuple(mcnemar(runs[0].correct, other.correct) for other in runs[1:]),
    )


def group(runs: Sequence[Evaluated]) -> tuple[Group, ...]:
    """Group runs whose settings differ only in the seed."""
    groups: dict[tuple[tuple[str, Any], ...], list[Evaluated]] = {}
    for each in runs:
        settings = {**each.config.affecting_result(), "epochs": each.epochs}
        groups.setdefault(tuple(settings.items()), []).append(each)
    varied = {
        name for key in groups for name, value in key if any(dict(other)[name] != value for other in groups)
    }
    return tuple(_group(dict(key), varied, members) for key, members in groups.items())


def _group(settings: dict[str, Any], varied: set[str], members: list[Evaluated]) -> Group:
    parts = [settings["recipe"]]
    # Settings that are not set would only lengthen the name.
    parts += [f"{k} {v}" for k, v in settings.items() if k in varied and k != "recipe" and v is not None]
    return Group(
        name=", ".join(parts),
        runs=tuple(members),
        accuracy=_spread([each.accuracy for each in members]),
        loss=_spread([each.loss for each in members]),
        seconds=_spread([each.seconds for each in members]),
    )


def _spread(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


#: Up to this many epochs, each has a marker.
FEW_EPOCHS = 30


def comparison_figure(comparison: Comparison, theme: "Theme") -> "Figure":
    """Two panels: validation accuracy per epoch, and final accuracy with its interval."""
    from cifar_trainer.plots import LINES, MaxNLocator, PercentFormatter, new_figure, shorten

    color = {
        id(each): LINES[i % len(LINES)] for i, group in enumerate(comparison.groups) for each in group.runs
    }
    names = [shorten(each.run.path.resolve().name, 28) for each in comparison.runs]
    with new_figure(theme, 9.6, max(3.4, 1.8 + 0.3 * len(names)) + 0.22 * len(comparison.groups)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        labelled = set()
        for i, group in enumerate(comparison.groups):
            for each in group.runs:
                points = [(row["epoch"], row["val_accuracy"]) for row in each.history]
                label = None if i in labelled else f"{group.name} (n = {len(group.runs)})"
                labelled.add(i)
                # A line through a single point is invisible.
                marker = "o" if len(points) <= FEW_EPOCHS else ""
                left.plot(
                    *np.array(points, float).T,
                    marker,
                    ls="-",
                    ms=4,
                    lw=1.4,
                    color=color[id(each)],
                    label=label,
                )
        left.set_xlabel("epoch")
        left.set_title("validation accuracy")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
        # Below both panels, since group names list settings and may be long.
        figure.legend(loc="outside lower left")
    return figure
