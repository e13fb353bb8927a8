"""A metric is declared once; what a user should know about an epoch is said in plain words."""

from pathlib import Path
from typing import Any

import pytest

from cifar_trainer.settings import Settings
from cifar_trainer.training.history import METRICS, concerns, format_epoch, write_history

SHARES = [0.1] * 10
CONFIG = Settings("document", "synthetic", 10, 32, 0.001)


def row(**changes: Any) -> dict[str, Any]:
    good = {"epoch": 1, "loss": 1.5, "accuracy": 0.45, "val_loss": 1.4, "val_accuracy": 0.5}
    return {**good, "images_per_second": 2000.0, "seconds": 25.0, "compile_seconds": 0.0, **changes}


def test_a_metric_has_its_column_in_the_order_of_the_table(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [row()])
    header, values = (tmp_path / "history.csv").read_text().splitlines()
    assert header.split(",") == ["epoch", *(metric.name for metric in METRICS)]
    assert values.startswith("1,1.5,0.45,")


def test_a_line_shows_what_there_is() -> None:
    assert format_epoch(row(power_watts=None), 10) == (
        "epoch  1/10  loss 1.5000  accuracy 45.00%  val_loss 1.4000  val_accuracy 50.00%  "
        "2,000 images/s  25.0 s"
    )


def test_compilation_is_shown_where_there_was_some() -> None:
    assert format_epoch(row(compile_seconds=2.0), 10).endswith("compiled in 2.0 s")


def test_an_ordinary_epoch_is_no_concern() -> None:
    assert concerns(row(), SHARES, CONFIG, 0.001) == {}


@pytest.mark.parametrize(
    ("rate", "remedy"), [(0.1, "a lower --learning-rate"), (1e-7, "a higher --learning-rate"), (1e-3, "more")]
)
def test_where_nothing_was_learned_the_remedy_depends_on_the_learning_rate(rate: float, remedy: str) -> None:
    config = Settings("document", "synthetic", 10, 32, rate)
    found = concerns(row(loss=2.31, accuracy=0.1, val_accuracy=0.1), SHARES, config, 0.001)
    assert f"Try {remedy}" in found["nothing learned"]


def test_a_class_that_is_most_of_the_images_is_what_chance_gives() -> None:
    shares = [0.9, 0.1]
    assert (
        "chance 90.00%"
        in concerns(row(loss=0.33, accuracy=0.9, val_accuracy=0.9), shares, CONFIG, 0.001)["nothing learned"]
    )


def test_training_far_above_validation_is_a_concern_in_the_first_epochs_only() -> None:
    found = [
        set(concerns(row(epoch=epoch, accuracy=0.508, val_accuracy=0.124), SHARES, CONFIG, 0.001))
        for epoch in (2, 9)
    ]
    assert found == [{"far above validation"}, set()]
