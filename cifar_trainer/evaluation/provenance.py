"""Where a report comes from: the data, the recipe, the command, the versions, and what chose the model."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from cifar_trainer.evaluation.subject import Subject


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a reader needs to judge a report, or to repeat it.

    Attributes:
        rows: names and values for a table.
        choosing: what was and what was not used for choosing the model.
    """

    rows: tuple[tuple[str, str], ...]
    choosing: str


def describe(subject: Subject) -> Provenance:
    """The provenance of a subject, from the files of its run.

    Raises:
        RunError: environment.json or history.csv cannot be read.
    """
    run, config, dataset = subject.run, subject.config, subject.dataset
    environment, result = run.read_json(run.environment), subject.result
    begun = (environment.get("earlier") or [environment])[0]
    rows_of_history = run.read_history()[: int(result["epochs"])]
    energy = [row["energy_joules"] for row in rows_of_history if row["energy_joules"] is not None]
    versions = environment.get("versions", {})
    rows = [
        ("run", _utf8(run.path.resolve().name)),
        ("command", _utf8(str(begun.get("command_line", "unknown")))),
        ("recipe", f"{config.recipe}, {result.get('parameters', 0):,} parameters"),
        (
            "training",
            f"{result.get('epochs')} epochs, batch {config.batch_size}, learning rate "
            f"{config.learning_rate:g}, seed {config.seed}, {config.precision}"
            + ("" if config.limit is None else f", {config.limit:,} images only"),
        ),
        ("device", str(environment.get("device", {}).get("description", "unknown"))),
        ("time", f"{result.get('seconds', 0):,.0f} s, {result.get('images_per_second', 0):,.0f} images/s"),
        *([("energy", f"{sum(energy):,.0f} J, of the GPU alone")] if energy else []),
        ("data", f"{dataset.title}{'; verified by its fingerprints' if dataset.verified else ''}"),
        ("training split", dataset.train.fingerprint),
        ("test split", dataset.test.fingerprint),
        ("weights, SHA-256", subject.weights_sha256),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("begun", _minute(begun.get("started_at")) + _resumed(environment)),
    ]
    return Provenance(tuple(rows), _choosing(subject))


def _choosing(subject: Subject) -> str:
    config = subject.config
    if config.validation == "test":
        return (
            "The test set was watched after each epoch, as the article does. Nothing was chosen by it: the "
            "model is the last epoch's. No training images were held out, so no temperature was fitted."
        )
    held_out = 0 if subject.held_out is None else len(subject.held_out.labels)
    return (
        f"{held_out:,} training images were held out and watched after each epoch; the model is the last "
        "epoch's. The temperature was fitted on them. "
        + (
            "The test set was used neither for training nor for any choice."
            if subject.split_name == "test"
            else "They are the images of this report; the test set was not looked at."
        )
    )


def _resumed(environment: Mapping[str, Any]) -> str:
    times = len(environment.get("earlier") or [])
    return "" if times == 0 else f"; resumed {'once' if times == 1 else f'{times} times'}"


def _minute(moment: Any) -> str:
    return str(moment)[:16].replace("T", " ") if moment else "unknown"


def _utf8(text: str) -> str:
    # A folder's name may be no UTF-8; the page is.
    return os.fsencode(text).decode("utf-8", "backslashreplace")
