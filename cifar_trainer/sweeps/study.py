"""Runs a sweep: trains its trials, retrains the best on all training images, and writes the page."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna

from cifar_trainer import files
from cifar_trainer.devices.cuda import visible_gpus
from cifar_trainer.errors import RunError, SweepError, TrainingStopped, UsageError
from cifar_trainer.run import SWEEP_FILE, Run
from cifar_trainer.settings import MAX_SEED, Settings, command_words, declared
from cifar_trainer.sweeps.page import measure_importance, render_page
from cifar_trainer.sweeps.plan import Plan
from cifar_trainer.sweeps.pool import WorkerPool
from cifar_trainer.sweeps.result import (
    Confirmed,
    SweepReporter,
    SweepResult,
    Trial,
    best_first,
)
from cifar_trainer.sweeps.sampler import PRUNERS, DistinctSampler
from cifar_trainer.sweeps.space import describe
from cifar_trainer.sweeps.storage import Database
from cifar_trainer.sweeps.trials import CONFIRMS, Trials
from cifar_trainer.sweeps.worker import Job

#: Settings of a trial that a retraining on all training images drops.
_NOT_CONFIRMED = (
    "validation",
    "limit",
    *(name for name, declaration in declared(Settings).items() if declaration.needs_holdout),
)
#: The attribute of a study that holds the settings of all its commands, and its format version.
SETTINGS, FORMAT = "cifar_trainer", 1
PAGE_FILE = "sweep.html"
_REMEDY = "Free some space, or make the folder writable."
#: Stop the sweep if this many trials fail at the start; their values are probably not the cause.
HOPELESS = 3


class Study:
    """The work of one `sweep` call."""

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
        self._plan, self._folder, self._database = plan, folder, database
        self._reporter, self._should_stop, self._verbose = reporter, should_stop, verbose
        #: States of the trials that have ended in this call.
        self._ended: list[str] = []
        sampler = DistinctSampler(plan.sampler, plan.seed, plan.space)
        with database.lock(plan.name):
            study = self._study(plan.name, sampler, PRUNERS[plan.pruner](plan.config({}).epochs))
            self._agree(study, agreed(plan, fingerprint))
            confirmed = self._study(
                f"{plan.name} (confirmed)", optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
            )
        self._trials = Trials(
            database,
            study,
            folder,
            plan.space,
            budget=plan.trials,
            exhausted=lambda t: sampler.untried(t) == [],
        )
        seeds = optuna.distributions.IntDistribution(0, MAX_SEED)
        self._confirmations = Trials(database, confirmed, folder, {**plan.space, "seed": seeds})

    def _study(
        self, name: str, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> optuna.Study:
        return optuna.create_study(
            storage=self._database.optuna,
            study_name=name,
            direction="maximize",
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )

    def _agree(self, study: optuna.Study, ours: dict[str, Any]) -> None:
        """Compare our settings with the study's, or store them in a new study. Call under the lock."""
        name, theirs = self._plan.name, study.user_attrs.get(SETTINGS)
        if theirs is None:
            if study.get_trials(deepcopy=False):
                raise UsageError(
                    f"--name {name}: {self._database.label} already has a study of that name, from another "
                    "program. Choose another --name."
                )
            study.set_user_attr(SETTINGS, ours)
        elif theirs.get("format", 0) > FORMAT:
            raise RunError(
                f"The sweep {name} was started by a newer version of cifar-trainer. Upgrade this one, or "
                "choose another --name."
            )
        elif others := differences(theirs, ours):
            raise UsageError(
                f"The sweep {name} was started with different settings: {'; '.join(others)}. Use the same "
                "ones to resume it, or choose another --name."
            )

    def run(self) -> SweepResult:
        """Train until the sweep is done or stopped; raises the errors of `sweep`."""
        plan = self._plan
        self._reporter.opened(self._folder, self._database.label, self._trials.listed())
        environments = worker_environments(plan.workers, str(plan.runtime.get("device", "auto")))
        pool = WorkerPool(
            plan.workers, environments, self._reporter, lambda: self._hopeless() or self._should_stop()
        )
        try:
            done = pool.run(self._trials, self._trial_job, self._trial_ended)
            if done and plan.confirm:
                self._enqueue_confirmations()
                if count := self._confirmations.unfinished():
                    self._reporter.confirming(count)
                done = pool.run(self._confirmations, self._confirmation_job, self._trial_ended)
        finally:
            pool.close()
        result = self._publish()
        failures = [trial.message for trial in result.trials if trial.message]
        if self._hopeless():
            raise SweepError(f"The first {HOPELESS} trials all failed: {failures[-1]}", result)
        if not done:
            raise TrainingStopped(self._folder)
        if result.best is None:
            reason = f" The last failure: {failures[-1]}" if failures else ""
            raise SweepError(f"None of the {len(result.trials)} trials is complete.{reason}", result)
        return result

    def _hopeless(self) -> bool:
        return len(self._ended) >= HOPELESS and not any(state != "failed" for state in self._ended)

    def _trial_job(self, trial: Trial) -> Job:
        return self._job(trial, f"trial-{trial.number}", {**self._plan.common, **trial.params})

    def _confirmation_job(self, trial: Trial) -> Job:
        all_settings = {**self._plan.settings, **trial.params}
        settings = {name: value for name, value in all_settings.items() if name not in _NOT_CONFIRMED}
        attempt = self._confirmations.study.get_trials(deepcopy=False)[trial.attempts[-1]]
        settings |= {"validation": "train", "end_after": attempt.user_attrs.get("end_after")}
        return self._job(
            trial, f"confirmed-{trial.number}-seed-{trial.params['seed']}", settings, evaluate=True
        )

    def _job(self, trial: Trial, name: str, settings: dict[str, Any], evaluate: bool = False) -> Job:
        folder = self._folder / name
        if trial.run_dir is not None and Run(Path(trial.run_dir)).config.is_file():
            folder = Path(trial.run_dir)
        if Run(folder).is_held():
            # A command that was presumed dead holds it. It will notice that the trial was taken over.
            folder = folder.with_name(f"{name}-attempt-{trial.attempts[-1]}")
        return Job(
            settings={**settings, **self._plan.runtime},
            run_dir=str(folder),
            command_line=("train", *command_words(settings)),
            evaluate=evaluate,
            verbose=self._verbose,
        )

    def _enqueue_confirmations(self) -> None:
        """Enqueue the best trials' values, with seeds that no trial had."""
        study = self._confirmations.study
        with self._database.lock(study.study_name):
            known = {
                (
                    trial.user_attrs.get(CONFIRMS),
                    (trial.system_attrs.get("fixed_params") or trial.params)["seed"],
                )
                for trial in study.get_trials(deepcopy=False)
            }
            for trial in best_first(self._trials.listed())[: self._plan.confirm]:
                for step in range(1, self._plan.confirm_seeds + 1):
                    seed = (self._plan.seed + step) % (MAX_SEED + 1)
                    if (trial.number, seed) not in known:
                        study.enqueue_trial(
                            {**trial.params, "seed": seed},
                            # Read it now: another machine may not have the trial's folder.
                            {CONFIRMS: trial.number, "end_after": _chosen_epoch(trial)},
                        )

    def _confirmed(self, trials: Iterable[Trial]) -> tuple[Confirmed, ...]:
        confirmed = []
        complete = best_first(self._confirmations.listed())
        for trial in trials:
            runs = {str(run.run_dir): run.value for run in complete if run.number == trial.number}
            accuracies = [value for value in runs.values() if value is not None]
            if accuracies:
                mean = statistics.fmean(accuracies)
                confirmed.append(Confirmed(trial.number, trial.params, tuple(sorted(runs)), mean))
        return tuple(confirmed)

    def _trial_ended(self, trial: Trial, state: str) -> None:
        if state != "stopped":
            self._ended.append(state)
        self._reporter.listed(self._save().trials)

    def _save(self, importance: dict[str, float] | None = None) -> SweepResult:
        """Write sweep.json."""
        trials = self._trials.listed()
        best = best_first(trials)
        result = SweepResult(
            name=self._plan.name,
            storage=self._database.label,
            trials=trials,
            best=best[0] if best else None,
            confirmed=self._confirmed(best),
            importance=importance,
            sweep_dir=str(self._folder),
            page=str(self._folder / PAGE_FILE),
        )
        local = {k: v for k, v in self._plan.runtime.items() if k in ("data_dir", "device")}
        record = {**result.to_json(), "settings": {**self._plan.common, **local}}
        with files.writing(self._folder, _REMEDY):
            files.write_json(self._folder / SWEEP_FILE, record)
        return result

    def _publish(self) -> SweepResult:
        """Write sweep.json and the page."""
        result = self._save(measure_importance(self._trials.study))
        page = render_page(result, self._plan)
        with files.writing(self._folder, _REMEDY):
            files.write_text(self._folder / PAGE_FILE, page)
        return result


def _chosen_epoch(trial: Trial) -> int | None:
    """The selected epoch of a trial; None if it is the last one.

    A confirming run has no held-out images to select an epoch with, so it ends after this one.
    """
    if trial.run_dir is None or not Run(Path(trial.run_dir)).result.is_file():
        return None
    result = Run(Path(trial.run_dir)).read_result()
    return None if result.chosen_epoch == result.planned_epochs else result.chosen_epoch


def agreed(plan: Plan, fingerprint: str) -> dict[str, Any]:
    """The settings that all commands of a study must share."""
    # Each recipe once, because the file of a custom one is executed.
    recipes = {{**plan.common, **values}.get("recipe"): values for values in plan.extremes()}
    hashes = {recipe: plan.config(values).recipe_sha256 for recipe, values in recipes.items()}
    return {
        "format": FORMAT,
        "space": describe(plan.space),
        "settings": plan.common,
        "recipes": {recipe: sha256 for recipe, sha256 in hashes.items() if sha256 is not None},
        "data": fingerprint,
    }


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Differences between a study's settings and a command's (see `agreed`), in words."""
    different = []
    for part in ("space", "settings"):
        before, now = theirs.get(part, {}), ours[part]
        different += [
            f"{key} was {before.get(key, 'not given')}, now {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    # Earlier versions did not record the recipes' files.
    known = theirs.get("recipes", {})
    different += [
        f"the file {path} was different"
        for path, sha256 in ours["recipes"].items()
        if known.get(path, sha256) != sha256
    ]
    if theirs.get("data") != ours["data"]:
        different.append("the training images were different")
    return different


def worker_environments(workers: int, device: str) -> list[dict[str, str]]:
    """Environment variables that give each worker its own GPU; empty unless there are several."""
    gpus = visible_gpus()
    if device == "cpu" or workers == 1 or len(gpus) < 2:
        return [{}]
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
