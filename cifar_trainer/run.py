"""Run folders: read their files; create, lock, find and list them. Does not import TensorFlow."""

import contextlib
import csv
import dataclasses
import datetime
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cifar_trainer import files, locks
from cifar_trainer.conformal import Coverage
from cifar_trainer.errors import CifarTrainerError, DataError, DataNotFoundError, RunError
from cifar_trainer.images import Preprocessing
from cifar_trainer.results import Result
from cifar_trainer.settings import DEFAULT_DATA_DIR, Settings

if TYPE_CHECKING:
    from cifar_trainer.data.dataset import Dataset
    from cifar_trainer.metrics import Thresholds
    from cifar_trainer.recipes import Recipe

T = TypeVar("T")

#: The default folder for runs, relative to the current folder.
DEFAULT_ROOT = Path("runs")
#: Marks a group's folder: runs that differ only in their seed.
GROUP_FILE = "group.json"
#: Marks a sweep's folder, whose runs are the sweep's trials.
SWEEP_FILE = "sweep.json"
LOCK_NAME = ".lock"
_TRAIN_AGAIN = "Train again with another --run-dir, or upgrade cifar-trainer."


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """A split of the data set that a run was trained on.

    Attributes:
        images: number of images that the run uses.
        fingerprint: fingerprint of the whole split's content, independent of its order.
        sha256: hash of the whole split's files, which depends on the order.
    """

    images: int
    fingerprint: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class ValidationRecord:
    """The validation split: one of `settings.VALIDATIONS`, and its number of images."""

    split: str
    images: int


@dataclasses.dataclass(frozen=True)
class DataRecord(Result):
    """The data set of a run: the key `data` of config.json.

    Attributes:
        name, title, verified, classes: as in dataset.json.
        train, test, validation: the splits.
        data_dir: absolute path of the data folder that the run was trained from.
        preprocessing: how an image becomes the network's input; None in older runs, which did not record it.
    """

    name: str
    title: str
    verified: bool
    classes: tuple[str, ...]
    train: SplitRecord
    test: SplitRecord
    validation: ValidationRecord
    data_dir: str | None = None
    preprocessing: Preprocessing | None = None

    def difference_to(self, dataset: "Dataset", *, ordered: bool) -> str | None:
        """How `dataset` differs from the run's data, as the end of a sentence; None if it does not.

        Args:
            dataset: the data set to compare with.
            ordered: whether the training images must be in the same order.
        """
        for name, was, now in (("train", self.train, dataset.train), ("test", self.test, dataset.test)):
            if was.fingerprint != now.fingerprint:
                return (
                    f"was trained on different data: its {name} split has the fingerprint {was.fingerprint}, "
                    f"but {dataset.folder} has {now.fingerprint}. Pass the right folder with --data-dir."
                )
        if ordered and self.train.sha256 != dataset.train.sha256:
            return (
                "was trained on the same images in a different order or with different groups: "
                f"{dataset.folder} was prepared from a different source, or with a different --keep-groups. "
                "Prepare the run's source into another --data-dir, and pass that."
            )
        return None


@dataclasses.dataclass(frozen=True)
class TrainResult(Result):
    """The result of a finished run: result.json, and what `train --json` prints.

    Attributes:
        run_dir: the run's folder.
        recipe, dataset, seed, precision: as trained.
        epochs: number of completed epochs.
        parameters: number of parameters of the network.
        device: `cpu` or `gpu`.
        train: `loss` and `accuracy` in the selected epoch, whose weights the model has.
        validation: the same on the validation split; and `split`, one of `settings.VALIDATIONS`.
        seconds: duration of training and validation.
        images_per_second: training speed.
        weights_sha256: hash of the weights' raw bytes, in `model.weights` order.
        test_looks: number of looks at the test set so far; see `Look`.
        compile_seconds: duration of tracing and compiling, which no other duration includes.
        planned_epochs: number of epochs requested; more than `epochs` if training ended early.
        chosen_epoch: the selected epoch; None if a callback set new weights.
        chosen_by: `last epoch`; `best validation accuracy` with --keep best; or `callback` if one restored an
            earlier epoch's weights or set new ones.
        ended_by: why training ended early: `patience`, `time limit`, `end_after` or `callback`; else None.
    """

    run_dir: str
    recipe: str
    dataset: str
    epochs: int
    seed: int
    parameters: int
    device: str
    precision: str
    train: Mapping[str, float]
    validation: Mapping[str, float | str]
    seconds: float
    images_per_second: float
    weights_sha256: str
    test_looks: int = 0
    compile_seconds: float = 0.0
    planned_epochs: int | None = None
    chosen_epoch: int | None = None
    chosen_by: str = "last epoch"
    ended_by: str | None = None

    def is_final(self, epochs: int, time_limit: float | None = None) -> bool:
        """Whether there is nothing left to train.

        Args:
            epochs: number of epochs requested.
            time_limit: in seconds; a run that ended at its time limit continues with a longer one.
        """
        spent = self.seconds + self.compile_seconds
        if self.ended_by == "time limit" and time_limit is not None and time_limit > spent:
            return False
        return max(self.epochs, self.planned_epochs or 0) >= epochs


@dataclasses.dataclass(frozen=True)
class Extension:
    """A resume with more epochs.

    Attributes:
        epochs: the run's number of epochs before the extension.
        epoch, step: number of complete epochs at that time, and of steps in the next one.
    """

    epochs: int
    epoch: int
    step: int


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed (failure.json). `epoch` and `step` count from 1."""

    message: str
    epoch: int
    step: int


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at the test set: a line of the run's test_looks.jsonl.

    Choosing by the test set makes its accuracy too optimistic. Each look is recorded before its
    results are, and is never removed.

    Attributes:
        at: time in ISO 8601, with time zone.
        command: such as `train` or `evaluate`.
        epoch: number of epochs that the model had trained for.
    """

    at: str
    command: str
    epoch: int


@dataclasses.dataclass(frozen=True)
class _Decided:
    """One comparison by held-out images: a line of the run's decisions.jsonl."""

    at: str
    comparison: str


@dataclasses.dataclass(frozen=True)
class _RestOfConfig:
    """The part of config.json besides the settings."""

    data: DataRecord
    extensions: tuple[Extension, ...] = ()


@dataclasses.dataclass(frozen=True)
class _StartOfEnvironment:
    """The part of environment.json that a list of runs shows."""

    started_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class _Calibration:
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class _Thresholds:
    energy: float
    probability: float


@dataclasses.dataclass(frozen=True)
class _Unfamiliar:
    thresholds: _Thresholds
    usable: bool = True


@dataclasses.dataclass(frozen=True)
class _Evaluated:
    """The part of an evaluation's report.json that an export needs."""

    weights_sha256: str
    calibration: _Calibration | None = None
    unfamiliar: _Unfamiliar | None = None
    coverage: Coverage | None = None


class _Inside:
    """The path of a file or folder in a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "Run", owner: type) -> Path:
        return run.path / self._name


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder. Creating this object does not touch the disk."""

    path: Path

    config = _Inside("config.json")
    recipe = _Inside("recipe.py")
    environment = _Inside("environment.json")
    history = _Inside("history.csv")
    result = _Inside("result.json")
    failure = _Inside("failure.json")
    test_looks = _Inside("test_looks.jsonl")
    decisions = _Inside("decisions.jsonl")
    checkpoints = _Inside("checkpoints")
    model = _Inside("model.keras")
    tensorboard = _Inside("tensorboard")
    export = _Inside("export")

    def evaluation(self, split: str) -> Path:
        return self.path / "evaluation" / split

    # Reading files. Each method raises RunError if its file is missing or damaged.

    def read_config(self) -> Settings:
        """The run's settings."""
        if not self.config.is_file():
            raise RunError(f"{self.path} is not a run: it has no config.json.")
        return files.read_json(self.config, Settings, remedy=_TRAIN_AGAIN)

    def read_data(self) -> DataRecord:
        """The data set that the run was trained on."""
        return files.read_json(self.config, _RestOfConfig, remedy=_TRAIN_AGAIN).data

    def read_extensions(self) -> tuple[Extension, ...]:
        """The resumes with more epochs, in order."""
        return files.read_json(self.config, _RestOfConfig, remedy=_TRAIN_AGAIN).extensions

    def read_environment(self) -> dict[str, Any]:
        """The versions, device and command line of the training."""
        return files.read_json(self.environment, dict[str, Any])

    def read_start(self) -> datetime.datetime:
        """When the run was started or last resumed, with time zone."""
        moment = files.read_json(self.environment, _StartOfEnvironment).started_at
        return moment if moment.tzinfo is not None else moment.astimezone()

    def read_result(self) -> TrainResult:
        """The result of the finished run."""
        remedy = f"cifar-trainer train --resume {self.path} writes it again."
        result = files.read_json(self.result, TrainResult, remedy=remedy)
        # The folder may have been moved or copied.
        return dataclasses.replace(result, run_dir=str(self.path))

    def is_finished(self) -> bool:
        """Whether the run has the result of all its epochs."""
        # While a run is being extended, result.json still describes the shorter run.
        return self.result.is_file() and self.read_result().is_final(self.read_config().epochs)

    def read_failure(self) -> Failure | None:
        """Why the run failed; None if it did not."""
        return files.read_json(self.failure, Failure) if self.failure.is_file() else None

    def read_history(self) -> list[dict[str, float | None]]:
        """The rows of history.csv; None for an empty field."""
        try:
            with open(self.history, encoding="utf-8", newline="") as file:
                return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{self.history} cannot be read: {error}.") from error

    def read_looks(self) -> tuple[Look, ...]:
        """The recorded looks at the test set, in order."""
        return _read_lines(self.test_looks, Look)

    def record_look(self, command: str, epoch: int) -> None:
        """Record a look at the test set, and flush it to the disk.

        Raises:
            OSError: the file cannot be written.
        """
        _append_line(self.test_looks, Look(_now(), command, epoch))

    def read_decisions(self) -> set[str]:
        """The comparisons by held-out images that the run took part in."""
        return {each.comparison for each in _read_lines(self.decisions, _Decided)}

    def record_decision(self, comparison: str) -> None:
        """Record a comparison by held-out images, and flush it to the disk.

        Args:
            comparison: identifies the compared weights.

        Raises:
            OSError: the file cannot be written.
        """
        _append_line(self.decisions, _Decided(_now(), comparison))

    def check_recipe(self) -> None:
        """Raise RunError if this version does not know the run's recipe. Does not execute a custom recipe."""
        from cifar_trainer.recipes import RECIPES

        config = self.read_config()
        if config.recipe_sha256 is None and config.recipe not in RECIPES:
            raise RunError(
                f"{self.path} was trained with the recipe {config.recipe!r}, which this version of "
                "cifar-trainer does not know. Upgrade it."
            )

    def read_recipe(self) -> "Recipe":
        """The run's recipe. For a custom recipe, this executes the run's copy of its file.

        Raises:
            RunError: this version does not know the recipe, or the copy has changed.
            UsageError: the copy raises an exception.
        """
        from cifar_trainer.recipes import RECIPES
        from cifar_trainer.recipes.own import load_copy

        self.check_recipe()
        config = self.read_config()
        if config.recipe_sha256 is None:
            return RECIPES[config.recipe]
        return load_copy(self.recipe, config.recipe_sha256)

    # Using a finished run.

    def check_model(self) -> None:
        """Raise RunError if the run has no model yet or its recipe is unknown to this version."""
        self.check_recipe()
        if not self.model.is_file():
            raise RunError(
                f"{self.path} has no model.keras (it contains {_names(self.path.iterdir())}). "
                f"Finish the training first: cifar-trainer train --resume {self.path}"
            )

    def check_weights(self, result: TrainResult, weights_sha256: str) -> None:
        """Raise RunError unless `result` describes a model with these weights."""
        if result.weights_sha256 != weights_sha256:
            raise RunError(
                f"The model in {self.path} does not match its result.json. "
                f"Finish the training first: cifar-trainer train --resume {self.path}"
            )

    def load_data(self, data_dir: str | Path | None = None, *, ordered: bool | None = None) -> "Dataset":
        """Load the data set that the run was trained on.

        Args:
            data_dir: the data folder. None: the one that the run was trained from if it still exists,
                else `data/`.
            ordered: whether the images must be in the same order. None: only if the run held some out,
                which are selected by index.

        Raises:
            DataNotFoundError: the data folder does not contain the data set.
            DataError: the data set is not the run's, or is damaged.
            RunError: config.json is damaged.
        """
        from cifar_trainer.data.store import load_dataset

        record = self.read_data()
        recorded = [] if record.data_dir is None else [Path(record.data_dir)]
        folders = [Path(data_dir).expanduser()] if data_dir is not None else [*recorded, DEFAULT_DATA_DIR]
        folder = next((folder for folder in folders if (folder / record.name).is_dir()), folders[0])
        try:
            dataset = load_dataset(folder, record.name)
        except DataNotFoundError as error:
            was = f" The run was trained on data in {record.data_dir}." if record.data_dir else ""
            raise DataNotFoundError(f"The data for {self.path} are not in {folder}.{was} {error}") from error
        in_order = self.read_config().validation == "holdout" if ordered is None else ordered
        difference = record.difference_to(dataset, ordered=in_order)
        if difference is not None:
            raise DataError(f"{self.path} {difference}")
        return dataset

    def read_temperature(self, weights_sha256: str) -> float:
        """The temperature that `evaluate` fitted on held-out images for these weights, else 1.

        Both splits' reports have the same temperature; reports on different weights are ignored.

        Raises:
            RunError: a report cannot be read, or its temperature is not a positive number.
        """
        for path, report in self._reports(weights_sha256):
            temperature = report.calibration.temperature if report.calibration else None
            if temperature is None:
                continue
            if not (math.isfinite(temperature) and temperature > 0):
                raise RunError(
                    f"{path} has the temperature {temperature}; expected a number above 0. "
                    f"{self._evaluate_again()}"
                )
            return temperature
        return 1.0

    def read_thresholds(self, weights_sha256: str) -> "Thresholds | None":
        """The thresholds for unfamiliar images that `evaluate` fitted for these weights.

        None if they were not fitted, or if a report found that other images look more familiar to the model.

        Raises:
            RunError: a report cannot be read.
        """
        from cifar_trainer.metrics import Thresholds

        found = [report.unfamiliar for _, report in self._reports(weights_sha256) if report.unfamiliar]
        if not found or not all(each.usable for each in found):
            return None
        return Thresholds(**dataclasses.asdict(found[0].thresholds))

    def read_coverage(self, weights_sha256: str) -> Coverage | None:
        """The thresholds of class sets, as `read_thresholds`; of both splits' reports, the measured ones."""
        coverages = [report.coverage for _, report in self._reports(weights_sha256)]
        return next(filter(None, reversed(coverages)), None)

    def _reports(self, weights_sha256: str) -> Iterator[tuple[Path, _Evaluated]]:
        """The run's reports on these weights, with their paths."""
        for split in ("validation", "test"):
            path = self.evaluation(split) / "report.json"
            if path.is_file():
                report = files.read_json(path, _Evaluated, remedy=self._evaluate_again())
                if report.weights_sha256 == weights_sha256:
                    yield path, report

    def _evaluate_again(self) -> str:
        return f"To write it again: cifar-trainer evaluate {self.path}"

    # Locking: only one process at a time trains a run.

    @contextlib.contextmanager
    def hold(self) -> "Iterator[Run]":
        """Hold the run's lock while the block runs; gives the run.

        Raises:
            RunError: another process holds it.
        """
        try:
            with locks.lock(self.path / LOCK_NAME):
                yield self
        except locks.LockedError as error:
            holder = error.holder or "another process"
            raise RunError(
                f"{self.path} is in use by {holder}. Wait for it to finish, or choose another --run-dir."
            ) from error

    def is_held(self) -> bool:
        """Whether a process holds the run's lock, without disturbing that process."""
        return locks.is_locked(self.path / LOCK_NAME)

    def discard_unless_trained(self) -> None:
        """Delete the run's files unless an epoch is complete. Call only while holding the lock."""
        if self.history.is_file() and self.read_history():
            return
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for path in (self.history, self.config):
            path.unlink(missing_ok=True)


def _read_lines(path: Path, kind: type[T]) -> tuple[T, ...]:
    """The lines of a JSON Lines file; empty if the file is missing."""
    try:
        return tuple(msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(f"{path} cannot be read: {error}. Expected one JSON object per line.") from error


def _append_line(path: Path, value: object) -> None:
    line = msgspec.json.encode(value) + b"\n"
    # A single short append, so that lines of concurrent processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def new_run(path: Path | None, recipe: str) -> Iterator[Run]:
    """Create a run's folder and hold its lock; if `path` is None, the folder is `runs/TIME-RECIPE`.

    If the block fails before config.json is written, everything created here is deleted.

    Raises:
        RunError: the folder is not empty, is in use, or cannot be created or written.
    """
    try:
        chosen = path or reserve_folder(recipe)
        existed = path is not None and path.is_dir()
        # Check first, so that a folder with other contents is left untouched.
        if not (existed and Run(chosen).is_held()):
            check_new(chosen)
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path or DEFAULT_ROOT, error) from error
    run = Run(chosen)
    with run.hold():
        # Another process may have created a run here in the meantime.
        check_new(chosen)
        files.remove_partials(chosen)
        try:
            yield run
        finally:
            if not run.config.exists():
                for name in (run.recipe.name, run.environment.name, LOCK_NAME):
                    (chosen / name).unlink(missing_ok=True)
                if not existed:
                    with contextlib.suppress(OSError):
                        chosen.rmdir()


def check_new(path: Path) -> None:
    """Raise RunError unless a new run can be created at `path`. Leaves nothing behind."""
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise RunError(f"{path} exists and is not a folder. Choose another --run-dir.")
        if path.is_dir():
            if (path / "config.json").is_file():
                raise RunError(
                    f"{path} already holds a run. Resume it (--resume {path}), or choose another --run-dir."
                )
            if not all(map(_is_leftover, path.iterdir())):
                raise RunError(f"{path} exists and is not an empty folder. Choose another --run-dir.")
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        # Try to write: permissions do not reveal a read-only file system.
        descriptor, name = tempfile.mkstemp(prefix=files.PARTIAL_PREFIX, dir=existing)
        os.close(descriptor)
        Path(name).unlink()
        # Detect a path that is too long before training, not after.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path / "evaluation" / "validation" / "report.html")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"The run folder {path} cannot be written: {error.strerror}. Choose another --run-dir.")


def _is_leftover(path: Path) -> bool:
    """Whether this file was left by a run that was killed before it started, so that we may overwrite it."""
    names = (LOCK_NAME, f"{LOCK_NAME}.holder", "environment.json")
    return path.name in names or path.name.startswith(files.PARTIAL_PREFIX)


def reserve_folder(name: str) -> Path:
    """Create an empty folder `runs/TIME-NAME`, or `runs/TIME-NAME-2` and so on if it exists."""
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"
    DEFAULT_ROOT.mkdir(parents=True, exist_ok=True)
    path, count = DEFAULT_ROOT / stem, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            count += 1
            path = DEFAULT_ROOT / f"{stem}-{count}"


# Finding runs. Unlike pathlib's, the tests of os.path return False for unreadable paths.


def is_run_folder(path: Path) -> bool:
    """Whether a folder looks like a run's, judging by its files' names."""
    names = ("history.csv", "result.json", "checkpoints", "model.keras")
    return os.path.isfile(path / "config.json") and any(os.path.exists(path / name) for name in names)


def find_runs(root: Path) -> list[Run]:
    """The runs in `root` and in its groups and sweeps, newest first, by the time of config.json.

    Folders inside `root` that cannot be read are skipped.

    Raises:
        RunError: `root` cannot be listed.
    """
    if not os.path.isdir(root):
        return []
    try:
        below = sorted(root.iterdir())
    except OSError as error:
        raise RunError(f"{root} cannot be read: {error.strerror}.") from error
    for folder in list(below):
        if any(os.path.isfile(folder / name) for name in (GROUP_FILE, SWEEP_FILE)):
            with contextlib.suppress(OSError):
                below += sorted(folder.iterdir())
    runs = []
    for path in below:
        # Skip a run that is deleted while we look.
        with contextlib.suppress(OSError):
            runs.append(((path / "config.json").stat().st_mtime_ns, str(path), Run(path)))
    return [run for _, _, run in sorted(runs, key=lambda entry: entry[:2], reverse=True)]


def newest_run(root: Path = DEFAULT_ROOT, *, with_model: bool = False) -> Run:
    """The newest run below `root`; with `with_model`, the newest that has a model.

    Raises:
        RunError: there is no such run.
    """
    runs = find_runs(root)
    if not runs:
        raise RunError(f"There are no runs in {root}/ yet. Start one with: cifar-trainer train")
    for run in runs:
        if not with_model or os.path.isfile(run.model):
            return run
    raise RunError(
        f"No run in {root}/ has a model.keras yet. "
        f"Finish the training first: cifar-trainer train --resume {runs[0].path}"
    )


def open_run(path: str | Path | None = None, *, with_model: bool = False) -> Run:
    """The run in the folder `path`; the newest run below `runs/` if `path` is None.

    Args:
        path: the run's folder.
        with_model: require a model.

    Raises:
        RunError: there is no such folder, it is not a run, or the run has no model.
    """
    run = newest_run(with_model=with_model) if path is None else _open(Path(path).expanduser())
    if with_model:
        run.check_model()
    return run


def open_runs(path: str | Path) -> list[Run]:
    """The run in a folder, or the runs of a group's folder, by seed.

    Raises:
        RunError: the folder is missing, or is neither a run nor a group.
    """
    folder = Path(path).expanduser()
    runs = find_runs(folder) if os.path.isfile(folder / GROUP_FILE) else []
    return sorted(runs, key=lambda run: run.read_config().seed) or [open_run(folder)]


def _open(path: Path) -> Run:
    try:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise RunError(f"{path} {what}; expected a run's folder. {_known_runs(path.parent)}")
        if not (path / "config.json").is_file():
            names = _names(path.iterdir())
            raise RunError(
                f"{path} is not a run: it has no config.json (it contains {names}). {_known_runs(path)}"
            )
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Expected a run's folder.") from error
    return Run(path)


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths)[:8]) or "nothing"


def _known_runs(root: Path) -> str:
    runs = find_runs(root) or find_runs(DEFAULT_ROOT)
    if not runs:
        return "Start a run with: cifar-trainer train"
    return "Existing runs: " + ", ".join(str(run.path) for run in runs[:5]) + "."


def trial_run(sweep: Path, run_dir: str | None) -> Run | None:
    """The run of a sweep's trial, by its `run_dir` in sweep.json; None if the trial has no run there.

    The run is in the sweep's folder, which may have been moved.
    """
    run = None if run_dir is None else Run(sweep / Path(run_dir).name)
    return None if run is None or not run.config.is_file() else run


@dataclasses.dataclass(frozen=True)
class ListedRun(Result):
    """One run in a list.

    Attributes:
        path: the run's folder.
        state: `finished`, `running`, `stopped`, `failed`, or `damaged`.
        bytes: total size of its files.
        recipe, dataset, seed: as trained; these and the following are None if they cannot be read.
        epochs_done, epochs: number of completed epochs, and of requested ones.
        split: the validation split on which `accuracy` was measured: `test`, `holdout` or `train`.
        accuracy: after the last completed epoch; None before the first.
        started: when it was started or last resumed, with time zone.
        message: why it failed, or why it cannot be read.
    """

    path: str
    state: str
    bytes: int
    recipe: str | None = None
    dataset: str | None = None
    seed: int | None = None
    epochs_done: int = 0
    epochs: int | None = None
    split: str | None = None
    accuracy: float | None = None
    started: datetime.datetime | None = None
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        started = None if self.started is None else self.started.isoformat(timespec="seconds")
        return {**super().to_json(), "started": started}


@dataclasses.dataclass(frozen=True)
class RunList(Result):
    """The runs in a folder, newest first."""

    folder: str
    runs: tuple[ListedRun, ...]

    def to_json(self) -> dict[str, Any]:
        """What `runs --json` prints."""
        return {"folder": self.folder, "runs": [run.to_json() for run in self.runs]}


def list_runs(folder: str | Path = DEFAULT_ROOT) -> RunList:
    """List the runs in a folder, and in its groups and sweeps, newest first.

    Damaged runs are listed as `damaged`.

    Raises:
        RunError: the folder does not exist or cannot be listed.
    """
    root = Path(folder).expanduser()
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise RunError(f"{root} {what}; expected a folder of runs. Start one with: cifar-trainer train")
    return RunList(str(root), tuple(map(_listed, find_runs(root))))


def _listed(run: Run) -> ListedRun:
    size = 0
    try:
        size = files.size_of(run.path)
        config = run.read_config()
        history = run.read_history() if run.history.exists() else []
        started = run.read_start()
        state, message = _state(run)
    except (CifarTrainerError, OSError) as error:
        return ListedRun(path=str(run.path), state="damaged", bytes=size, message=str(error))
    return ListedRun(
        path=str(run.path),
        state=state,
        bytes=size,
        recipe=config.recipe,
        dataset=config.dataset,
        seed=config.seed,
        epochs_done=len(history),
        epochs=config.epochs,
        split=config.validation,
        accuracy=history[-1]["val_accuracy"] if history else None,
        started=started,
        message=message,
    )


def _state(run: Run) -> tuple[str, str | None]:
    if run.is_held():
        return "running", None
    failure = run.read_failure()
    if failure is not None:
        return "failed", failure.message
    return ("finished" if run.is_finished() else "stopped"), None
