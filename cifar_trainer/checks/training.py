"""Check how a recipe trains: the checks of Karpathy (2019) and of the course CS231n, in short runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer import devices, files
from cifar_trainer.checks.verdicts import Check, LayerReport, RateRange
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import CheckError
from cifar_trainer.recipes import get_recipe
from cifar_trainer.results import Result
from cifar_trainer.run import DEFAULT_ROOT
from cifar_trainer.settings import DEFAULT_DATA_DIR, DEVICE_ALIASES, DEVICES, check_choice

if TYPE_CHECKING:
    from cifar_trainer.plots import Figure, Theme


@dataclasses.dataclass(frozen=True)
class TrainingCheck(Result):
    """What `check training --json` prints.

    Attributes:
        recipe, dataset: the names.
        passed: whether all checks passed.
        checks: in order. After a fault that makes training impossible, the remaining checks are skipped.
        layers: measurements for each layer.
        learning_rate: the recipe's, for the batch size of the short runs.
        steps, batch_size: steps of each short run, and images per step.
        range_test: one entry per seed.
        report: path of the page.
    """

    recipe: str
    dataset: str
    passed: bool
    checks: tuple[Check, ...]
    layers: tuple[LayerReport, ...]
    learning_rate: float
    steps: int
    batch_size: int
    range_test: tuple[RateRange, ...]
    report: str

    def require_passed(self) -> None:
        """Raise CheckError with the failed checks unless all passed."""
        failed = [check for check in self.checks if not check.passed]
        if failed:
            lines = "".join(f"\n  {check.name}: {check.message}" for check in failed)
            raise CheckError(f"{len(failed)} of {len(self.checks)} checks of {self.recipe} failed:{lines}")


def check_training(
    recipe: str | Path = "tutorial",
    *,
    dataset: str = "cifar10",
    data_dir: str | Path = DEFAULT_DATA_DIR,
    output: str | Path | None = None,
    device: str = "auto",
    verbose: bool = False,
    on_progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> TrainingCheck:
    """Check how a recipe trains, in short runs on training images, and write a report. Keeps no model.

    Args:
        recipe: the name of a recipe, or a Python file that defines one.
        dataset: name of the prepared data set; its test set is not used.
        data_dir: folder of the prepared data sets.
        output: the page's file; by default, `runs/check-RECIPE.html`.
        device: one of `settings.DEVICES`.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Raises:
        UsageError: the recipe is unknown, or the file does not define one.
        DataError: the data set is missing or damaged.
        DeviceError: the device is not available.
        RunError: the page cannot be written.
    """
    check_choice("device", device, DEVICES, DEVICE_ALIASES)
    chosen = get_recipe(str(recipe))
    loaded = load_dataset(Path(data_dir).expanduser(), dataset)
    page = DEFAULT_ROOT / f"check-{chosen.name}.html" if output is None else Path(output).expanduser()
    started = devices.start(device=device, verbose=verbose)
    from cifar_trainer.checks.trials import examine

    found = examine(
        chosen, loaded.train, len(loaded.classes), gpu=started.kind == "gpu", on_progress=on_progress
    )
    result = TrainingCheck(
        recipe=chosen.name,
        dataset=loaded.name,
        passed=all(check.passed for check in found.checks),
        checks=tuple(found.checks),
        layers=tuple(found.layers),
        learning_rate=found.learning_rate,
        steps=found.steps,
        batch_size=found.batch_size,
        range_test=tuple(found.ranges),
        report=str(page),
    )
    with files.writing(page, "Choose another --output."):
        page.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(page, render_page(result))
    return result


def render_page(result: TrainingCheck) -> str:
    """The page's HTML."""
    from cifar_trainer import pages

    drawings: dict[str, Callable[[Theme], Figure]] = {}
    if result.range_test:
        drawings["range_test"] = lambda theme: range_figure(result, theme)
    return pages.render(
        "cifar_trainer.checks", "training.html.j2", pages.draw_figures(drawings), result=result,
        number=format_number,
    )  # fmt: skip


def format_number(value: float | None) -> str:
    """A measured number with three digits; empty for None."""
    return "" if value is None else f"{value:.3g}"


def range_figure(result: TrainingCheck, theme: "Theme") -> "Figure":
    """Smoothed loss by learning rate, one line per seed, with the recipe's rate."""
    from cifar_trainer.plots import new_figure

    with new_figure(theme, 9.6, 4.4) as figure:
        axes = figure.add_subplot()
        for each, colour, style in zip(
            result.range_test, (theme.first, theme.third), ("-", "--"), strict=False
        ):
            axes.plot(
                each.rates[: len(each.losses)], each.losses, style, color=colour, label=f"seed {each.seed}"
            )
        axes.axvline(result.learning_rate, color=theme.second, lw=1.4)
        axes.text(
            result.learning_rate, 0.97, f" {result.recipe}: {result.learning_rate:g}", color=theme.second,
            transform=axes.get_xaxis_transform(), va="top",
        )  # fmt: skip
        axes.set_ylim(0, 1.6 * max(each.losses[0] if each.losses else 0.1 for each in result.range_test))
        axes.set_xscale("log")
        axes.set_xlabel("learning rate, rising step by step")
        axes.set_ylabel("loss, smoothed")
        axes.legend(loc="lower left")
    return figure
