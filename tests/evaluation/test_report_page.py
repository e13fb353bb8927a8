"""The page of a report, from numbers that no model had to be trained for."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest

from cifar_trainer.evaluation.report import make_report
from cifar_trainer.evaluation.report_page import choice, draw_figures, render_page
from cifar_trainer.evaluation.robustness import (
    AttackResult,
    CorruptionResult,
    Robustness,
    measure_robustness,
)
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Unfamiliar, measure_unfamiliar, other_kinds
from cifar_trainer.images import Preprocessing
from cifar_trainer.metrics import fit_thresholds
from cifar_trainer.model import LogitsFunction
from cifar_trainer.pages import PageFigure
from cifar_trainer.recipes import EXPECTED_ON, Expected
from cifar_trainer.recipes.document import DOCUMENT
from cifar_trainer.run import TrainResult
from cifar_trainer.settings import Settings

_NAMES = (
    "per_class", "precision_recall", "confusion_matrix", "confusion_matrix_by_row", "mistakes",
    "reliability", "grad_cam", "unfamiliar", "robustness", "learning_curves",
)  # fmt: skip

ROBUSTNESS = Robustness(
    images=10,
    seed=0,
    clean=0.5,
    severities=(2, 7),
    corruptions=(CorruptionResult("fog", "weather", (0.4, 0.3), 0.35),),
    mean_corrupted=0.35,
    epsilons_255=(3, 11),
    attacks=(AttackResult("FGSM", (0.2, 0.1)), AttackResult("PGD", (0.2, 0.1))),
    weights_sha256="a" * 64,
)


@pytest.fixture
def render(
    make_subject: Callable[..., Subject], small_logits: tuple[np.ndarray, np.ndarray]
) -> Callable[..., str]:
    """The page about a subject; `environment` is its run's environment.json."""

    def make(
        *,
        environment: Mapping[str, Any] | None = None,
        robustness: Robustness | None = None,
        verified: bool = False,
        epochs: int = 1,
        **others: Any,
    ) -> str:
        plain = make_subject(*small_logits, **others)
        subject = dataclasses.replace(
            plain,
            dataset=dataclasses.replace(
                plain.dataset,
                name=EXPECTED_ON if verified else "synthetic",
                verified_by="content" if verified else None,
            ),
            result=dataclasses.replace(plain.result, epochs=epochs),
        )
        subject.run.path.mkdir()
        subject.run.environment.write_text(json.dumps(environment or {}))
        for _ in range(3):
            subject.run.record_look("train", 1)
        subject.run.record_look("evaluate", 1)
        unfamiliar = Unfamiliar(fit_thresholds(subject.logits), True, "train", 60, 0.05, ())
        report = make_report(subject, unfamiliar, robustness, test_looks=4)
        return render_page(subject, report, {name: PageFigure(b"", b"") for name in _NAMES})

    return make


def test_severities_on_the_page_are_those_that_were_measured(render: Callable[..., str]) -> None:
    """They come with the measurement; the template has no copy of them."""
    page = render(robustness=ROBUSTNESS)
    header = re.findall("<th>corruption, by severity</th>(.*?)</tr>", page, re.DOTALL)[0]
    assert re.findall("<th>(.*?)</th>", header) == ["2", "7", "mean"]


def test_strengths_of_attacks_on_the_page_are_those_that_were_measured(render: Callable[..., str]) -> None:
    assert re.findall(r"<th>(\d+/255)</th>", render(robustness=ROBUSTNESS)) == ["3/255", "11/255"]


def test_the_page_tells_how_often_the_test_set_was_looked_at(render: Callable[..., str]) -> None:
    assert "<td>test set looked at</td><td>4 times (train 3, evaluate 1)</td>" in render()


def test_names_from_outside_are_escaped(render: Callable[..., str]) -> None:
    page = render(classes=("<i>", "bee & co", "cow"), environment={"command_line": "<b>"})
    assert "<i>" not in page
    assert "<b>" not in page
    assert "bee &amp; co" in page


def test_balanced_accuracy_is_shown_where_classes_differ_in_size(render: Callable[..., str]) -> None:
    assert "balanced accuracy" in render()


def test_the_page_names_the_range_of_earlier_runs(render: Callable[..., str]) -> None:
    recipe = dataclasses.replace(DOCUMENT, expected=Expected(0.9, 10, 0.85, 0.95))
    config = Settings("document", EXPECTED_ON, recipe.epochs, recipe.batch_size, recipe.learning_rate)
    page = " ".join(render(recipe=recipe, config=config, verified=True, epochs=recipe.epochs).split())
    assert "below the range of 10 earlier runs of this recipe, 85.0 % to 95.0 %" in page


@pytest.fixture(scope="module")
def hundred_grey_classes() -> tuple[keras.Model, np.ndarray, np.ndarray, tuple[str, ...]]:
    """An untrained network for 100 classes of 28×28 grey images, 400 of them with labels, and the names."""
    draw = np.random.default_rng(0)
    model = DOCUMENT.build_model((28, 28, 1), 100)
    images = draw.integers(0, 256, (400, 28, 28, 1)).astype(np.uint8)
    labels = np.sort(draw.integers(0, 100, 400)).astype(np.uint8)
    return model, images, labels, tuple(f"class-{label:02d}" for label in range(100))


def test_a_report_on_a_hundred_classes_of_grey_images_has_every_figure_that_can_be_read(
    hundred_grey_classes: tuple[keras.Model, np.ndarray, np.ndarray, tuple[str, ...]],
    make_subject: Callable[..., Subject],
) -> None:
    model, images, labels, classes = hundred_grey_classes
    predict = LogitsFunction(model)
    logits = predict(images) + np.eye(100, dtype=np.float32)[labels]
    subject = make_subject(
        logits, labels, images=images, classes=classes, model=model, predict_logits=predict
    )
    subject.run.path.mkdir()
    subject.run.environment.write_text("{}")
    measured, energies = measure_unfamiliar(subject, other_kinds("flowers", Preprocessing((28, 28, 1)), None))
    report = make_report(subject, measured, measure_robustness(subject, 20), test_looks=1)
    figures = draw_figures(subject, report, energies)
    assert set(_NAMES) - set(figures) == {"confusion_matrix_by_row"}
    page = render_page(subject, report, figures)
    assert re.findall(r"<tr><td>(class-\d\d)</td>", page) == list(classes)


RESULT = TrainResult(
    run_dir="run", recipe="document", dataset="synthetic", epochs=7, seed=0, parameters=10, device="cpu",
    precision="float32", train={}, validation={}, seconds=1.0, images_per_second=1.0, weights_sha256="a" * 64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "The model of the last epoch, 7."),
        (
            {
                "chosen_epoch": 4, "chosen_by": "best validation accuracy", "ended_by": "patience",
                "planned_epochs": 20,
            },
            "The model of epoch 4 of 7, selected by its validation accuracy; training ended early because "
            "validation accuracy had stopped rising (20 epochs planned).",
        ),
        ({"chosen_by": "callback"}, "A model set by a callback."),
        (
            {"ended_by": "time limit", "planned_epochs": 9},
            "The model of the last epoch, 7; training ended early at its time limit (9 epochs planned).",
        ),
    ],
)  # fmt: skip
def test_the_page_says_which_epoch_was_chosen_and_by_what(changes: dict[str, Any], sentence: str) -> None:
    assert choice(dataclasses.replace(RESULT, **changes)) == sentence


def test_the_choice_stands_on_the_pages_first_lines(render: Callable[..., str]) -> None:
    header, _, _ = render().partition("</header>")
    assert "The model of the last epoch, 1." in header


OWN = Settings("document", EXPECTED_ON, DOCUMENT.epochs, DOCUMENT.batch_size, DOCUMENT.learning_rate)
LONGER = dataclasses.replace(OWN, epochs=2 * OWN.epochs)


@pytest.mark.parametrize(
    ("config", "epochs", "difference"),
    [
        (dataclasses.replace(OWN, limit=6000), OWN.epochs, "limit 6,000"),
        (dataclasses.replace(OWN, schedule="cosine"), OWN.epochs, "schedule cosine"),
        (dataclasses.replace(OWN, ema=0.9), OWN.epochs, "ema 0.9"),
        (OWN, OWN.epochs - 1, "epochs 9 of 10"),
        (LONGER, OWN.epochs, "epochs 10 of 20"),
    ],
)
def test_the_page_says_why_the_range_of_earlier_runs_does_not_apply(
    render: Callable[..., str], config: Settings, epochs: int, difference: str
) -> None:
    recipe = dataclasses.replace(DOCUMENT, expected=Expected(0.9, 10, 0.85, 0.95))
    page = render(recipe=recipe, config=config, verified=True, epochs=epochs)
    assert "the recipe reaches 85.0 % to 95.0 % (10 earlier runs)" in page
    assert f"This run differs: {difference}." in page
    assert "below the range" not in page
