"""A run's folder: what lies where, what its files hold, how it is made, found and held."""

import csv
import dataclasses
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import records
from cifar_trainer.errors import RunError
from cifar_trainer.files import sha256_file
from cifar_trainer.settings import Settings

if TYPE_CHECKING:
    from cifar_trainer.recipes import Recipe

#: Where runs go when nobody says otherwise, below the current folder.
DEFAULT_ROOT = Path("runs")
#: What makes a folder a group of runs that differ by their seed (`training.seeds`).
GROUP_FILE = "group.json"
#: What makes a folder a sweep's, whose runs are its trials (`sweep`).
SWEEP_FILE = "sweep.json"
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
    """Which images a run validates on: `split` is one of `settings.VALIDATIONS`, `images` their number."""

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
        validation: likewise, and the `split`, one of `settings.VALIDATIONS`.
        seconds: of training and validation.
        images_per_second: in training.
        weights_sha256: over the raw bytes of the weights, in `model.weights` order.
        test_looks: how often the test set was looked at until then; `cifar_trainer.ledger`.
        compile_seconds: of tracing and compiling, which are in no other figure.
        planned_epochs: those that were asked for; more than `epochs` where training was ended early.
        chosen_epoch: the epoch whose weights the model has; None where a callback has set others.
        chosen_by: `last epoch`; `best validation accuracy` under --keep best; or `callback` where one has put
            back an earlier epoch's weights or others.
        ended_by: why training ended before the planned epochs: `patience`, `time limit`, `end_after` or
            `callback`; None where it did not.
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
    def recipe(self) -> Path:
        return self.path / "recipe.py"

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

    def read_config(self) -> Settings:
        """The run's settings.

        Raises:
            RunError: config.json is absent or damaged.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path} is not a run: it has no config.json.")
        return records.read(self.config, Settings, remedy=_TRAIN_AGAIN)

    def check_recipe(self) -> None:
        """Check that the run's recipe is known, without running any file of the run.

        Raises:
            RunError: this version does not know it.
        """
        from cifar_trainer.recipes import RECIPES

        config = self.read_config()
        if config.recipe_sha256 is None and config.recipe not in RECIPES:
            raise RunError(
                f"{self.path} was trained by the recipe {config.recipe!r}, which this version of "
                "cifar-trainer does not know. Upgrade it."
            )

    def read_recipe(self) -> "Recipe":
        """The run's recipe. A recipe of one's own is the run's copy of its file, which is run.

        Raises:
            RunError: this version does not know it, or the copy is not what the run was begun with.
            UsageError: the copy fails.
        """
        from cifar_trainer.recipes import RECIPES
        from cifar_trainer.recipes.own import load_recipe

        self.check_recipe()
        config = self.read_config()
        if config.recipe_sha256 is None:
            return RECIPES[config.recipe]
        # Before it is run.
        actual = sha256_file(self.recipe) if self.recipe.is_file() else "missing"
        if actual != config.recipe_sha256:
            raise RunError(
                f"{self.recipe} is not the recipe that the run was begun with: its SHA-256 is {actual}, "
                f"expected {config.recipe_sha256}. Put the original back."
            )
        return load_recipe(self.recipe)

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
