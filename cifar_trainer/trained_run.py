"""What a finished run offers to others: its data, its model, and what `evaluate` has fitted."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer import records
from cifar_trainer.errors import DataError, DataNotFoundError, RunError
from cifar_trainer.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from cifar_trainer.data.dataset import Dataset
    from cifar_trainer.metrics import Thresholds

from cifar_trainer.run import DataRecord, Run, TrainResult


def check_model(run: Run) -> None:
    """Raise RunError where the run has no model yet, or is of a recipe that this version does not know."""
    run.check_recipe()
    if not run.model.is_file():
        held = ", ".join(sorted(path.name for path in run.path.iterdir())) or "nothing"
        raise RunError(
            f"{run.path} has no model.keras (it holds {held}). "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


def load_data(run: Run, data_dir: Path | None = None, *, ordered: bool | None = None) -> "Dataset":
    """The data that a run was trained on.

    Args:
        run: the run.
        data_dir: where the data lie. None is where the run found them, if they are still there, else `data/`.
        ordered: whether the images must lie in the same order. None is: if the run has set some aside by
            their places.

    Raises:
        DataNotFoundError: no data are prepared there.
        DataError: they are not the run's, or damaged.
        RunError: config.json is damaged.
    """
    from cifar_trainer.data.store import load_dataset

    record = run.read_data()
    places = [data_dir] if data_dir is not None else [*_recorded(record), DEFAULT_DATA_DIR]
    place = next((folder for folder in places if (folder / record.name).is_dir()), places[0])
    try:
        dataset = load_dataset(place, record.name)
    except DataNotFoundError as error:
        was = f" It was trained on data in {record.data_dir}." if record.data_dir else ""
        raise DataNotFoundError(f"The data of {run.path} are not in {place}.{was} {error}") from error
    in_order = run.read_config().validation == "holdout" if ordered is None else ordered
    difference = difference_to(record, dataset, ordered=in_order)
    if difference is not None:
        raise DataError(f"{run.path} {difference}")
    return dataset


def _recorded(record: DataRecord) -> list[Path]:
    return [] if record.data_dir is None else [Path(record.data_dir)]


def difference_to(record: DataRecord, dataset: "Dataset", *, ordered: bool) -> str | None:
    """How a dataset differs from the one of a run, in words that follow the run's name; None if it does not.

    Args:
        record: the run's data.
        dataset: what is there now.
        ordered: whether the training images must lie in the same order.
    """
    for name, was, now in (("train", record.train, dataset.train), ("test", record.test, dataset.test)):
        if was.fingerprint != now.fingerprint:
            return (
                f"was trained on other data: its {name} split has the fingerprint {was.fingerprint}, the one "
                f"in {dataset.folder} has {now.fingerprint}. Name the right folder with --data-dir."
            )
    if ordered and record.train.sha256 != dataset.train.sha256:
        return (
            f"was trained on the same images in another order than in {dataset.folder}, which was prepared "
            "from another source. Prepare the run's own source into another --data-dir, and name that."
        )
    return None


def check_weights(run: Run, result: TrainResult, weights_sha256: str) -> None:
    """Raise RunError unless a run's result.json is about the weights of its model."""
    if result.weights_sha256 != weights_sha256:
        raise RunError(
            f"The model of {run.path} is not the one that its result.json is about. "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


@dataclasses.dataclass(frozen=True)
class _Calibration:
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class _Thresholds:
    energy: float
    probability: float


@dataclasses.dataclass(frozen=True)
class _Unfamiliar:
    thresholds: _Thresholds


@dataclasses.dataclass(frozen=True)
class _Evaluated:
    """What of a report.json an export needs."""

    weights_sha256: str
    calibration: _Calibration | None = None
    unfamiliar: _Unfamiliar | None = None


def read_temperature(run: Run, weights_sha256: str) -> float:
    """The temperature that `evaluate` has fitted on held-out images for these weights, or 1.

    Reports on both splits hold the same one; a report on other weights is passed over.

    Raises:
        RunError: a report cannot be read, or holds a temperature that is no positive number.
    """
    for path, report in _reports(run, weights_sha256):
        temperature = report.calibration.temperature if report.calibration else None
        if temperature is None:
            continue
        if not (math.isfinite(temperature) and temperature > 0):
            raise RunError(
                f"{path} holds the temperature {temperature}; expected a number above 0. "
                f"{_evaluate_again(run)}"
            )
        return temperature
    return 1.0


def read_thresholds(run: Run, weights_sha256: str) -> "Thresholds | None":
    """The thresholds of unfamiliar images that `evaluate` has fitted for these weights; None if it has not.

    Raises:
        RunError: a report cannot be read.
    """
    from cifar_trainer.metrics import Thresholds

    for _, report in _reports(run, weights_sha256):
        if report.unfamiliar is not None:
            return Thresholds(**dataclasses.asdict(report.unfamiliar.thresholds))
    return None


def _reports(run: Run, weights_sha256: str) -> Iterator[tuple[Path, _Evaluated]]:
    """The run's reports on a model of these weights, and where they stand."""
    for split in ("validation", "test"):
        path = run.evaluation(split) / "report.json"
        if path.is_file():
            report = records.read(path, _Evaluated, remedy=_evaluate_again(run))
            if report.weights_sha256 == weights_sha256:
                yield path, report


def _evaluate_again(run: Run) -> str:
    return f"Write it again with: cifar-trainer evaluate {run.path}"
