"""A run's folder: what lies where, what its files hold, how it is made, found and held."""

import contextlib
import csv
import dataclasses
import datetime
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import locks, records
from cifar_trainer.config import DEFAULT_DATA_DIR, TrainConfig
from cifar_trainer.errors import DataError, DataNotFoundError, RunError, UsageError
from cifar_trainer.files import PARTIAL_PREFIX, remove_partials

if TYPE_CHECKING:
    from cifar_trainer.data.dataset import Dataset
    from cifar_trainer.metrics import Thresholds
    from cifar_trainer.recipes import Recipe

#: Where runs go when nobody says otherwise, below the current folder.
DEFAULT_ROOT = Path("runs")
LOCK_NAME = ".lock"
_TRAIN_AGAIN = "Train again under another --run-dir, or upgrade cifar-trainer."


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """What a run knows of a split of its data.

    Attributes:
        images: how many the run uses.
        fingerprint: the content fingerprint of the whole split.
        sha256: over the files of the whole split, so that it tells the order of the images too.
    """

    images: int
    fingerprint: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class ValidationRecord:
    """Which images a run validates on: `split` is `test` or `holdout`, `images` their number."""

    split: str
    images: int


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """The data of a run, as config.json keeps it under `data`.

    Attributes:
        name, title, verified, classes: of the dataset.
        train, test, validation: its splits.
        data_dir: the absolute path of the data folder that the run was trained from.
    """

    name: str
    title: str
    verified: bool
    classes: tuple[str, ...]
    train: SplitRecord
    test: SplitRecord
    validation: ValidationRecord
    data_dir: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run, as result.json keeps it and `train --json` prints it.

    Attributes:
        run_dir: the run's folder.
        recipe, dataset, seed, precision: as trained.
        epochs: complete ones.
        parameters: of the network.
        device: `cpu` or `gpu`.
        train: `loss` and `accuracy` of the epoch whose weights the model has.
        validation: likewise, and the `split`: `test` or `holdout`.
        seconds: of training and validation.
        images_per_second: in training.
        weights_sha256: over the raw bytes of the weights, in `model.weights` order.
        test_looks: how often the test set was looked at until then; `cifar_trainer.ledger`.
        compile_seconds: of tracing and compiling, which are in no other figure.
        planned_epochs: those that were asked for; more than `epochs` where a callback ended training.
        chosen_epoch: the epoch whose weights the model has; None where a callback has set others.
        chosen_by: `last epoch`, or `callback` where one has put back an earlier epoch's weights or others.
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

    def is_final(self, epochs: int) -> bool:
        """Whether a run for which `epochs` are asked has nothing left to train."""
        return max(self.epochs, self.planned_epochs or 0) >= epochs

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run could not go on, and where: epoch and step count from 1."""

    message: str
    epoch: int
    step: int


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What of config.json is not a setting."""

    data: DataRecord


@dataclasses.dataclass(frozen=True)
class _Start:
    """What of environment.json a list of runs shows."""

    started_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Run:
    """The paths of a run's folder. Making one touches nothing on the disk."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def failure(self) -> Path:
        return self.path / "failure.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model.keras"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def export(self) -> Path:
        return self.path / "export"

    def evaluation(self, split: str) -> Path:
        return self.path / "evaluation" / split

    def read_config(self) -> TrainConfig:
        """The run's settings.

        Raises:
            RunError: config.json is absent or damaged.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path} is not a run: it has no config.json.")
        return records.read(self.config, TrainConfig, remedy=_TRAIN_AGAIN)

    def read_recipe(self) -> "Recipe":
        """The run's recipe.

        Raises:
            RunError: this version does not know it.
        """
        from cifar_trainer.recipes import get_recipe

        name = self.read_config().recipe
        try:
            return get_recipe(name)
        except UsageError as error:
            raise RunError(
                f"{self.path} was trained by the recipe {name!r}, which this version of cifar-trainer does "
                "not know. Upgrade it."
            ) from error

    def read_data(self) -> DataRecord:
        """What the run was trained on.

        Raises:
            RunError: config.json is absent or damaged.
        """
        return records.read(self.config, _Settings, remedy=_TRAIN_AGAIN).data

    def read_environment(self) -> dict[str, Any]:
        """What the run was trained with.

        Raises:
            RunError: environment.json is absent or damaged.
        """
        return records.read(self.environment, dict[str, Any])

    def read_start(self) -> datetime.datetime:
        """When the run was begun or last resumed, with the time zone.

        Raises:
            RunError: environment.json is absent or damaged.
        """
        moment = records.read(self.environment, _Start).started_at
        return moment if moment.tzinfo is not None else moment.astimezone()

    def read_result(self) -> TrainResult:
        """What the finished run has to show.

        Raises:
            RunError: result.json is absent or damaged.
        """
        return records.read(self.result, TrainResult, remedy=f"{self._resume_command()} writes it again.")

    def read_failure(self) -> Failure | None:
        """Why the run could not go on; None where it could.

        Raises:
            RunError: failure.json is damaged.
        """
        return records.read(self.failure, Failure) if self.failure.is_file() else None

    def read_history(self) -> list[dict[str, float | None]]:
        """The rows of history.csv; None where a field is empty.

        Raises:
            RunError: the file is absent, or not one of numbers.
        """
        try:
            with open(self.history, encoding="utf-8", newline="") as file:
                return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{self.history} cannot be read: {error}.") from error

    def _resume_command(self) -> str:
        return f"cifar-trainer train --resume {self.path}"


def is_run_folder(path: Path) -> bool:
    """Whether a folder is a run's, or looks like that of one: nothing in it is read."""
    names = ("history.csv", "result.json", "checkpoints", "model.keras")
    # os.path's tests, unlike pathlib's, answer for what cannot be read too.
    return os.path.isfile(path / "config.json") and any(os.path.exists(path / name) for name in names)


def open_run(path: str | Path | None) -> Run:
    """The run in `path`, or the newest run below `runs/` where `path` is None.

    Raises:
        RunError: there is no such folder, it is no run, or there is no run at all.
    """
    if path is None:
        return newest_run(DEFAULT_ROOT)
    path = Path(path)
    run = Run(path)
    try:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise RunError(f"{path} {what}; expected a run's folder. {_known_runs(path.parent)}")
        if not run.config.is_file():
            held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise RunError(
                f"{path} is not a run: it has no config.json (it holds {held}). {_known_runs(path)}"
            )
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Expected a run's folder.") from error
    return run


def newest_run(root: Path) -> Run:
    """The run below `root` that was started last.

    Raises:
        RunError: no run is there.
    """
    runs = find_runs(root)
    if not runs:
        raise RunError(f"There is no run in {root}/ yet. Start one with: cifar-trainer train")
    return runs[0]


def find_runs(root: Path) -> list[Run]:
    """The runs directly below `root`, newest first by the time config.json was written.

    Raises:
        RunError: the folder cannot be listed. What cannot be read in it is passed over.
    """
    # os.path's tests, unlike pathlib's, answer for what cannot be read too.
    if not os.path.isdir(root):
        return []
    try:
        found = [Run(path) for path in root.iterdir() if os.path.isfile(path / "config.json")]
    except OSError as error:
        raise RunError(f"{root} cannot be read: {error.strerror}.") from error
    return sorted(found, key=lambda run: (run.config.stat().st_mtime_ns, run.path.name), reverse=True)


def _known_runs(root: Path) -> str:
    runs = find_runs(root) or find_runs(DEFAULT_ROOT)
    if not runs:
        return "Start a run with: cifar-trainer train"
    return "Runs that are there: " + ", ".join(str(run.path) for run in runs[:5]) + "."


def check_new(path: Path) -> None:
    """Raise RunError unless a new run can be made at `path`. Makes nothing that stays."""
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
        # Asked of the file system itself: permissions do not tell of a disk that is mounted read-only.
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=existing)
        os.close(descriptor)
        Path(name).unlink()
        # Too long is found out now, and not when the run has been trained.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path / "evaluation" / "validation" / "report.html")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"The run folder {path} cannot be written: {error.strerror}. Choose another --run-dir.")


def _is_leftover(path: Path) -> bool:
    """Whether it is what a run leaves that was killed before it had begun, and may be written over."""
    names = (LOCK_NAME, f"{LOCK_NAME}.holder", "environment.json")
    return path.name in names or path.name.startswith(PARTIAL_PREFIX)


def reserve_folder(name: str) -> Path:
    """Make an empty folder `runs/TIME-name`; two that begin in the same second get one each."""
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


@contextlib.contextmanager
def new_run(path: Path | None, recipe: str) -> Iterator[Run]:
    """Make a run's folder, `path` or `runs/TIME-RECIPE` where that is None, and hold it.

    Where the block fails before config.json is written, nothing was begun, and the folder goes again.

    Raises:
        RunError: the folder holds something, cannot be made or written, or is in use.
    """
    try:
        chosen = path or reserve_folder(recipe)
        # Before anything is made: what holds something else is left as it is.
        if not _is_held_folder(chosen):
            check_new(chosen)
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path or DEFAULT_ROOT, error) from error
    run = Run(chosen)
    with hold(run):
        # Another process may have made a run here since.
        check_new(chosen)
        remove_partials(chosen)
        try:
            yield run
        finally:
            if not run.config.exists():
                _remove_unbegun(run)


def _remove_unbegun(run: Run) -> None:
    """Delete the folder of a run that never began. Only for who holds it."""
    for name in (run.environment.name, LOCK_NAME):
        (run.path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run.path.rmdir()


def _is_held_folder(path: Path) -> bool:
    return path.is_dir() and is_held(Run(path))


@contextlib.contextmanager
def hold(run: Run) -> Iterator[None]:
    """Hold a run against other processes until the block ends, or this process does.

    Raises:
        RunError: another process holds it.
    """
    try:
        with locks.lock(run.path / LOCK_NAME):
            yield
    except locks.LockedError as error:
        by = f" by {error.holder}" if error.holder else " by another process"
        raise RunError(f"{run.path} is in use{by}. Wait for it, or choose another --run-dir.") from error


def is_held(run: Run) -> bool:
    """Whether a process holds the run at this moment; looking disturbs nobody."""
    return locks.is_locked(run.path / LOCK_NAME)


def check_model(run: Run) -> None:
    """Raise RunError where the run has no model yet, or is of a recipe that this version does not know."""
    run.read_recipe()
    if not run.model.is_file():
        held = ", ".join(sorted(path.name for path in run.path.iterdir())) or "nothing"
        raise RunError(
            f"{run.path} has no model.keras (it holds {held}). "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


def load_data(run: Run, data_dir: Path | None = None, *, ordered: bool | None = None) -> "Dataset":
    """The data that a run was trained on.

    Args:
        run: the run.
        data_dir: where the data lie. None is where the run found them, if they are still there, else `data/`.
        ordered: whether the images must lie in the same order. None is: if the run has set some aside by
            their places.

    Raises:
        DataNotFoundError: no data are prepared there.
        DataError: they are not the run's, or damaged.
        RunError: config.json is damaged.
    """
    from cifar_trainer.data.store import load_dataset

    record = run.read_data()
    places = [data_dir] if data_dir is not None else [*_recorded(record), DEFAULT_DATA_DIR]
    place = next((folder for folder in places if (folder / record.name).is_dir()), places[0])
    try:
        dataset = load_dataset(place, record.name)
    except DataNotFoundError as error:
        was = f" It was trained on data in {record.data_dir}." if record.data_dir else ""
        raise DataNotFoundError(f"The data of {run.path} are not in {place}.{was} {error}") from error
    in_order = run.read_config().validation == "holdout" if ordered is None else ordered
    difference = difference_to(record, dataset, ordered=in_order)
    if difference is not None:
        raise DataError(f"{run.path} {difference}")
    return dataset


def _recorded(record: DataRecord) -> list[Path]:
    return [] if record.data_dir is None else [Path(record.data_dir)]


def difference_to(record: DataRecord, dataset: "Dataset", *, ordered: bool) -> str | None:
    """How a dataset differs from the one of a run, in words that follow the run's name; None if it does not.

    Args:
        record: the run's data.
        dataset: what is there now.
        ordered: whether the training images must lie in the same order.
    """
    for name, was, now in (("train", record.train, dataset.train), ("test", record.test, dataset.test)):
        if was.fingerprint != now.fingerprint:
            return (
                f"was trained on other data: its {name} split has the fingerprint {was.fingerprint}, the one "
                f"in {dataset.folder} has {now.fingerprint}. Name the right folder with --data-dir."
            )
    if ordered and record.train.sha256 != dataset.train.sha256:
        return (
            f"was trained on the same images in another order than in {dataset.folder}, which was prepared "
            "from another source. Prepare the run's own source into another --data-dir, and name that."
        )
    return None


def check_weights(run: Run, result: TrainResult, weights_sha256: str) -> None:
    """Raise RunError unless a run's result.json is about the weights of its model."""
    if result.weights_sha256 != weights_sha256:
        raise RunError(
            f"The model of {run.path} is not the one that its result.json is about. "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


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


@dataclasses.dataclass(frozen=True)
class _Evaluated:
    """What of a report.json an export needs."""

    weights_sha256: str
    calibration: _Calibration | None = None
    unfamiliar: _Unfamiliar | None = None


def read_temperature(run: Run, weights_sha256: str) -> float:
    """The temperature that `evaluate` has fitted on held-out images for these weights, or 1.

    Reports on both splits hold the same one; a report on other weights is passed over.

    Raises:
        RunError: a report cannot be read, or holds a temperature that is no positive number.
    """
    for path, report in _reports(run, weights_sha256):
        temperature = report.calibration.temperature if report.calibration else None
        if temperature is None:
            continue
        if not (math.isfinite(temperature) and temperature > 0):
            raise RunError(
                f"{path} holds the temperature {temperature}; expected a number above 0. "
                f"{_evaluate_again(run)}"
            )
        return temperature
    return 1.0


def read_thresholds(run: Run, weights_sha256: str) -> "Thresholds | None":
    """The thresholds of unfamiliar images that `evaluate` has fitted for these weights; None if it has not.

    Raises:
        RunError: a report cannot be read.
    """
    from cifar_trainer.metrics import Thresholds

    for _, report in _reports(run, weights_sha256):
        if report.unfamiliar is not None:
            return Thresholds(**dataclasses.asdict(report.unfamiliar.thresholds))
    return None


def _reports(run: Run, weights_sha256: str) -> Iterator[tuple[Path, _Evaluated]]:
    """The run's reports on a model of these weights, and where they stand."""
    for split in ("validation", "test"):
        path = run.evaluation(split) / "report.json"
        if path.is_file():
            report = records.read(path, _Evaluated, remedy=_evaluate_again(run))
            if report.weights_sha256 == weights_sha256:
                yield path, report


def _evaluate_again(run: Run) -> str:
    return f"Write it again with: cifar-trainer evaluate {run.path}"
