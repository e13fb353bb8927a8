"""A metric is declared once; what a user should know about an epoch is said in plain words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.settings import Settings
from cifar_trainer.training.history import METRICS, concerns, format_epoch, training_metrics, write_history

SHARES = [0.1] * 10


def row(**changes: Any) -> dict[str, Any]:
    good = {"epoch": 1, "loss": 1.5, "accuracy": 0.45, "val_loss": 1.4, "val_accuracy": 0.5}
    return {**good, "images_per_second": 2000.0, "seconds": 25.0, "compile_seconds": 0.0, **changes}


def test_a_metric_has_its_column_in_the_order_of_the_table(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [row()])
    header, values = (tmp_path / "history.csv").read_text().splitlines()
    assert header.split(",") == ["epoch", *(metric.name for metric in METRICS)]
    assert values.startswith("1,1.5,0.45,")


def test_the_loss_of_an_epoch_is_summed_in_float64() -> None:
    """In float32, 2**25 + 2 is 2**25."""
    losses = np.array([2.0**24, 1.0], np.float32)
    assert training_metrics(losses, np.ones(2, np.int32), np.full(2, 2)) == ((2.0**25 + 2) / 4, 0.5)


def test_a_line_shows_what_there_is() -> None:
    assert format_epoch(row(power_watts=None), 10) == (
        "epoch  1/10  loss 1.5000  accuracy 45.00%  val_loss 1.4000  val_accuracy 50.00%  "
        "2,000 images/s  25.0 s"
    )


def test_compilation_is_shown_where_there_was_some() -> None:
    assert format_epoch(row(compile_seconds=2.0), 10).endswith("compiled in 2.0 s")


def concerns_of(
    row: dict[str, Any],
    shares: list[float] = SHARES,
    *,
    rate: float = 0.001,
    steps: int = 500,
    classes: int = 10,
) -> dict[str, str]:
    config = Settings("tutorial", "synthetic", 10, 32, rate)
    return concerns(row, shares, config, 0.001, steps=steps, predicted_classes=classes)


def chance(**changes: Any) -> dict[str, Any]:
    return row(**{"loss": 2.31, "accuracy": 0.1, "val_accuracy": 0.1, **changes})


@pytest.mark.parametrize(
    ("epoch", "arguments"),
    [
        pytest.param(row(), {}, id="an ordinary epoch"),
        pytest.param(chance(val_accuracy=0.1612), {}, id="the epoch's mean is chance, its end is not"),
        pytest.param(chance(), {"steps": 20}, id="the first steps"),
        pytest.param(row(epoch=9, accuracy=0.508, val_accuracy=0.124), {}, id="a gap late in the run"),
        pytest.param(
            row(accuracy=0.7, val_accuracy=0.7), {"shares": [0.5, 0.5], "classes": 1}, id="equal ones"
        ),
    ],
)
def test_what_is_not_a_concern(epoch: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert concerns_of(epoch, **arguments) == {}


@pytest.mark.parametrize(
    ("epoch", "arguments", "name", "text"),
    [
        (chance(), {"rate": 0.1}, "nothing learned", "Try a lower --learning-rate"),
        (chance(), {"rate": 1e-7}, "nothing learned", "Try a higher --learning-rate"),
        (chance(), {}, "nothing learned", "Try more"),
        (chance(loss=80.0), {"steps": 20}, "nothing learned", "chance 10.00%"),
        (row(accuracy=0.508, val_accuracy=0.124), {}, "far above validation", "check that the validation"),
        (
            row(loss=0.02, accuracy=0.9956, val_accuracy=0.9956),
            {"shares": [450 / 452, 2 / 452], "classes": 1, "steps": 15},
            "one class", "--class-weights balanced",
        ),
    ],
)  # fmt: skip
def test_what_is_a_concern_and_what_to_try(
    epoch: dict[str, Any], arguments: dict[str, Any], name: str, text: str
) -> None:
    found = concerns_of(epoch, **arguments)
    assert list(found) == [name]
    assert text in found[name]
