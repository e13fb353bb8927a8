"""A run's folder: what lies where, how it is made, found, and held against other processes."""

import contextlib
import csv
import dataclasses
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from cifar_trainer.config import TrainConfig, read_config
from cifar_trainer.data.dataset import CIFAR10_CLASSES
from cifar_trainer.errors import DataError, RunError
from cifar_trainer.files import PARTIAL_PREFIX, remove_partials

if TYPE_CHECKING:
    from cifar_trainer.data.dataset import Dataset

#: Where runs go when nobody says otherwise, below the current folder.
DEFAULT_ROOT = Path("runs")
LOCK_NAME = ".lock"


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
            RunError: config.json is absent or cannot be read.
        """
        return read_config(self.config)

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

    def read_json(self, path: Path) -> dict[str, Any]:
        """A JSON object of this run, such as `self.result`.

        Raises:
            RunError: absent, or not a JSON object.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}.") from error
        if not isinstance(value, dict):
            raise RunError(f"{path} holds a {type(value).__name__}, not a JSON object.")
        return value


def open_run(path: Path | None) -> Run:
    """The run in `path`, or the newest run below `runs/` where `path` is None.

    Raises:
        RunError: there is no such folder, it is no run, or there is no run at all.
    """
    if path is None:
        return newest_run(DEFAULT_ROOT)
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


def create_run(path: Path | None, recipe: str) -> Run:
    """Make a run's folder: `path`, or `runs/TIME-RECIPE` where `path` is None.

    Raises:
        RunError: the folder holds something already, or cannot be made or written.
    """
    chosen = path or DEFAULT_ROOT
    try:
        if path is None:
            chosen = _reserve(recipe)
        if chosen.is_dir() and all(map(_is_leftover, chosen.iterdir())):
            pass
        elif (chosen / "config.json").is_file():
            raise RunError(
                f"{chosen} holds a run already. Go on with it (--resume {chosen}), "
                "or choose another --run-dir."
            )
        elif os.path.lexists(chosen):
            raise RunError(f"{chosen} exists and is not an empty folder. Choose another --run-dir.")
        chosen.mkdir(parents=True, exist_ok=True)
        probe = chosen / ".partial-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"The run folder {chosen} cannot be written: {error.strerror}. Choose another --run-dir."
        ) from error
    return Run(chosen)


def _is_leftover(path: Path) -> bool:
    """Whether it is what a run leaves that was killed before it had begun, and may be written over."""
    return path.name in (LOCK_NAME, "environment.json") or path.name.startswith(PARTIAL_PREFIX)


def _reserve(recipe: str) -> Path:
    """Make an empty folder of a name that is free; of two that begin in the same second each gets one."""
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{recipe}"
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
    """Make a run's folder, as `create_run` does, and hold it.

    Where the block fails before config.json is written, nothing was begun: the folder
    goes again.

    Raises:
        RunError: the folder cannot be made, or is in use.
    """
    run = create_run(path, recipe)
    try:
        with hold(run):
            remove_partials(run.path)
            yield run
    finally:
        if not run.config.exists():
            for name in (LOCK_NAME, run.environment.name):
                (run.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                run.path.rmdir()


@contextlib.contextmanager
def hold(run: Run) -> Iterator[None]:
    """Hold a run against other processes; the kernel lets go when this one ends, however it ends.

    Raises:
        RunError: another process holds it.
    """
    lock = filelock.FileLock(run.path / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(
            f"{run.path} is in use by another process. Wait for it, or choose another --run-dir."
        ) from None
    except OSError as error:
        raise RunError(f"{run.path} cannot be written: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def is_held(run: Run) -> bool:
    """Whether another process holds the run at this moment."""
    if not (run.path / LOCK_NAME).exists():
        return False
    lock = filelock.FileLock(run.path / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        # Not ours to write to: nobody can be told, so nobody is.
        return False
    lock.release()
    return False


def check_model(run: Run) -> None:
    """Raise RunError where the run has no model yet."""
    if not run.model.is_file():
        held = ", ".join(sorted(path.name for path in run.path.iterdir())) or "nothing"
        raise RunError(
            f"{run.path} has no model.keras (it holds {held}). "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


def check_data(run: Run, dataset: "Dataset") -> None:
    """Raise DataError where the run was trained on other data than `dataset`, or held out other images."""
    held_out = run.read_config().validation == "holdout"
    difference = dataset.difference_to(run.read_json(run.config).get("data"), ordered=held_out)
    if difference is not None:
        raise DataError(f"{run.path} {difference}")


def read_result(run: Run, weights_sha256: str) -> dict[str, Any]:
    """A run's result.json, which must be about the weights of its model.

    Raises:
        RunError: it cannot be read, or it is about other weights, as where a run was killed in between.
    """
    result = run.read_json(run.result)
    if result.get("weights_sha256") != weights_sha256:
        raise RunError(
            f"The model of {run.path} is not the one that its result.json is about. "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )
    return result


def read_classes(run: Run) -> tuple[str, ...]:
    """The class names that the run has noted, or CIFAR-10's."""
    data = run.read_json(run.config).get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    return tuple(classes) if classes else CIFAR10_CLASSES


def read_temperature(run: Run, weights_sha256: str) -> float:
    """The temperature that `evaluate` has fitted on held-out images for these weights, or 1.

    Reports on both splits hold the same one; a report on other weights is passed over.

    Raises:
        RunError: a report cannot be read, or holds a temperature that is no positive number.
    """
    for split in ("validation", "test"):
        path = run.evaluation(split) / "report.json"
        if not path.is_file():
            continue
        report = run.read_json(path)
        calibration = report.get("calibration")
        temperature = calibration.get("temperature") if isinstance(calibration, dict) else None
        if temperature is None or report.get("weights_sha256") != weights_sha256:
            continue
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise RunError(
                f"{path} holds the temperature {json.dumps(temperature)}; expected a number above 0. "
                f"Write it anew: cifar-trainer evaluate {run.path}"
            )
        return float(temperature)
    return 1.0
