"""The page of a report, from numbers that no model had to be trained for."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import open_browser, problems_on_screens

from cifar_trainer import pages, plots
from cifar_trainer.conformal import Coverage
from cifar_trainer.evaluation import robustness, unfamiliar
from cifar_trainer.evaluation.report import make_report
from cifar_trainer.evaluation.report_page import choice, draw_figures, render_page
from cifar_trainer.evaluation.robustness import AttackResult, CorruptionResult, Robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import measure_unfamiliar, other_kinds
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import LogitsFunction
from cifar_trainer.pages import PageFigure
from cifar_trainer.recipes import EXPECTED_ON, Expected
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import TrainResult
from cifar_trainer.settings import Settings

Render = Callable[..., str]

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


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", "", page).split())


def test_severities_and_strengths_on_the_page_are_those_that_were_measured(render: Render) -> None:
    page = render(robustness=ROBUSTNESS)
    header = re.findall("<th>corruption, by severity</th>(.*?)</tr>", page, re.DOTALL)[0]
    assert re.findall("<th>(.*?)</th>", header) == ["2", "7", "mean"]
    assert re.findall(r"<th>(\d+/255)</th>", page) == ["3/255", "11/255"]


def test_names_from_outside_are_escaped(render: Render) -> None:
    names = ("<i>", "bee & co", "</script>")
    page = render(classes=names, files=("<b>",) * 60, environment={"command_line": "<u>"})
    assert [tag for tag in ("<i>", "<b>", "<u>") if tag in page] == []
    assert page.count("</script>") == page.count("<script")
    assert "bee &amp; co" in page


MEASURED = {
    "coverage": 0.9, "measured": 0.9012, "interval": (0.8952, 0.9069), "mean_size": 1.456, "unknown": 0.012,
}  # fmt: skip
COVERAGE = Coverage(5000, True, {"90": (0.1, 0.2, 0.3)}, (MEASURED,))
UNMEASURED = dataclasses.replace(COVERAGE, measured=())
OWN = Settings("tutorial", EXPECTED_ON, TUTORIAL.epochs, TUTORIAL.batch_size, TUTORIAL.learning_rate)
RECIPE = dataclasses.replace(TUTORIAL, expected=Expected(0.9, 10, 0.85, 0.95))
VERIFIED = {"recipe": RECIPE, "config": OWN, "verified": True, "epochs": OWN.epochs}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "test set looked at4 times (train 3, evaluate 1)"),
        ({}, "The model of the last epoch, 1."),
        ({}, "balanced accuracy 59.16 %: the mean over the classes, which differ in size"),
        ({}, "Robustness Not measured. cifar-trainer evaluate"),
        ({}, "No model has been exported yet: cifar-trainer export"),
        ({}, "These images are your own: there are no published results"),
        ({"dataset": "synthetic"}, "These are synthetic images for quick tests"),
        ({"dataset": "fashion-mnist"}, "These images are not verified as Fashion-MNIST."),
        ({"noise_auroc": 0.1}, "noise worse than chance: do not use"),
        ({"noise_auroc": 0.1}, "predict and serve do not use them"),
        ({}, "No training images were held out, so predict --coverage cannot promise"),
        ({"coverage": COVERAGE}, "the chosen probability, whatever that class is (split conformal"),
        ({"coverage": COVERAGE}, "90 %90.1 %89.5 % to 90.7 % 1.46 1.2 %"),
        ({"coverage": UNMEASURED}, "The coverage can only be measured on other images: cifar-trainer ev"),
        ({"classes": ("ant", "\U0001fae8", "cow")}, "so figures show their numbers: class 1 is \U0001fae8."),
        (VERIFIED, "below the range of 10 earlier runs of this recipe, 85.0 % to 95.0 %"),
    ],
)  # fmt: skip
def test_the_page_says(render: Render, settings: dict[str, Any], expected: str) -> None:
    assert expected in text_of(render(**settings))


@pytest.mark.parametrize("settings", [VERIFIED, {"dataset": "fashion-mnist"}])
def test_genuine_images_are_never_called_other_than_published(
    render: Render, settings: dict[str, Any]
) -> None:
    """Verified ones get no warning, and of the others only what is known is said."""
    page = text_of(render(**settings))
    assert "not the images of a published data set" not in page
    assert ("not verified" in page) == ("verified" not in settings)


@pytest.mark.parametrize(
    ("changes", "epochs", "difference"),
    [
        ({"limit": 6000}, OWN.epochs, "limit 6,000"),
        ({"schedule": "cosine"}, OWN.epochs, "schedule cosine"),
        ({"ema": 0.9}, OWN.epochs, "ema 0.9"),
        ({}, OWN.epochs - 1, "epochs 9 of 10"),
        ({"epochs": 20}, OWN.epochs, "epochs 10 of 20"),
    ],
)
def test_the_page_says_why_the_range_of_earlier_runs_does_not_apply(
    render: Render, changes: dict[str, Any], epochs: int, difference: str
) -> None:
    config = dataclasses.replace(OWN, **changes)
    page = text_of(render(recipe=RECIPE, config=config, verified=True, epochs=epochs))
    assert "the recipe reaches 85.0 % to 95.0 % (10 earlier runs)" in page
    assert f"This run differs: {difference}." in page
    assert "below the range" not in page


def test_a_class_that_was_never_predicted_has_no_precision(render: Render) -> None:
    logits = np.tile(np.array([1, 0, 0], np.float32), (6, 1))
    page = render(logits=(logits, np.array([0, 0, 1, 1, 2, 2], np.uint8)))
    assert re.findall(r"<tr><td>(?:ant|bee|cow)</td>\n<td>(.*?)<", page)[1:] == ["–", "–"]


def test_text_alternatives_tell_what_a_figure_shows(render: Render) -> None:
    alts = re.findall('alt="(.+?)"', render(robustness=ROBUSTNESS))
    assert len(alts) == 10
    assert any(
        re.search(r"Most frequent errors: (ant|bee|cow) as (ant|bee|cow), \d+ images", alt) for alt in alts
    )
    assert any("lowest under fog, 35.0 %" in alt for alt in alts)


def test_a_report_on_many_classes_of_grey_images_has_every_figure_that_can_be_read(
    make_subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    model = TUTORIAL.build_model((28, 28, 1), 40)
    images = draw.integers(0, 256, (80, 28, 28, 1)).astype(np.uint8)
    labels = np.sort(draw.integers(0, 40, 80)).astype(np.uint8)
    classes = tuple(f"class-{label:02d}" for label in range(40))
    predict = LogitsFunction(model)
    logits = predict(images) + np.eye(40, dtype=np.float32)[labels]
    subject = make_subject(
        logits, labels, images=images, classes=classes, model=model, predict_logits=predict
    )
    subject.run.path.mkdir()
    subject.run.environment.write_text("{}")
    monkeypatch.setattr(robustness, "SEVERITIES", (1,))
    monkeypatch.setattr(robustness, "EPSILONS", (8,))
    monkeypatch.setattr(unfamiliar, "IMAGES", 50)
    measured, energies = measure_unfamiliar(subject, other_kinds("flowers", Preprocessing((28, 28, 1)), None))
    report = make_report(subject, measured, robustness.measure_robustness(subject, 5), test_looks=1)
    # Drawing takes most of the time, and one theme shows whether it works.
    monkeypatch.setattr(
        pages,
        "draw_figures",
        lambda drawings, progress: {
            name: PageFigure(plots.render(draw(plots.LIGHT), "png"), b"") for name, draw in drawings.items()
        },
    )
    figures = draw_figures(subject, report, energies)
    assert set(figures) == {
        "per_class", "precision_recall", "confusion_matrix", "mistakes", "reliability", "grad_cam",
        "unfamiliar", "robustness", "learning_curves",
    }  # fmt: skip
    page = render_page(subject, report, figures)
    assert re.findall(r"<tr><td>(class-\d\d)</td>", page) == list(classes)


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
def test_the_page_says_which_epoch_was_selected_and_by_what(changes: dict[str, Any], sentence: str) -> None:
    result = TrainResult(
        run_dir="run", recipe="tutorial", dataset="synthetic", epochs=7, seed=0, parameters=10, device="cpu",
        precision="float32", train={}, validation={}, seconds=1.0, images_per_second=1.0,
        weights_sha256="a" * 64,
    )  # fmt: skip
    assert choice(dataclasses.replace(result, **changes)) == sentence


@pytest.fixture
def wrong(render: Render, tmp_path: Path) -> str:
    """The address of a page with 10,000 errors; the first is the least confident one."""
    logits = np.zeros((10_000, 3), np.float32)
    logits[:, 0] = np.linspace(0, 5, 10_000)
    files = tuple(f"train/bee/{i}.png" for i in range(10_000))
    page = render(logits=(logits, np.ones(10_000, np.uint8)), files=files, robustness=ROBUSTNESS)
    (tmp_path / "report.html").write_text(page)
    return (tmp_path / "report.html").as_uri()


def test_the_table_of_ten_thousand_errors_can_be_sorted_offline(wrong: str) -> None:
    with open_browser() as driver:
        driver.get(wrong)

        def first() -> list[str]:
            cells = driver.find_elements("css selector", "table[data-rows] tbody tr:first-child td")
            return [cell.text for cell in cells][:4]

        headings = driver.find_elements("css selector", "table[data-rows] th")
        assert first() == ["9999", "train/bee/9999.png", "bee", "ant"]
        headings[0].find_element("tag name", "button").click()
        assert first()[0] == "0"
        assert headings[0].get_attribute("aria-sort") == "ascending"
        headings[1].find_element("tag name", "button").click()
        headings[1].find_element("tag name", "button").click()
        assert first()[1] == "train/bee/9999.png"
        assert headings[1].get_attribute("aria-sort") == "descending"
        driver.find_element("id", "more-errors").click()
        assert len(driver.find_elements("css selector", "table[data-rows] tbody tr")) == 200


def test_the_report_is_accessible_on_a_screen_and_on_a_phone(render: Render, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(robustness=ROBUSTNESS, noise_auroc=0.1))
    assert problems_on_screens((tmp_path / "report.html").as_uri()) == []


def test_a_figure_can_be_enlarged_and_closed_by_keyboard(wrong: str) -> None:
    from selenium.webdriver.common.keys import Keys

    with open_browser(390) as driver:
        driver.get(wrong)
        driver.find_element("class name", "enlarge").send_keys(Keys.ENTER)
        dialog = driver.find_element("tag name", "dialog")
        assert dialog.is_displayed()
        dialog.find_element("tag name", "button").send_keys(Keys.ENTER)
        assert not dialog.is_displayed()
