"""The runs in a folder: what each is, and how far it came. Reads files only; no TensorFlow."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from cifar_trainer import files
from cifar_trainer.errors import CifarTrainerError
from cifar_trainer.run import GROUP_FILE, SWEEP_FILE, Run, find_runs
from cifar_trainer.run_folder import is_held


@dataclasses.dataclass(frozen=True)
class Listed:
    """One run, as a list shows it.

    Attributes:
        path: its folder.
        state: `finished`, `running`, `stopped`, `failed`, or `damaged`.
        bytes: of all its files.
        recipe, dataset, seed: as trained; they and what follows are None where that cannot be read.
        epochs_done, epochs: complete ones, and those asked for.
        split: what `accuracy` is about: `test`, `holdout` or `train`.
        accuracy: after the last complete epoch; None before the first.
        started: when it was begun or last taken up, with the time zone.
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
        return {**dataclasses.asdict(self), "started": started}


def list_runs(root: Path) -> list[Listed]:
    """The runs below `root`, and in the groups and sweeps below it, newest first; damaged ones as such."""
    found = [run for folder in (root, *_groups(root)) for run in find_runs(folder)]
    found.sort(key=lambda run: run.config.stat().st_mtime_ns, reverse=True)
    return [_listed(run) for run in found]


def _groups(root: Path) -> list[Path]:
    return sorted({path.parent for name in (GROUP_FILE, SWEEP_FILE) for path in root.glob(f"*/{name}")})


def age(started: datetime.datetime | None, now: datetime.datetime) -> str:
    """How long ago that was, in the largest unit that fits, such as `3 h`."""
    if started is None:
        return "unknown"
    seconds = (now - started).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def _listed(run: Run) -> Listed:
    size = 0
    try:
        size = files.size_of(run.path)
        config = run.read_config()
        history = run.read_history() if run.history.exists() else []
        started = run.read_start()
        state, message = _state(run, config.epochs)
    except (CifarTrainerError, OSError) as error:
        return Listed(path=str(run.path), state="damaged", bytes=size, message=str(error))
    return Listed(
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


def _state(run: Run, epochs: int) -> tuple[str, str | None]:
    if is_held(run):
        return "running", None
    failure = run.read_failure()
    if failure is not None:
        return "failed", failure.message
    # A run that is being extended has the result of fewer epochs.
    finished = run.result.is_file() and run.read_result().is_final(epochs)
    return ("finished" if finished else "stopped"), None
