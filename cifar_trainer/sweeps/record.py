"""sweep.json: a sweep's settings and trials, as a file that needs neither Optuna nor the database."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import files
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.results import Result
from cifar_trainer.run import DEFAULT_ROOT, SWEEP_FILE
from cifar_trainer.sweeps.space import Value

_SWEEP_AGAIN = "The same sweep command writes it again."


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Optuna's, of its first attempt.
        state: `complete`, `pruned`, `failed`, `running` or `waiting`.
        params: the values.
        value: the accuracy on the held-out images, of the last epoch that it was trained for.
        run_dir: its run's folder.
        message: why it failed.
        attempts: Optuna's numbers of all attempts; more than one where a command died or was stopped.
    """

    number: int
    state: str
    params: dict[str, Value]
    value: float | None
    run_dir: str | None
    message: str | None = None
    attempts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """Values that were trained again, on all training images, and measured on the test set.

    Attributes:
        number: of their trial.
        params: the values.
        runs: the runs' folders, one for each seed.
        test_accuracy: the mean over the runs.
    """

    number: int
    params: dict[str, Value]
    runs: tuple[str, ...]
    test_accuracy: float


@dataclasses.dataclass(frozen=True)
class SweepResult(Result):
    """What `sweep --json` prints.

    Attributes:
        name: of the study.
        storage: the database, without a password.
        trials: in the order of their numbers.
        best: the complete trial with the highest value; None if there is none.
        confirmed: the best trials' values, measured on the test set; the trial with the highest value first.
        importance: each parameter's part in the differences of the value, 0 to 1, by Optuna (PED-ANOVA,
            Watanabe et al. 2023); None where the trials are too few or too alike to tell.
        sweep_dir: the sweep's folder.
        page: the page about it.
    """

    name: str
    storage: str
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    confirmed: tuple[Confirmed, ...]
    importance: dict[str, float] | None
    sweep_dir: str
    page: str


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    """What of sweep.json is read again.

    Attributes:
        settings: the arguments of `train` that all trials have in common.
        trials: as in `SweepResult`.
    """

    settings: dict[str, Any]
    trials: tuple[TrialRecord, ...] = ()


def best_first(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials, the highest value first; of equal ones the earlier."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def write_record(folder: Path, result: SweepResult, settings: Mapping[str, Any]) -> None:
    """Write sweep.json.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json(folder / SWEEP_FILE, {**result.to_json(), "settings": dict(settings)})


def trial_settings(text: str) -> dict[str, Any]:
    """The arguments of `train` that a trial had, from `--from-trial SWEEP:NUMBER`.

    Args:
        text: the sweep's folder, or its name below `runs/`, a colon, and the trial's number.

    Raises:
        UsageError: it is not of that form, or the sweep has no such trial.
        RunError: there is no such sweep, or its sweep.json is damaged.
    """
    found = re.fullmatch(r"(.+):(\d+)", text)
    if found is None:
        raise UsageError(f"--from-trial {text!r} is not known. Expected SWEEP:NUMBER, such as runs/rates:7.")
    folder = next(
        (
            each
            for each in (Path(found[1]).expanduser(), DEFAULT_ROOT / found[1])
            if (each / SWEEP_FILE).is_file()
        ),
        None,
    )
    if folder is None:
        raise RunError(f"{found[1]} is not a sweep: it has no {SWEEP_FILE}. Expected a sweep's folder.")
    record = files.read_json(folder / SWEEP_FILE, SweepRecord, remedy=_SWEEP_AGAIN)
    number = int(found[2])
    trial = next((each for each in record.trials if number in (each.number, *each.attempts)), None)
    if trial is None:
        known = ", ".join(str(each.number) for each in record.trials) or "none"
        raise UsageError(f"--from-trial {text}: the sweep has no trial {number}. Its trials are {known}.")
    return {**record.settings, **trial.params}
