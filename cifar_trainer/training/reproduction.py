"""Training a run again from its own record, to see whether it gives the same weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cifar_trainer import devices
from cifar_trainer.devices.cluster import check_alone
from cifar_trainer.results import Result
from cifar_trainer.run import Run, check_new, open_run, reserve_folder
from cifar_trainer.training.control import TrainingReporter
from cifar_trainer.training.session import resume, train


@dataclasses.dataclass(frozen=True)
class Reproduction(Result):
    """A run and the one that repeated it.

    Attributes:
        run_dir: the folder of the run.
        reproduced_in: the folder of the run that repeated it.
        same: whether both have the same weights, to the bit.
        weights_sha256: of the run that repeated it.
        expected_sha256: of the run.
        differences: what of the environment differs and may change the last bits, as sentences.
    """

    run_dir: str
    reproduced_in: str
    same: bool
    weights_sha256: str
    expected_sha256: str
    differences: tuple[str, ...]


def reproduce(
    run: Run | Path | str,
    *,
    run_dir: Path | str | None = None,
    data_dir: Path | str | None = None,
    reporter: TrainingReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
) -> Reproduction:
    """Train a finished run again with its settings and its data, and compare the weights.

    Args:
        run: the run, or its folder.
        run_dir: the folder of the new run; None is `runs/TIME-RUN-again`. The folder of a reproduction
            that was stopped goes on.
        data_dir: the folder of the prepared data sets; None is where the run found its data.
        reporter, should_stop, verbose: as in `train`.

    Raises:
        RunError: the run is not finished, or damaged.
        DataError: its data are not to be had, or others are there.
        CifarTrainerError: what else `train` raises.
    """
    check_alone("reproduce")
    run = run if isinstance(run, Run) else open_run(run)
    config, expected = run.read_config(), run.read_result()
    data = run.load_data(data_dir, ordered=True)
    common: dict[str, Any] = {"reporter": reporter, "should_stop": should_stop, "verbose": verbose}
    if expected.ended_by != "patience" and expected.epochs < config.epochs:
        common["end_after"] = expected.epochs
    folder = None if run_dir is None else Path(run_dir).expanduser()
    if folder is not None and Run(folder).config.is_file():
        settings = {k: v for k, v in config.to_json().items() if k not in ("epochs", "device")}
        result = resume(folder, settings=settings, data_dir=data.folder.parent, **common)
    else:
        if folder is None:
            folder = reserve_folder(f"{run.path.resolve().name}-again")
        else:
            check_new(folder)
        settings = config.to_json()
        if settings.pop("recipe_sha256") is not None:
            run.read_recipe()
            settings["recipe"] = run.recipe
        result = train(run_dir=folder, data_dir=data.folder.parent, **settings, **common)
    repeated = Run(Path(result.run_dir))
    return Reproduction(
        run_dir=str(run.path),
        reproduced_in=result.run_dir,
        same=result.weights_sha256 == expected.weights_sha256,
        weights_sha256=result.weights_sha256,
        expected_sha256=expected.weights_sha256,
        differences=tuple(devices.compare_environments(run.read_environment(), repeated.read_environment())),
    )
