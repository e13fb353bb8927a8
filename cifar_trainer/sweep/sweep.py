"""A sweep from its settings to its page: trials, then the best ones again on all training images."""

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cifar_trainer import files
from cifar_trainer.config import (
    DEFAULT_DATA_DIR,
    MAX_SEED,
    TrainConfig,
    check_choice,
    check_count,
    check_seed,
)
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.preparation import prepare
from cifar_trainer.data.splits import check_fit
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import RunError, TrainingStopped, UsageError
from cifar_trainer.recipes import get_recipe
from cifar_trainer.run import DEFAULT_ROOT, Run
from cifar_trainer.run_folder import is_held
from cifar_trainer.sweep.crew import Crew, CrewReporter
from cifar_trainer.sweep.record import Confirmed, SweepResult, TrialRecord, best_first, write_record
from cifar_trainer.sweep.space import Space, describe, parse_space
from cifar_trainer.sweep.storage import Database, check_installed, hold_alone, parse_storage

SAMPLERS = ("tpe", "random", "qmc")
PRUNERS = ("median", "hyperband", "none")
#: Signs of life without which a command counts as dead.
MISSED_BEATS = 4
#: Where a study keeps what all its commands must agree on; the version of that.
SETTINGS, FORMAT = "cifar_trainer", 1
#: Arguments of `train` that say how a run is carried out: each command chooses its own.
_CARRIED_OUT = ("data_dir", "device", "offline", "checkpoint_every", "profile", "histograms")
#: Of a trial's settings, those that need held-out images.
_NEED_HOLDOUT = ("patience", "keep", "validation", "limit")
PAGE_FILE = "sweep.html"


class SweepReporter(CrewReporter):
    """Told what happens in a sweep.

    Attributes:
        prepare: told what happens while the data are prepared.
    """

    prepare = PrepareReporter()

    def begun(self, folder: Path, storage: str, trials: tuple[TrialRecord, ...]) -> None:
        """The study is open; `trials` are those that it has already."""

    def listed(self, trials: tuple[TrialRecord, ...]) -> None:
        """A trial has ended; these are all that there are, here and elsewhere."""

    def confirming(self, runs: int) -> None:
        """The trials are done; the best ones are trained again in so many runs."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep does, checked.

    Attributes:
        name: of the study.
        space: what varies.
        trials: how many there are to be, over all commands.
        sampler, pruner: of `SAMPLERS` and `PRUNERS`.
        seed: of the sampler, and of all trials.
        workers: processes of this command.
        confirm: how many of the best are trained again.
        confirm_seeds: with how many seeds each.
        heartbeat: seconds between signs of life, for a database that several commands share.
        settings: the arguments of `train` that all trials have in common.
        carried_out: those that this command has chosen for its own.

    Raises:
        UsageError: a value is out of its range.
    """

    name: str
    space: Space
    trials: int
    sampler: str
    pruner: str
    seed: int
    workers: int
    confirm: int
    confirm_seeds: int
    heartbeat: int
    settings: dict[str, Any]
    carried_out: dict[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.name):
            raise UsageError(
                f"--name {self.name!r} cannot be used. Expected up to 100 letters, digits, '-', '_', '.'."
            )
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_seed(self.seed)
        for name in ("trials", "workers", "heartbeat", "confirm_seeds"):
            check_count(name.replace("_", "-"), getattr(self, name))
        if self.confirm < 0:
            raise UsageError(f"--confirm {self.confirm} is out of range. Expected a whole number from 0 up.")
        validation = self.settings.get("validation", "holdout")
        if validation != "holdout":
            raise UsageError(
                f"--validation {validation}: a sweep chooses by held-out images, so that the test set stays "
                "an independent check. Leave it out, or give --validation holdout."
            )
        for parameter in self.space:
            if parameter.name in self.settings:
                raise UsageError(
                    f"{parameter.name} was given both a value and a range. Leave out one of them."
                )
            for value in parameter.extremes():
                self.config({parameter.name: value})

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """The settings of a trial with these values, the rest as the recipe has them.

        Raises:
            UsageError: they are not possible.
        """
        given = {"dataset": "cifar10", "recipe": "document", **self.settings, **values}
        recipe = get_recipe(str(given["recipe"]))
        defaults = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "learning_rate")}
        return TrainConfig(**{**defaults, **given, "seed": self.seed, "validation": "holdout"})

    def agreed(self, fingerprint: str) -> dict[str, Any]:
        """What all commands of a study must have in common."""
        return {
            "format": FORMAT,
            "space": describe(self.space),
            "settings": {**self.settings, "seed": self.seed, "validation": "holdout"},
            "data": fingerprint,
        }


def sweep(
    *,
    name: str,
    assignments: Iterable[str] = (),
    space_file: Path | None = None,
    trials: int = 40,
    storage: str | None = None,
    run_dir: Path | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    workers: int = 1,
    confirm: int = 3,
    confirm_seeds: int = 1,
    heartbeat: int = 15,
    seed: int = 0,
    reporter: SweepReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
    **settings: Any,
) -> SweepResult:
    """Look for good settings, by the accuracy on held-out images, and measure the best on the test set.

    The same call again goes on with what was stopped, and with more `trials` adds to them. With a
    PostgreSQL storage, several calls share the trials.

    Args:
        name: of the study, and of its folder.
        assignments: what varies, such as `learning_rate=1e-4..1e-2:log`.
        space_file: the same as a TOML file.
        trials: how many, over all calls; failed and pruned ones count.
        storage: a database's URL; None is a SQLite file in the sweep's folder.
        run_dir: the sweep's folder; None is `runs/NAME`.
        sampler: chooses the values: `tpe`, `random` or `qmc`.
        pruner: ends trials that do badly: `median`, `hyperband` or `none`.
        workers: processes that train side by side; where there are GPUs, each has one.
        confirm: how many of the best are trained again, with other seeds, on all training images.
        confirm_seeds: how many seeds each of them.
        heartbeat: seconds between signs of life in a shared database. Without four of them, the trials of a
            call are taken over by others.
        seed: of the sampler, and of every trial.
        reporter: told what happens; None tells nobody.
        should_stop: asked whether to save and stop.
        verbose: show TensorFlow's own messages.
        settings: further arguments of `train`, for all trials.

    Raises:
        UsageError: a setting is not possible, or the study has others.
        DataError: the data cannot be had, or are not those of the study.
        DeviceError: the device is not there.
        RunError: the database cannot be used, the folder cannot be written, or no trial was completed.
        TrainingStopped: `should_stop` asked for it.
    """
    check_installed()
    given = {key: value for key, value in settings.items() if value is not None}
    plan = Plan(
        name=name,
        space=parse_space(assignments, space_file),
        trials=trials,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        workers=workers,
        confirm=confirm,
        confirm_seeds=confirm_seeds,
        heartbeat=heartbeat,
        settings={key: value for key, value in given.items() if key not in _CARRIED_OUT},
        carried_out={key: value for key, value in given.items() if key in _CARRIED_OUT},
    )
    reporter = reporter or SweepReporter()
    folder = Path(run_dir).expanduser() if run_dir is not None else DEFAULT_ROOT / name
    chosen = parse_storage(storage, folder)
    fingerprint = _prepare(plan, reporter)
    with files.writing(folder, "Choose another --run-dir."):
        folder.mkdir(parents=True, exist_ok=True)
    with (
        hold_alone(chosen),
        Database(chosen, heartbeat, MISSED_BEATS * heartbeat) as database,
        database.telling_errors(),
    ):
        return _Sweep(plan, folder, database, fingerprint, reporter, should_stop, verbose).run()


def _prepare(plan: Plan, reporter: SweepReporter) -> str:
    """Prepare the data, and check that the settings fit them; the fingerprint of the training images."""
    config = plan.config({})
    data_dir = Path(plan.carried_out.get("data_dir", DEFAULT_DATA_DIR)).expanduser()
    plan.carried_out["data_dir"] = str(data_dir.absolute())
    offline = bool(plan.carried_out.get("offline"))
    prepare(config.dataset, data_dir, offline=offline, reporter=reporter.prepare)
    dataset = load_dataset(data_dir, config.dataset)
    check_fit(dataset, config)
    return dataset.train.fingerprint


class _Sweep:
    def __init__(
        self,
        plan: Plan,
        folder: Path,
        database: Database,
        fingerprint: str,
        reporter: SweepReporter,
        should_stop: Callable[[], bool],
        verbose: bool,
    ) -> None:
        import optuna

        from cifar_trainer.sweep.samplers import DistinctSampler, distributions, make_pruner
        from cifar_trainer.sweep.trials import Trials

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan, self._folder, self._database = plan, folder, database
        self._reporter, self._should_stop, self._verbose = reporter, should_stop, verbose
        sampler = DistinctSampler(plan.sampler, plan.seed, plan.space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = make_pruner(plan.pruner, plan.config({}).epochs)
        with database.turn(plan.name):
            self._study = optuna.create_study(
                storage=database.optuna,
                study_name=plan.name,
                direction="maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )
            self._agree(plan.agreed(fingerprint))
            confirmed = optuna.create_study(
                storage=database.optuna,
                study_name=f"{plan.name} (confirmed)",
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(plan.seed),
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        space = distributions(plan.space)
        self._trials = Trials(
            database, self._study, space, budget=plan.trials, exhausted=lambda t: sampler.left(t) == []
        )
        seeds = optuna.distributions.IntDistribution(0, MAX_SEED)
        self._confirmations = Trials(database, confirmed, {**space, "seed": seeds})

    def _agree(self, ours: dict[str, Any]) -> None:
        """Make sure that the study was begun by the same settings, or begin it. Only in a turn."""
        theirs = self._study.user_attrs.get(SETTINGS)
        if theirs is None:
            if self._study.get_trials(deepcopy=False):
                raise UsageError(
                    f"--name {self._plan.name}: {self._database.label} has a study of that name by another "
                    "program. Choose another --name."
                )
            self._study.set_user_attr(SETTINGS, ours)
            return
        if theirs.get("format", 0) > FORMAT:
            raise RunError(
                f"The sweep {self._plan.name} was begun by a newer version of cifar-trainer. Upgrade this "
                "one, or choose another --name."
            )
        differences = _differences(theirs, ours)
        if differences:
            raise UsageError(
                f"The sweep {self._plan.name} was begun with other settings: {'; '.join(differences)}. Give "
                "the same ones to go on with it, or choose another --name."
            )

    def run(self) -> SweepResult:
        plan = self._plan
        self._reporter.begun(self._folder, self._database.label, self._records())
        crew = Crew(
            plan.workers,
            worker_environments(plan.workers, str(plan.carried_out.get("device", "auto"))),
            _Recorder(self),
            self._should_stop,
            None if self._database.alone else plan.heartbeat,
        )
        try:
            done = crew.run(self._trials, self._trial_job)
            if done and plan.confirm:
                self._ask_confirmations()
                if self._confirmations.open():
                    self._reporter.confirming(self._confirmations.open())
                done = crew.run(self._confirmations, self._confirmation_job)
        finally:
            crew.close()
        result = self._publish()
        if not done:
            raise TrainingStopped(self._folder)
        if result.best is None:
            failures = [trial.message for trial in result.trials if trial.message]
            reason = f" The last failure: {failures[-1]}" if failures else ""
            raise RunError(f"None of the {len(result.trials)} trials was completed.{reason}")
        return result

    def _records(self) -> tuple[TrialRecord, ...]:
        return tuple(
            TrialRecord(
                each.number, each.state, each.params, each.value, each.run_dir, each.message, each.attempts
            )
            for each in self._trials.entries()
        )

    def _trial_job(self, claim: Any) -> Any:
        settings = {**self._plan.settings, "seed": self._plan.seed, "validation": "holdout", **claim.values}
        return self._job(claim, f"trial-{claim.original}", settings, evaluate=False)

    def _confirmation_job(self, claim: Any) -> Any:
        number = claim.trial.user_attrs["confirms"]
        settings = {k: v for k, v in self._plan.settings.items() if k not in _NEED_HOLDOUT}
        settings |= {k: v for k, v in claim.values.items() if k not in _NEED_HOLDOUT}
        settings |= {"validation": "train", "end_after": claim.trial.user_attrs.get("end_after")}
        return self._job(claim, f"confirmed-{number}-seed-{claim.values['seed']}", settings, evaluate=True)

    def _job(self, claim: Any, name: str, settings: dict[str, Any], *, evaluate: bool) -> Any:
        from cifar_trainer.sweep.worker import Job

        place = (self._folder / name).absolute()
        if claim.run_dir is not None and Run(claim.run_dir).config.is_file():
            place = claim.run_dir
        if is_held(Run(place)):
            # By a command that was taken for dead; it will find that the trial is no longer its own.
            place = place.with_name(f"{name}-attempt-{claim.trial.number}")
        command_line = ["train"]
        for key, value in settings.items():
            if value is not None:
                command_line += [f"--{key.replace('_', '-')}", str(value)]
        return Job(
            settings={**settings, **self._plan.carried_out},
            run_dir=str(place),
            command_line=tuple(command_line),
            evaluate=evaluate,
            verbose=self._verbose,
        )

    def _ask_confirmations(self) -> None:
        """Let the best trials' values wait to be trained again, with seeds that no trial had."""
        study = self._confirmations.study
        with self._database.turn(study.study_name):
            known = {
                (
                    each.user_attrs.get("confirms"),
                    (each.system_attrs.get("fixed_params") or each.params)["seed"],
                )
                for each in study.get_trials(deepcopy=False)
            }
            for trial in best_first(self._records())[: self._plan.confirm]:
                for step in range(1, self._plan.confirm_seeds + 1):
                    seed = (self._plan.seed + step) % (MAX_SEED + 1)
                    if (trial.number, seed) not in known:
                        study.enqueue_trial(
                            {**trial.params, "seed": seed},
                            user_attrs={"confirms": trial.number, "end_after": _chosen_epoch(trial)},
                        )

    def _confirmed(self) -> tuple[Confirmed, ...]:
        numbers = {
            each.number: each.user_attrs["confirms"]
            for each in self._confirmations.study.get_trials(deepcopy=False)
        }
        runs: dict[int, list[Any]] = {}
        for entry in self._confirmations.entries():
            if entry.state == "complete":
                runs.setdefault(numbers[entry.number], []).append(entry)
        return tuple(
            Confirmed(
                number=trial.number,
                params=trial.params,
                runs=tuple(str(entry.run_dir) for entry in runs[trial.number]),
                test_accuracy=sum(entry.value for entry in runs[trial.number]) / len(runs[trial.number]),
            )
            for trial in best_first(self._records())
            if trial.number in runs
        )

    def trial_ended(self) -> None:
        """Write sweep.json anew, and tell what there is."""
        result = self._result(None)
        self._write(result)
        self._reporter.listed(result.trials)

    def _result(self, importance: dict[str, float] | None) -> SweepResult:
        records = self._records()
        return SweepResult(
            name=self._plan.name,
            storage=self._database.label,
            trials=records,
            best=next(iter(best_first(records)), None),
            confirmed=self._confirmed(),
            importance=importance,
            sweep_dir=str(self._folder),
            page=str(self._folder / PAGE_FILE),
        )

    def _write(self, result: SweepResult) -> None:
        settings = self._study.user_attrs[SETTINGS]["settings"]
        places = {k: v for k, v in self._plan.carried_out.items() if k in ("data_dir", "device")}
        with files.writing(self._folder, "Make room, or give write access to it."):
            write_record(self._folder, result, {**settings, **places})

    def _publish(self) -> SweepResult:
        """Write sweep.json and the page."""
        from cifar_trainer.sweep.page import measure_importance, render_page

        result = self._result(measure_importance(self._study))
        self._write(result)
        page = render_page(
            result,
            self._trials.entries(),
            self._plan.sampler,
            self._plan.pruner,
            self._study.user_attrs[SETTINGS],
        )
        with files.writing(self._folder, "Make room, or give write access to it."):
            files.write_text(self._folder / PAGE_FILE, page)
        return result


class _Recorder(CrewReporter):
    """Passes on what happens, and keeps sweep.json up to date."""

    def __init__(self, owner: _Sweep) -> None:
        self._owner, reporter = owner, owner._reporter
        self.note, self.warn = reporter.note, reporter.warn  # type: ignore[method-assign]
        self.trial_begun, self.epoch_ended = reporter.trial_begun, reporter.epoch_ended  # type: ignore[method-assign]

    def trial_ended(self, claim: Any, state: str, value: float | None, message: str | None) -> None:
        self._owner._reporter.trial_ended(claim, state, value, message)
        self._owner.trial_ended()


def _chosen_epoch(trial: TrialRecord) -> int | None:
    """The epoch whose weights the trial's model has, where it is not the last one that was planned.

    Without held-out images nothing can be chosen by them, so a confirming run ends there.
    """
    if trial.run_dir is None or not Run(Path(trial.run_dir)).result.is_file():
        return None
    result = Run(Path(trial.run_dir)).read_result()
    return None if result.chosen_epoch == result.planned_epochs else result.chosen_epoch


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    found = []
    for part in ("space", "settings"):
        before, now = theirs.get(part, {}), ours[part]
        found += [
            f"{key} was {before.get(key, 'not given')}, now {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    if theirs.get("data") != ours["data"]:
        found.append("the training images were others")
    return found


def worker_environments(workers: int, device: str) -> list[dict[str, str]]:
    """Variables that give each worker a GPU of its own, as far as there are any; else they change nothing."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        gpus = [each.strip() for each in given.split(",") if each.strip() and each.strip() != "-1"]
    else:
        found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
        gpus = sorted((each[1] for each in found if each), key=int)
    if device == "cpu" or workers == 1 or len(gpus) < 2:
        return [{}]
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
