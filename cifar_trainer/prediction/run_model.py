"""A run's own model, with its class names and its temperature."""

import json
from typing import Any

from cifar_trainer.data.dataset import CIFAR10_CLASSES, Dataset
from cifar_trainer.errors import DataError, RunError
from cifar_trainer.prediction.artefact import Artefact
from cifar_trainer.run import Run


def check_model(run: Run) -> None:
    """Raise RunError where the run has no model yet."""
    if not run.model.is_file():
        held = ", ".join(sorted(path.name for path in run.path.iterdir())) or "nothing"
        raise RunError(
            f"{run.path} has no model.keras (it holds {held}). "
            f"Let the training end first: cifar-trainer train --resume {run.path}"
        )


def check_data(run: Run, dataset: Dataset) -> None:
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


def open_run_model(run: Run) -> Artefact:
    """A run's `model.keras`, in float32 as an export would be. Imports TensorFlow.

    Raises:
        RunError: the run has no model, or one that cannot be read.
    """
    from cifar_trainer.inference import weights_sha256
    from cifar_trainer.prediction.keras_model import KerasModel, load_model, to_float32

    check_model(run)
    model = load_model(run.model)
    return KerasModel(to_float32(model), read_classes(run), read_temperature(run, weights_sha256(model)))


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
