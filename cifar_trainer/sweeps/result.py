"""The events and the result of a sweep, and sweep.json.

Importable without Optuna.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import files
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.recipes.own import check_copy
from cifar_trainer.results import Result
from cifar_trainer.run import DEFAULT_ROOT, SWEEP_FILE, trial_run


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial with all its attempts.

    Attributes:
        number: Optuna's number of the first attempt.
        state: `complete`, `pruned`, `failed`, `running` or `waiting`.
        params: value by parameter.
        value: accuracy on the held-out images after the last epoch.
        run_dir: folder of its run.
        message: why it failed.
        attempts: Optuna's number of each attempt. A trial whose worker or command died, or that was
            stopped, has several.
        epochs: accuracy on the held-out images after each epoch.
    """

    number: int
    state: str
    params: dict[str, int | float | str]
    value: float | None = None
    run_dir: str | None = None
    message: str | None = None
    attempts: tuple[int, ...] = ()
    epochs: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Display name, such as `trial 7`."""
        # A sweep never varies the seed, so this is a run that confirms a trial.
        return f"trial {self.number}" + (" again" if "seed" in self.params else "")


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """A trial retrained on all training images and tested once.

    Attributes:
        number: the trial's number.
        params: its values.
        runs: folders of the new runs, one for each seed.
        test_accuracy: mean over these runs.
    """

    number: int
    params: dict[str, int | float | str]
    runs: tuple[str, ...]
    test_accuracy: float


@dataclasses.dataclass(frozen=True)
class SweepResult(Result):
    """What `sweep --json` prints.

    Attributes:
        name: name of the study.
        storage: URL of the database, without a password.
        trials: in the order of their numbers.
        best: the complete trial with the highest value, the first of a tie; None if none is complete.
        confirmed: the best trials' accuracy on the test set, in the order of their accuracy on the held-out
            images.
        importance: each parameter's importance, 0 to 1, by Optuna (PED-ANOVA, Watanabe et al. 2023); None if
            there are too few trials, or all are equal.
        sweep_dir: the sweep's folder.
        page: the HTML page.
    """

    name: str
    storage: str
    trials: tuple[Trial, ...]
    best: Trial | None
    confirmed: tuple[Confirmed, ...]
    importance: dict[str, float] | None
    sweep_dir: str
    page: str


class SweepReporter:
    """Receives the events of a sweep; every method does nothing by default.

    Attributes:
        prepare: receives the events of preparing the data.
    """

    prepare = PrepareReporter()

    def note(self, text: str) -> None:
        """A note."""

    def warn(self, text: str) -> None:
        """A warning; the sweep continues."""

    def opened(self, folder: Path, storage: str, trials: Sequence[Trial]) -> None:
        """The study is open; `trials` come from earlier calls."""

    def trial_started(self, trial: Trial) -> None:
        """A worker starts or resumes the trial's run."""

    def epoch_ended(self, trial: Trial, epoch: int, accuracy: float) -> None:
        """The trial was validated after an epoch."""

    def trial_ended(self, trial: Trial, state: str, value: float | None, message: str | None) -> None:
        """The trial is `complete`, `pruned`, `failed`, or `stopped` and will be resumed."""

    def listed(self, trials: Sequence[Trial]) -> None:
        """A trial has ended; `trials` are all trials, including those of other machines."""

    def confirming(self, runs: int) -> None:
        """The trials are done; `runs` runs now retrain the best ones."""


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials, highest value first; ties by number."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def format_value(value: Any) -> str:
    """A parameter's value with four digits, such as 0.0007341."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(frozen=True)
class _Record:
    """The part of sweep.json that `trial_settings` reads."""

    settings: dict[str, Any]
    trials: tuple[Trial, ...] = ()


def trial_settings(text: str) -> dict[str, Any]:
    """The arguments of `train` for a trial. A custom recipe is the copy in the trial's run.

    Args:
        text: SWEEP:NUMBER; SWEEP is the sweep's folder, or its name in `runs/`.

    Raises:
        UsageError: the text is malformed, or the sweep has no such trial.
        RunError: the sweep does not exist, its sweep.json is damaged, or the copied recipe has changed.
    """
    match = re.fullmatch(r"(.+):(\d+)", text)
    if match is None:
        raise UsageError(f"--from-trial {text!r} is invalid. Expected SWEEP:NUMBER, such as rates:7.")
    folders = (Path(match[1]).expanduser(), DEFAULT_ROOT / match[1])
    folder = next((folder for folder in folders if (folder / SWEEP_FILE).is_file()), None)
    if folder is None:
        raise RunError(f"{match[1]} is not a sweep: it has no {SWEEP_FILE}. Expected a sweep's folder.")
    record = files.read_json(folder / SWEEP_FILE, _Record, remedy="Repeat the sweep command to rewrite it.")
    for trial in record.trials:
        if int(match[2]) in (trial.number, *trial.attempts):
            settings = {**record.settings, **trial.params}
            run = trial_run(folder, trial.run_dir)
            if run is not None and (sha256 := run.read_config().recipe_sha256) is not None:
                # The file that the sweep was given may have changed.
                check_copy(run.recipe, sha256)
                settings["recipe"] = str(run.recipe)
            return settings
    known = ", ".join(str(trial.number) for trial in record.trials) or "none"
    raise UsageError(f"--from-trial {text}: the sweep has no trial {match[2]}. Its trials are {known}.")
