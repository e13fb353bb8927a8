"""`cifar_trainer.sweep`, importable without Optuna and TensorFlow."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import files
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.splits import check_fit, fit_batch_size
from cifar_trainer.data.store import load_dataset
from cifar_trainer.extras import check_extra
from cifar_trainer.run import DEFAULT_ROOT, SWEEP_FILE
from cifar_trainer.settings import DEFAULT_DATA_DIR, Settings, check_known, declared
from cifar_trainer.sweeps.result import SweepReporter, SweepResult
from cifar_trainer.training.distributed import check_single_process
from cifar_trainer.training.transfer import find_weights

if TYPE_CHECKING:
    from cifar_trainer.sweeps.plan import Plan


def sweep(
    *,
    name: str,
    set: Iterable[str] = (),
    space: Mapping[str, Any] | Path | str | None = None,
    trials: int = 40,
    storage: str | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    workers: int = 1,
    confirm: int = 3,
    confirm_seeds: int = 1,
    heartbeat: int = 15,
    seed: int = 0,
    run_dir: Path | str | None = None,
    reporter: SweepReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
    **settings: Any,
) -> SweepResult:
    """Search for good settings by the accuracy on held-out images, and measure the best on the test set.

    Repeat the call to resume a stopped sweep; more `trials` extend it. With a PostgreSQL storage, several
    calls share the trials.

    Args:
        name: name of the study and of its folder.
        set: the ranges, such as `["learning_rate=1e-4..1e-2:log"]`.
        space: the ranges by setting, such as `{"batch_size": [32, 64]}`, or a TOML file of that form.
        trials: number of trials across all calls, including failed and pruned ones.
        storage: the database's URL; by default, a SQLite file in the sweep's folder.
        sampler: chooses the values: `tpe`, `random` or `qmc`.
        pruner: stops unpromising trials: `median`, `hyperband` or `none`.
        workers: number of worker processes; each has its own GPU if there are several.
        confirm: how many of the best trials to retrain, with new seeds, on all training images.
        confirm_seeds: number of seeds for each of them.
        heartbeat: seconds between heartbeats in a shared database. After four missing ones, other calls take
            over a call's trials.
        seed: the seed of the sampler and of every trial.
        run_dir: the sweep's folder; by default, `runs/NAME`.
        reporter: receives events; None reports nothing.
        should_stop: polled; return True to save and stop.
        verbose: show TensorFlow's own messages.
        settings: further arguments of `train`, for all trials.

    Raises:
        UsageError: a setting is invalid, or the study has different settings.
        DataError: the data are not available, or are not those of the study.
        DeviceError: the device is not available.
        SweepError: no trial is complete, or the first ones all failed. The error has the result.
        RunError: the database cannot be used, or the folder cannot be written.
        TrainingStopped: `should_stop` returned True.
    """
    check_extra("sweep", "sweep", ["optuna"])
    from cifar_trainer.sweeps.plan import RUNTIME_ARGUMENTS, Plan
    from cifar_trainer.sweeps.space import parse_space
    from cifar_trainer.sweeps.storage import Database, lock_file, parse_storage
    from cifar_trainer.sweeps.study import Study

    check_single_process("sweep")
    check_known("sweep", settings, (*declared(Settings), *RUNTIME_ARGUMENTS))
    given = {key: value for key, value in settings.items() if value is not None}
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    plan = Plan(
        name=name,
        space=parse_space(set, space),
        trials=trials,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        workers=workers,
        confirm=confirm,
        confirm_seeds=confirm_seeds,
        heartbeat=heartbeat,
        settings={key: value for key, value in arguments.items() if key not in RUNTIME_ARGUMENTS},
        runtime={key: value for key, value in arguments.items() if key in RUNTIME_ARGUMENTS},
    )
    reporter = reporter or SweepReporter()
    folder = DEFAULT_ROOT / name if run_dir is None else Path(run_dir).expanduser()
    chosen = parse_storage(storage, folder)
    fingerprint = _prepare(plan, folder, reporter)
    with files.writing(folder, "Choose another --run-dir."):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_file(chosen), Database(chosen, heartbeat) as database, database.converting_errors():
        return Study(plan, folder, database, fingerprint, reporter, should_stop, verbose).run()


def _prepare(plan: "Plan", folder: Path, reporter: SweepReporter) -> str:
    """Prepare the data and check that the settings fit them; returns the training images' fingerprint."""
    config = plan.config({})
    data_dir = Path(plan.runtime.get("data_dir", DEFAULT_DATA_DIR)).expanduser()
    plan.runtime["data_dir"] = str(data_dir.absolute())
    offline = bool(plan.runtime.get("offline"))
    # A resumed sweep must use the data that it started with.
    if not (folder / SWEEP_FILE).is_file():
        prepare(config.dataset, data_dir, offline=offline, reporter=reporter.prepare)
    dataset = load_dataset(data_dir, config.dataset)
    for values in plan.extremes():
        settings = plan.config(values)
        find_weights(settings)
        if "batch_size" not in {**plan.settings, **values}:
            settings = fit_batch_size(dataset, settings)
        check_fit(dataset, settings)
    return dataset.train.fingerprint
