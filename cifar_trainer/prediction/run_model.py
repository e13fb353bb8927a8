"""A run's own model, with its class names and its temperature."""

import json

from cifar_trainer.data.dataset import CIFAR10_CLASSES
from cifar_trainer.errors import RunError
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


def open_run_model(run: Run) -> Artefact:
    """A run's `model.keras`, in float32 as an export would be. Imports TensorFlow.

    Raises:
        RunError: the run has no model, or one that cannot be read.
    """
    from cifar_trainer.prediction.keras_model import KerasModel, load_model, to_float32

    check_model(run)
    model = to_float32(load_model(run.model))
    return KerasModel(model, read_classes(run), read_temperature(run))


def read_classes(run: Run) -> tuple[str, ...]:
    """The class names that the run has noted, or CIFAR-10's."""
    data = run.read_json(run.config).get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    return tuple(classes) if classes else CIFAR10_CLASSES


def read_temperature(run: Run) -> float:
    """The temperature that evaluating the validation split has calibrated, or 1.

    Raises:
        RunError: the report holds one that is no positive number.
    """
    report = run.evaluation("validation") / "report.json"
    if not report.is_file():
        return 1.0
    calibration = run.read_json(report).get("calibration")
    temperature = calibration.get("temperature") if isinstance(calibration, dict) else None
    if temperature is None:
        return 1.0
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise RunError(
            f"{report} holds the temperature {json.dumps(temperature)}; expected a number above 0."
        )
    return float(temperature)
