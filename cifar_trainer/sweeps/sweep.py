"""A sweep from its settings to its page: trials, then the best ones again on all training images."""

import statistics
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna

from cifar_trainer import files
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.splits import check_fit
from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices.cluster import check_alone
from cifar_trainer.errors import RunError, TrainingStopped, UsageError
from cifar_trainer.run import DEFAULT_ROOT, Run
from cifar_trainer.settings import (
    DEFAULT_DATA_DIR,
    MAX_SEED,
    Settings,
    command_words,
    declared,
)
from cifar_trainer.sweeps.crew import Crew, CrewReporter
from cifar_trainer.sweeps.page import measure_importance, render_page
from cifar_trainer.sweeps.plan import (
    CARRIED_OUT,
    FORMAT,
    Plan,
    differences,
    worker_environments,
)
from cifar_trainer.sweeps.record import Confirmed, SweepResult, TrialRecord, best_first, write_record
from cifar_trainer.sweeps.samplers import DistinctSampler, distributions, make_pruner
from cifar_trainer.sweeps.space import parse_space
from cifar_trainer.sweeps.storage import Database, hold_alone, parse_storage
from cifar_trainer.sweeps.trials import CONFIRMS, Claim, Entry, Trials
from cifar_trainer.sweeps.worker import Job

#: Of a trial's settings, those that need held-out images.
_NEED_HOLDOUT = (
    "validation",
    "limit",
    *(name for name, declaration in declared(Settings).items() if declaration.needs_holdout),
)
#: Signs of life without which a command counts as dead.
MISSED_BEATS = 4
#: Where a study keeps what all its commands must agree on.
SETTINGS = "cifar_trainer"
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
    check_alone("sweep")
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
        settings={key: value for key, value in given.items() if key not in CARRIED_OUT},
        carried_out={key: value for key, value in given.items() if key in CARRIED_OUT},
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
    for values in [{}, *({each.name: value} for each in plan.space for value in each.extremes())]:
        check_fit(dataset, plan.config(values))
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
        others = differences(theirs, ours)
        if others:
            raise UsageError(
                f"The sweep {self._plan.name} was begun with other settings: {'; '.join(others)}. Give "
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

    def _trial_job(self, claim: Claim) -> Job:
        settings = {**self._plan.settings, "seed": self._plan.seed, "validation": "holdout", **claim.values}
        return self._job(claim, f"trial-{claim.original}", settings, evaluate=False)

    def _confirmation_job(self, claim: Claim) -> Job:
        number = claim.trial.user_attrs[CONFIRMS]
        settings = {k: v for k, v in self._plan.settings.items() if k not in _NEED_HOLDOUT}
        settings |= {k: v for k, v in claim.values.items() if k not in _NEED_HOLDOUT}
        settings |= {"validation": "train", "end_after": claim.trial.user_attrs.get("end_after")}
        return self._job(claim, f"confirmed-{number}-seed-{claim.values['seed']}", settings, evaluate=True)

    def _job(self, claim: Claim, name: str, settings: dict[str, Any], *, evaluate: bool) -> Job:
        place = (self._folder / name).absolute()
        if claim.run_dir is not None and Run(claim.run_dir).config.is_file():
            place = claim.run_dir
        if Run(place).is_held():
            # By a command that was taken for dead; it will find that the trial is no longer its own.
            place = place.with_name(f"{name}-attempt-{claim.trial.number}")
        return Job(
            settings={**settings, **self._plan.carried_out},
            run_dir=str(place),
            command_line=("train", *command_words(settings)),
            evaluate=evaluate,
            verbose=self._verbose,
        )

    def _ask_confirmations(self) -> None:
        """Let the best trials' values wait to be trained again, with seeds that no trial had."""
        study = self._confirmations.study
        with self._database.turn(study.study_name):
            known = {
                (
                    each.user_attrs.get(CONFIRMS),
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
                            user_attrs={CONFIRMS: trial.number, "end_after": _chosen_epoch(trial)},
                        )

    def _confirmed(self) -> tuple[Confirmed, ...]:
        numbers = {
            each.number: each.user_attrs[CONFIRMS]
            for each in self._confirmations.study.get_trials(deepcopy=False)
        }
        runs: dict[int, list[Entry]] = {}
        for entry in self._confirmations.entries():
            if entry.state == "complete":
                runs.setdefault(numbers[entry.number], []).append(entry)
        return tuple(
            Confirmed(
                number=trial.number,
                params=trial.params,
                runs=tuple(str(entry.run_dir) for entry in runs[trial.number]),
                test_accuracy=statistics.fmean(entry.value or 0.0 for entry in runs[trial.number]),
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

    def trial_ended(self, claim: Claim, state: str, value: float | None, message: str | None) -> None:
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
