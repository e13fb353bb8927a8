"""Which runs belong together, and what is said of each group."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.comparison import Evaluated, check_comparable, compare, comparison_figure
from cifar_trainer.config import TrainConfig
from cifar_trainer.errors import UsageError
from cifar_trainer.plots import LIGHT, pixels
from cifar_trainer.run import Run

RIGHT = np.array([True, True, False, True])


def evaluated(name: str, accuracy: float, right: np.ndarray = RIGHT, **settings: Any) -> Evaluated:
    values = {
        "recipe": "document",
        "dataset": "cifar10",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.001,
    }
    return Evaluated(
        run=Run(Path("runs") / name),
        config=TrainConfig(**{**values, **settings}),
        accuracy=accuracy,
        interval=(accuracy - 0.01, accuracy + 0.01),
        loss=1 - accuracy,
        ece=0.05,
        epochs=2,
        seconds=100 * accuracy,
        parameters=122570,
        joules=None,
        right=right,
        history=[{"epoch": e, "val_accuracy": accuracy - 0.1 / e} for e in (1.0, 2.0)],
    )


@pytest.fixture
def six() -> list[Evaluated]:
    return [
        *(evaluated(f"d{seed}", a, seed=seed) for seed, a in enumerate((0.70, 0.72, 0.71))),
        *(
            evaluated(f"r{seed}", a, seed=seed, recipe="regularized")
            for seed, a in enumerate((0.75, 0.77, 0.76))
        ),
    ]


def test_seeds_of_one_recipe_are_grouped_as_mean_deviation_and_n(six: list[Evaluated]) -> None:
    groups = compare("test", six).to_json()["groups"]
    assert [group["name"] for group in groups] == ["document", "regularized"]
    assert [group["n"] for group in groups] == [3, 3]
    assert groups[0]["seeds"] == [0, 1, 2]
    assert groups[0]["accuracy"]["mean"] == pytest.approx(0.71)
    deviation = groups[1]["accuracy"]["standard_deviation"]
    assert deviation == pytest.approx(statistics.stdev([0.75, 0.77, 0.76]))


def test_runs_that_differ_by_more_than_the_seed_are_apart_and_the_name_says_by_what() -> None:
    runs = [
        evaluated("a", 0.7),
        evaluated("b", 0.7, seed=1, batch_size=64),
        evaluated("c", 0.7, device="gpu"),
    ]
    groups = compare("test", runs).groups
    assert [group.name for group in groups] == ["document, batch_size 32", "document, batch_size 64"]
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[1].to_json()["accuracy"]["standard_deviation"] is None


def test_each_run_is_tested_against_the_first() -> None:
    runs = [evaluated("a", 0.75), evaluated("b", 0.5, ~RIGHT), evaluated("c", 0.75)]
    tests = compare("test", runs).to_json()["mcnemar"]
    assert [(test["first"], test["second"]) for test in tests] == [("runs/a", "runs/b"), ("runs/a", "runs/c")]
    assert (tests[0]["only_first"], tests[0]["only_second"]) == (3, 1)
    assert tests[1]["p_value"] == 1


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    a, b = evaluated("a", 0.7), evaluated("b", 0.7, dataset="synthetic")
    held = evaluated("h", 0.7, validation="holdout")
    other = evaluated("o", 0.7, validation="holdout", seed=1)
    for runs, split, expected in [
        ([a], "test", "two runs or more"),
        ([a, a], "test", "named twice"),
        ([a, b], "test", "different data"),
        ([held, other], "validation", "same images"),
        ([a, held], "validation", "same images"),
    ]:
        with pytest.raises(UsageError, match=expected):
            check_comparable([(each.run, each.config) for each in runs], split)
    check_comparable([(each.run, each.config) for each in (held, other)], "test")


def test_the_picture_has_a_line_for_each_run_and_one_name_for_each_group(six: list[Evaluated]) -> None:
    figure = comparison_figure(compare("test", six), LIGHT)
    curves, accuracies = figure.axes
    assert len(curves.lines) == 6
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "document (n = 3)", "regularized (n = 3)",
    ]  # fmt: skip
    assert [text.get_text() for text in accuracies.get_yticklabels()] == ["d0", "d1", "d2", "r0", "r1", "r2"]
    assert pixels(figure).std() > 5
