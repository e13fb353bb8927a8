"""Figures: drawn without a backend, saved as their name asks, for any number of classes and any shape."""

import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import INTERPRETER
from PIL import Image

from cifar_trainer import metrics, plots
from cifar_trainer.evaluation import figures
from cifar_trainer.plots import LIGHT, Figure

PACKAGE = Path(plots.__file__).parent


def names(count: int) -> list[str]:
    return [f"class number {label}" for label in range(count)]


def tick_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "module://nowhere", "nonsense"]
)
def test_figures_are_drawn_whatever_backend_the_shell_asks_for(backend: str) -> None:
    """As in a shell that Jupyter or Colab has started, without its packages."""
    script = (
        "import os, numpy as np\n"
        "from cifar_trainer.plots import LIGHT, confusion_figure, render\n"
        "assert render(confusion_figure(np.eye(2, dtype=int), 'ab', LIGHT), 'png').startswith(b'\\x89PNG')\n"
        "print(os.environ['MPLBACKEND'])"
    )
    done = subprocess.run(
        [INTERPRETER, "-c", script], env={"PYTHONPATH": str(PACKAGE.parent), "MPLBACKEND": backend},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{backend}\n", "")


def test_no_other_module_imports_matplotlib() -> None:
    """One that did might be imported first, and would meet the shell's backend."""
    importing = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import matplotlib", "from matplotlib"))
    ]
    assert importing == []


@pytest.mark.parametrize(("form", "beginning"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_saved_in_the_format_asked_for_and_the_same_each_time(
    form: str, beginning: bytes
) -> None:
    once, again = (
        plots.render(plots.confusion_figure(np.eye(3, dtype=int), names(3), LIGHT), form) for _ in range(2)
    )
    assert once.startswith(beginning)
    assert once == again


@pytest.mark.parametrize(("count", "numbers"), [(2, 4), (20, 400), (21, 0), (100, 0)])
def test_a_confusion_matrix_has_numbers_up_to_twenty_classes(count: int, numbers: int) -> None:
    figure = plots.confusion_figure(np.eye(count, dtype=int), names(count), LIGHT)
    assert len(figure.axes[0].texts) == numbers


@pytest.mark.parametrize(("count", "named"), [(2, 2), (100, 100), (1000, 100)])
def test_a_confusion_matrix_names_as_many_classes_as_can_be_read(count: int, named: int) -> None:
    assert len(tick_labels(plots.confusion_figure(np.eye(count, dtype=int), names(count), LIGHT))) == named


def test_a_confusion_matrix_of_a_thousand_classes_is_drawn() -> None:
    matrix = np.random.default_rng(0).integers(0, 50, (1000, 1000))
    image = plots.pixels(plots.confusion_figure(matrix, names(1000), LIGHT))
    assert max(image.shape) < 2000
    assert image.std() > 5


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3)])
@pytest.mark.parametrize("kind", ["gallery", "gradcam"])
def test_images_of_any_size_and_of_one_or_three_channels_are_shown(kind: str, shape: tuple[int, ...]) -> None:
    images, labels = np.full((3, *shape), 90, np.uint8), np.arange(3)
    if kind == "gallery":
        figure = plots.gallery_figure(images, labels, labels[::-1], np.full(3, 0.5), names(3), LIGHT)
    else:
        captions = [("a", "90%", True)] * 3
        figure = figures.gradcam_figure(images, np.zeros((3, *shape[:2])), captions, LIGHT)
    assert plots.pixels(figure).std() > 5


def rows(f1: Sequence[float]) -> list[dict[str, Any]]:
    interval = (0.1, 0.9)
    return [
        {"class": str(i), "precision": 0.5, "recall": 0.5, "f1": value, "predicted": 9,
         "precision_interval": interval, "recall_interval": interval}
        for i, value in enumerate(f1)
    ]  # fmt: skip


def test_of_many_classes_precision_and_recall_are_shown_of_those_with_the_lowest_f1() -> None:
    f1 = np.random.default_rng(0).permutation(100) / 100
    shown = tick_labels(figures.per_class_figure(rows(f1.tolist()), LIGHT))
    assert shown == [str(i) for i in np.argsort(f1)[: figures.ROWS]]


def test_few_classes_keep_their_order() -> None:
    assert tick_labels(figures.per_class_figure(rows([0.9, 0.1, 0.5]), LIGHT)) == ["0", "1", "2"]


@pytest.fixture
def hundred_classes() -> list[metrics.PrecisionRecall]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 99, 2000)  # The last class has no images.
    logits = draw.normal(0, 1, (2000, 100))
    logits[np.arange(2000), labels] += labels / 20
    return list(metrics.precision_recall_curves(logits, labels))


def test_of_many_classes_the_curves_are_shown_of_those_with_the_lowest_average_precision(
    hundred_classes: list[metrics.PrecisionRecall],
) -> None:
    figure = figures.precision_recall_figure(hundred_classes, [str(i) for i in range(100)], LIGHT)
    shown = [int(axes.get_title(loc="left").split()[0]) for axes in figure.axes if axes.axison]
    averages = [curve.average_precision for curve in hundred_classes]
    assert shown == np.argsort(averages)[: figures.PANELS].tolist()


@pytest.mark.parametrize("arguments", [["compare", "a", "b"], ["benchmark"]])
@pytest.mark.parametrize("name", ["x.gif", "x", "x.png.txt"])
def test_a_plot_of_another_ending_is_a_usage_error(
    run_cli: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], name: str
) -> None:
    done = run_cli([*arguments, "--plot", name])
    assert done.returncode == 2
    assert f"--plot {name} " in done.stderr
    assert ".png, .svg or .pdf" in done.stderr


def test_the_ending_may_be_in_capital_letters(tmp_path: Path) -> None:
    from cifar_trainer.cli.base import save_plot

    save_plot(tmp_path / "X.PNG", plots.confusion_figure(np.eye(2, dtype=int), "ab", LIGHT))
    assert Image.open(io.BytesIO((tmp_path / "X.PNG").read_bytes())).format == "PNG"


SCRIPTS = ("Äpfel", "猫", "كلب", "\U0001fae8", "cat")


def test_no_name_draws_a_missing_glyph_and_undrawable_ones_become_numbers() -> None:
    """Warnings are errors here, and Matplotlib warns of each missing glyph."""
    figure = plots.confusion_figure(np.eye(5, dtype=int), SCRIPTS, LIGHT)
    shown = tick_labels(figure)
    assert (shown[0], shown[3], shown[4]) == ("Äpfel", "class 3", "cat")
    assert plots.undrawable(SCRIPTS)[3] == SCRIPTS[3]
    plots.render(figure, "png")


def test_without_further_fonts_names_in_other_scripts_become_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_fallback_fonts", lambda: ())
    plots._characters.cache_clear()
    try:
        assert plots.drawable_names(SCRIPTS[:2]) == ["Äpfel", "class 1"]
        assert plots.shorten("run 猫", 20) == "run ?"
        plots.render(plots.confusion_figure(np.eye(5, dtype=int), SCRIPTS, LIGHT), "png")
    finally:
        plots._characters.cache_clear()


def test_percentages_at_ticks_are_those_of_the_ticks() -> None:
    """Shares up to 0.17 have ticks at 2.5 %, which must not become 2 %."""
    logits = np.repeat(np.log(np.linspace(0.34, 0.99, 12)), 5)[:, None] * [1.0, 0, 0]
    calibration = metrics.calibrate(logits, np.zeros(60, int), None)
    energies = {"test images": np.linspace(0, 1, 60)}
    for figure in (
        figures.reliability_figure(calibration, LIGHT),
        figures.unfamiliar_figure(energies, 0.5, LIGHT),
    ):
        plots.pixels(figure)
        for axes in figure.axes:
            for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
                assert float(label.get_text().rstrip("%")) / 100 == pytest.approx(place, abs=1e-9)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_epochs_of_a_short_run_are_whole_numbers(epochs: int) -> None:
    row = {"loss": 1.0, "val_loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}
    history = [{"epoch": float(epoch), **row} for epoch in range(1, epochs + 1)]
    figure = figures.learning_curves_figure(history, "test set", LIGHT)
    plots.pixels(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown == list(range(1, epochs + 1))


def test_the_heat_of_grad_cam_has_the_colours_of_the_page_of_serve() -> None:
    """Yellow for little, red for much, over a grey image."""
    blue = np.zeros((1, 2, 3), np.uint8)
    blue[..., 2] = 255
    little, much = figures.heat_overlay(blue, np.array([[0.0, 1.0]]))[0]
    assert little.max() == little.min()
    assert much[0] > 0.7
    assert much[1:].max() < 0.15


def test_the_overlay_of_a_white_image_has_no_value_above_1() -> None:
    heat = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    overlay = figures.heat_overlay(np.full((32, 32, 3), 255, np.uint8), heat)
    assert overlay.min() >= 0 and overlay.max() <= 1
