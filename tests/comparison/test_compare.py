"""Which runs can be compared, which belong together, and what is reported about them."""

import io
import json
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cifar_trainer.cli import compare
from cifar_trainer.cli.compare import runs_table
from cifar_trainer.comparison import Evaluated, check_comparable, comparison_figure, summarize
from cifar_trainer.errors import UsageError
from cifar_trainer.plots import LIGHT, pixels
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings

CORRECT = np.array([True, True, False, True])


def evaluated(name: str, accuracy: float, correct: np.ndarray = CORRECT, **settings: Any) -> Evaluated:
    values = {
        "recipe": "tutorial",
        "dataset": "cifar10",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.001,
    }
    return Evaluated(
        run=Run(Path("runs") / name),
        config=Settings(**{**values, **settings}),
        accuracy=accuracy,
        interval=(accuracy - 0.01, accuracy + 0.01),
        loss=1 - accuracy,
        ece=0.05,
        epochs=2,
        seconds=100 * accuracy,
        parameters=122570,
        joules=None,
        test_looks=2,
        correct=correct,
        history=[{"epoch": e, "val_accuracy": accuracy - 0.1 / e} for e in (1.0, 2.0)],
        epochs_setting=2,
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
    groups = summarize("test", six).to_json()["groups"]
    assert [group["name"] for group in groups] == ["tutorial", "regularized"]
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
    groups = summarize("test", runs).groups
    assert [group.name for group in groups] == ["tutorial, batch_size 32", "tutorial, batch_size 64"]
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[1].to_json()["accuracy"]["standard_deviation"] is None


def test_a_setting_that_a_group_does_not_have_is_not_part_of_its_name() -> None:
    groups = summarize("test", [evaluated("a", 0.7), evaluated("b", 0.7, limit=1000)]).groups
    assert [group.name for group in groups] == ["tutorial", "tutorial, limit 1000"]


def test_each_run_is_tested_against_the_first() -> None:
    runs = [evaluated("a", 0.75), evaluated("b", 0.5, ~CORRECT), evaluated("c", 0.75)]
    tests = summarize("test", runs).to_json()["mcnemar"]
    assert [(test["first"], test["second"]) for test in tests] == [("runs/a", "runs/b"), ("runs/a", "runs/c")]
    assert (tests[0]["only_first"], tests[0]["only_second"]) == (3, 1)
    assert tests[1]["p_value"] == 1


def test_runs_of_one_name_are_told_apart_by_their_folders() -> None:
    two = summarize("test", [evaluated("small/seed-0", 0.48), evaluated("regularized/seed-0", 0.53)])
    assert two.labels == ["small/seed-0", "regularized/seed-0"]
    table = compare.tests_table(two)
    assert table.title == "against small/seed-0, by McNemar's test"
    assert list(table.columns[0].cells) == ["regularized/seed-0"]


@pytest.fixture
def make_run(trained_run: Path, tmp_path: Path) -> Callable[..., Run]:
    """A copy of the finished run under another name; `settings` and `data` change its config.json."""

    def make(name: str, data: Mapping[str, Any] | None = None, **settings: Any) -> Run:
        shutil.copytree(trained_run, tmp_path / name)
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, **settings, "data": {**config["data"], **(data or {})}}))
        return Run(tmp_path / name)

    return make


def test_one_run_alone_cannot_be_compared(make_run: Callable[..., Run]) -> None:
    with pytest.raises(UsageError, match="two or more runs"):
        check_comparable([make_run("a")], "test")


def test_a_run_cannot_be_compared_with_itself(make_run: Callable[..., Run]) -> None:
    run = make_run("a")
    with pytest.raises(UsageError, match="given twice"):
        check_comparable([run, run], "test")


@pytest.mark.parametrize(
    "data",
    [
        {"name": "flowers", "title": "flowers"},
        {"test": {"images": 2000, "fingerprint": "0" * 64, "sha256": "0" * 64}},
    ],
)
def test_runs_on_different_data_cannot_be_compared(
    make_run: Callable[..., Run], data: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="different data"):
        check_comparable([make_run("a"), make_run("b", data)], "test")


def test_runs_with_other_held_out_images_cannot_be_compared_on_them(make_run: Callable[..., Run]) -> None:
    runs = [make_run(f"seed-{seed}", validation="holdout", seed=seed) for seed in (0, 1)]
    check_comparable(runs, "test")
    with pytest.raises(UsageError, match="same images"):
        check_comparable(runs, "validation")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_table_shows_which_row_is_which_run_at_any_width(six: list[Evaluated], width: int) -> None:
    shown = io.StringIO()
    Console(file=shown, width=width).print(runs_table(summarize("test", six), width))
    lines = shown.getvalue().splitlines()
    assert "…" not in shown.getvalue()
    assert "accuracy" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["d0", "d1", "d2", "r0", "r1", "r2"]


def test_the_figure_has_a_line_for_each_run_and_one_name_for_each_group(six: list[Evaluated]) -> None:
    figure = comparison_figure(summarize("test", six), LIGHT)
    curves, accuracies = figure.axes
    assert len(curves.lines) == 6
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "tutorial (n = 3)", "regularized (n = 3)",
    ]  # fmt: skip
    assert [text.get_text() for text in accuracies.get_yticklabels()] == ["d0", "d1", "d2", "r0", "r1", "r2"]
    assert pixels(figure).std() > 5
