"""Compare runs: metrics, groups of seeds, and whether two models or two recipes differ by more than chance.

Does not import TensorFlow, and imports Matplotlib only to draw.
"""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from cifar_trainer import files
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.splits import check_split, evaluated_split
from cifar_trainer.errors import CifarTrainerError, DataError, DeviceError, RunError, UsageError
from cifar_trainer.evaluation.evaluate import LOGITS_FILE, REPORT_FILE, SPLITS
from cifar_trainer.evaluation.subject import total_energy
from cifar_trainer.process import module_command
from cifar_trainer.results import Result
from cifar_trainer.run import GROUP_FILE, SWEEP_FILE, Run, TrainResult, open_runs, trial_run
from cifar_trainer.settings import Settings, check_choice, declared
from cifar_trainer.significance import McNemar, Pair, PairedTest, mcnemar, paired_test

if TYPE_CHECKING:
    from cifar_trainer.plots import Figure, Theme


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A run and the metrics of its report on a split.

    Attributes:
        run, config: the run and its settings.
        accuracy, interval, loss, ece: on the split; the interval is the accuracy's 95 % interval.
        epochs, seconds, parameters: as in the run's result.
        joules: energy that the GPU used in training; None if not measured.
        test_looks: number of looks at the run's test set so far.
        correct: bool [N], whether each image of the split was classified correctly.
        history: rows of history.csv up to the end of training.
        epochs_setting: number of epochs by which runs are grouped; see `_epochs_setting`.
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
    epochs_setting: int

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
        tests: McNemar's test of each other run against the first.
    """

    split: str
    images: int
    runs: tuple[Evaluated, ...]
    groups: tuple[Group, ...]
    tests: tuple[McNemar, ...]

    @property
    def labels(self) -> list[str]:
        """Each run's folder name, or PARENT/NAME if two runs share a name."""
        paths = [each.run.path.resolve() for each in self.runs]
        unique = len({path.name for path in paths}) == len(paths)
        return [path.name if unique else f"{path.parent.name}/{path.name}" for path in paths]

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


@dataclasses.dataclass(frozen=True, eq=False)
class Decision(Result):
    """Whether one recipe is better than another on held-out images, or whether the difference may be noise.

    Attributes:
        first, second: each recipe's runs, one per seed; the question is whether the second is better.
        images: number of images that each run held out.
        test: the paired t-test over the seeds.
        sweep_trials: number of sweep trials from which the second group was chosen on the same images;
            they count as looks.
    """

    first: Group
    second: Group
    images: int
    test: PairedTest
    sweep_trials: int = 0

    @property
    def decision(self) -> str:
        """`better` or `not shown`."""
        return "better" if self.test.is_better else "not shown"

    def to_json(self) -> dict[str, Any]:
        """What `compare --decide --json` prints."""
        sides = {"first": self.first, "second": self.second}
        return {
            "decision": self.decision,
            **dataclasses.asdict(self.test),
            "sweep_trials": self.sweep_trials,
            "images": self.images,
            **{
                name: {**side.to_json(), "runs": [str(each.run.path) for each in side.runs]}
                for name, side in sides.items()
            },
        }


@overload
def compare(
    runs: Sequence[str | Path],
    *,
    split: str | None = None,
    decide: Literal[False] = False,
    data_dir: str | Path | None = None,
    on_evaluate: Callable[[Path], None] = lambda run: None,
) -> Comparison: ...


@overload
def compare(
    runs: Sequence[str | Path],
    *,
    split: str | None = None,
    decide: bool,
    data_dir: str | Path | None = None,
    on_evaluate: Callable[[Path], None] = lambda run: None,
) -> Comparison | Decision: ...


def compare(
    runs: Sequence[str | Path],
    *,
    split: str | None = None,
    decide: bool = False,
    data_dir: str | Path | None = None,
    on_evaluate: Callable[[Path], None] = lambda run: None,
) -> Comparison | Decision:
    """Compare runs on the same images, first evaluating each run that has no report on them.

    Each run is evaluated in its own process, so that its metrics are bit-identical to those of `evaluate`,
    whatever the device and settings of the others.

    Args:
        runs: the folders of two or more runs; a group's folder stands for its runs.
        split: `test`, or `validation` if all runs held out the same images. By default `test`, or
            `validation` with `decide`.
        decide: decide whether the second group of runs is better than the first, by a paired test over their
            seeds on held-out images. The runs of a group's folder are one group; others are grouped by
            settings. Each new decision is recorded in its runs, and makes the next ones stricter.
        data_dir: the data folder; None means the one that each run was trained with.
        on_evaluate: called with a run's folder before it is evaluated.

    Returns:
        A `Decision` with `decide`, otherwise a `Comparison`.

    Raises:
        UsageError: the runs cannot be compared, or the split is unknown.
        DataError: a run's data are missing or have changed.
        RunError: a run is missing, has no model, is damaged, cannot be evaluated, or cannot be written.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    if decide:
        if split == "test":
            raise UsageError(
                "--decide --split test: choosing recipes by the test set makes its accuracy too optimistic. "
                "Leave out --split: the decision is made on held-out images."
            )
        return _decide(runs, data_dir, on_evaluate)
    split = split or "test"
    opened = [run for path in runs for run in open_runs(path)]
    check_comparable(opened, split)
    splits = _load_splits(opened, split, data_dir)
    evaluated = [
        _evaluated(run, split, images, data_dir, on_evaluate)
        for run, images in zip(opened, splits, strict=True)
    ]
    return summarize(split, evaluated)


def _load_splits(runs: Sequence[Run], split: str, data_dir: Path | None) -> list[Split]:
    for run in runs:
        run.check_model()
    splits = [evaluated_split(run.load_data(data_dir), run.read_config(), split) for run in runs]
    for run, images in zip(runs, splits, strict=True):
        if images.sha256 != splits[0].sha256:
            raise UsageError(
                f"{run.path} has the images of {runs[0].path} in a different order, in a data folder that "
                "was prepared from a different source. Pass one folder for all runs with --data-dir."
            )
    return splits


def _evaluated(
    run: Run, split: str, images: Split, data_dir: Path | None, on_evaluate: Callable[[Path], None]
) -> Evaluated:
    """A run's report; evaluates the run first if it has none."""
    report = read_evaluated(run, split, images)
    if report is None:
        on_evaluate(run.path)
        evaluate_apart(run, split, data_dir)
        report = read_evaluated(run, split, images)
    if report is None:
        raise RunError(f"{run.evaluation(split)} changed while it was being read. Try again.")
    return report


def check_comparable(runs: Sequence[Run], split: str) -> None:
    """Raise UsageError unless these are two or more different runs with the same images in `split`."""
    check_different(runs)
    check_same_data(runs)
    first, first_config = runs[0], runs[0].read_config()
    for run in runs:
        config = run.read_config()
        check_split(config, split)
        if split == "validation" and config.seed != first_config.seed:
            raise UsageError(
                f"--split validation: {run.path} did not hold out the same images as {first.path}; "
                "only runs with the same seed do. Use --split test, or compare two groups of seeds with "
                "--decide."
            )


def check_different(runs: Sequence[Run]) -> None:
    """Raise UsageError unless these are two or more different runs."""
    if len(runs) < 2:
        raise UsageError("compare needs two or more runs. `cifar-trainer runs` lists them.")
    paths = [run.path.resolve() for run in runs]
    doubled = next((path for path in paths if paths.count(path) > 1), None)
    if doubled is not None:
        raise UsageError(f"{doubled} was given twice. Pass each run once.")


def check_same_data(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all runs were trained on the same data set."""
    first, first_data = runs[0], runs[0].read_data()
    for run in runs:
        data = run.read_data()
        if (data.name, data.test.fingerprint) != (first_data.name, first_data.test.fingerprint):
            names = (data.title, first_data.title)
            what = f"{names[0]}, {first.path} on {names[1]}" if names[0] != names[1] else "other images"
            raise UsageError(
                f"{run.path} was trained on {what}; accuracies on different data cannot be compared."
            )


def _decide(
    paths: Sequence[str | Path], data_dir: Path | None, on_evaluate: Callable[[Path], None]
) -> Decision:
    sides = two_groups(paths)
    check_decidable(*sides)
    first, second, pairs = load_pairs(*sides, data_dir, on_evaluate)
    trials = count_trials(sides[1])
    looks = _record_decision(*sides) + max(trials - 1, 0)
    names = _names(first, second)
    return Decision(
        first=_group(names[0], first),
        second=_group(names[1], second),
        images=min(len(pair.indices) for pair in pairs),
        test=paired_test(pairs, looks),
        sweep_trials=trials,
    )


def load_pairs(
    first: Sequence[Run],
    second: Sequence[Run],
    data_dir: Path | None = None,
    on_evaluate: Callable[[Path], None] = lambda run: None,
) -> tuple[list[Evaluated], list[Evaluated], list[Pair]]:
    """Evaluate two groups on their held-out images; `check_decidable` must have accepted the groups."""
    splits = _load_splits([*first, *second], "validation", data_dir)
    evaluated = [
        _evaluated(run, "validation", images, data_dir, on_evaluate)
        for run, images in zip([*first, *second], splits, strict=True)
    ]
    ours, theirs = evaluated[: len(first)], evaluated[len(first) :]
    pairs = [
        # Held-out images always have indices.
        Pair(np.asarray(images.indices), one.correct, other.correct)
        for images, one, other in zip(splits[: len(first)], ours, theirs, strict=True)
    ]
    return ours, theirs, pairs


def two_groups(paths: Sequence[str | Path]) -> tuple[list[Run], list[Run]]:
    """The runs of each group by seed. A group's folder is one group; other runs are grouped by settings."""
    groups: dict[object, list[Run]] = {}
    for path in paths:
        for run in open_runs(path):
            by_folder = (Path(path).expanduser() / GROUP_FILE).is_file()
            settings = _settings(run.read_config(), _epochs_setting(run.read_result()))
            groups.setdefault(str(path) if by_folder else settings, []).append(run)
    check_different([run for members in groups.values() for run in members])
    if len(groups) != 2:
        raise UsageError(
            f"--decide compares two groups of runs, got {len(groups)}. Pass the folders of two groups "
            "(train --seeds), or runs with two different settings."
        )
    first, second = (sorted(members, key=lambda run: run.read_config().seed) for members in groups.values())
    return first, second


def check_decidable(first: Sequence[Run], second: Sequence[Run]) -> None:
    """Raise UsageError unless held-out images can decide between these groups, each sorted by seed."""
    runs = [*first, *second]
    for run in runs:
        config = run.read_config()
        if config.validation != "holdout":
            raise UsageError(
                f"{run.path} held no images out (--validation {config.validation}), and the test set must "
                "not be used to choose a recipe. Train it again with --validation holdout."
            )
    check_same_data(runs)
    seeds = [[run.read_config().seed for run in side] for side in (first, second)]
    for side, ours in zip((first, second), seeds, strict=True):
        for run, seed in zip(side, ours, strict=True):
            if ours.count(seed) > 1:
                raise UsageError(
                    f"{run.path} is one of several runs with seed {seed}. Pass one run per seed."
                )
    for side, ours, theirs in ((first, seeds[0], seeds[1]), (second, seeds[1], seeds[0])):
        for run, seed in zip(side, ours, strict=True):
            if seed not in theirs:
                raise UsageError(
                    f"{run.path} has seed {seed}, but no run of the other group does. Both groups need the "
                    "same seeds, because each seed holds out different images."
                )
    if len(first) < 2:
        raise UsageError(
            f"--decide needs two or more seeds, got {len(first)}. To train five, use train --seeds 5."
        )
    for name in ("keep", "patience"):
        one, other = (getattr(side[0].read_config(), name) for side in (first, second))
        if one != other:
            raise UsageError(
                f"{first[0].path} was trained with --{name} {one}, {second[0].path} with --{name} {other}. "
                "Selecting an epoch by the held-out images inflates the accuracy on them. Use the same "
                f"--{name} for both groups."
            )


@dataclasses.dataclass(frozen=True)
class _Trial:
    """The part of a trial in sweep.json that `count_trials` needs."""

    params: dict[str, Any]
    run_dir: str | None = None
    epochs: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Sweep:
    settings: dict[str, Any]
    trials: tuple[_Trial, ...] = ()


def count_trials(runs: Sequence[Run]) -> int:
    """Number of trials in the sweeps that chose these runs' settings on the same held-out images.

    A sweep counts if it is in the folder of the runs or beside it, had one of their seeds, and has a trial
    with their recipe, data set and varied settings.
    """
    configs = [run.read_config() for run in runs]
    parents = {parent for run in runs for parent in list(run.path.resolve().parents)[:2]}
    records = {path for parent in parents for path in (parent / SWEEP_FILE, *parent.glob(f"*/{SWEEP_FILE}"))}
    count = 0
    for path in sorted(records):
        if path.is_file():
            sweep = files.read_json(path, _Sweep, remedy="Repeat the sweep command to rewrite it.")
            if any(_is_trial_of(sweep, path.parent, config) for config in configs):
                count += sum(bool(trial.epochs) for trial in sweep.trials)
    return count


def _is_trial_of(sweep: _Sweep, folder: Path, config: Settings) -> bool:
    usual = {name: declared(Settings)[name].default for name in ("recipe", "dataset", "seed")}
    common = {name: sweep.settings.get(name, value) for name, value in usual.items()}
    for trial in sweep.trials:
        values = {**common, **trial.params}
        run = trial_run(folder, trial.run_dir)
        if run is not None:
            # A value can be written in several ways; a run records it in one.
            recorded = run.read_config()
            values = {name: getattr(recorded, name) for name in (*values, "recipe_sha256")}
        if all(getattr(config, name, None) == value for name, value in values.items()):
            return True
    return False


def _record_decision(first: Sequence[Run], second: Sequence[Run]) -> int:
    """Record a comparison in its runs; return the number of distinct comparisons that they took part in."""
    weights = [[run.read_result().weights_sha256 for run in side] for side in (first, second)]
    comparison = files.sha256_bytes(repr(weights).encode())
    known = set[str]()
    for run in (*first, *second):
        recorded = run.read_decisions()
        known |= recorded
        if comparison not in recorded:
            with files.writing(run.path, "Free some disk space, or make the run's folder writable."):
                run.record_decision(comparison)
    return len(known | {comparison})


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
    """Read a run's report; None if it is missing, or is for different weights or images.

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
        epochs_setting=_epochs_setting(result),
    )


def evaluate_apart(run: Run, split: str, data_dir: Path | None) -> None:
    """Evaluate a run in its own process.

    Raises:
        CifarTrainerError: the evaluation failed; message and class are those of that process's error.
    """
    options = [] if data_dir is None else ["--data-dir", str(data_dir)]
    command = module_command("cifar_trainer", "evaluate", "--quiet", "--json", "--split", split)
    # These variables, such as a required accuracy, are meant for the user's own `evaluate`.
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
        reason = errors.strip().removeprefix("Error: ") or f"it exited with code {process.returncode}."
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
        groups.setdefault(_settings(each.config, each.epochs_setting), []).append(each)
    names = _names(*groups.values())
    return tuple(_group(name, members) for name, members in zip(names, groups.values(), strict=True))


def _settings(config: Settings, epochs: int) -> tuple[tuple[str, Any], ...]:
    """The settings that define a group: all except the seed."""
    return tuple({**config.affecting_result(), "epochs": epochs}.items())


def _epochs_setting(result: TrainResult) -> int:
    """The completed epochs; or the requested ones, if --patience ended the run, which depends on its seed."""
    if result.ended_by == "patience" and result.planned_epochs is not None:
        return result.planned_epochs
    return result.epochs


def _names(*groups: Sequence[Evaluated]) -> list[str]:
    """The recipe of each group, and the settings in which the groups differ."""
    settings = [dict(_settings(members[0].config, members[0].epochs_setting)) for members in groups]
    varied = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    # Settings that are not set would only lengthen the name.
    return [
        ", ".join(
            [
                each["recipe"],
                *(f"{name} {each[name]}" for name in varied if name != "recipe" and each[name] is not None),
            ]
        )
        for each in settings
    ]


def _group(name: str, members: Sequence[Evaluated]) -> Group:
    return Group(
        name=name,
        runs=tuple(members),
        accuracy=_spread([each.accuracy for each in members]),
        loss=_spread([each.loss for each in members]),
        seconds=_spread([each.seconds for each in members]),
    )


def _spread(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


#: If there are at most this many epochs, each one gets a marker.
FEW_EPOCHS = 30


def comparison_figure(comparison: Comparison, theme: "Theme") -> "Figure":
    """Two panels: validation accuracy per epoch, and final accuracy with its interval."""
    from cifar_trainer.plots import LINES, MaxNLocator, PercentFormatter, new_figure, shorten

    color = {
        id(each): LINES[i % len(LINES)] for i, group in enumerate(comparison.groups) for each in group.runs
    }
    names = [shorten(label, 28) for label in comparison.labels]
    with new_figure(theme, 9.6, max(3.4, 1.8 + 0.3 * len(names)) + 0.22 * len(comparison.groups)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        labelled = set()
        for i, group in enumerate(comparison.groups):
            for each in group.runs:
                points = [
                    (row["epoch"], row["val_accuracy"])
                    for row in each.history
                    if row["val_accuracy"] is not None
                ]
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
