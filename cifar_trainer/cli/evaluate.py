"""`cifar-trainer evaluate`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, data_dir_option, make_command, run_argument
from cifar_trainer.errors import CheckError, UsageError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.cli.console import Output
    from cifar_trainer.evaluation.report import Report
    from cifar_trainer.evaluation.robustness import Robustness
    from cifar_trainer.evaluation.unfamiliar import Unfamiliar

#: With more classes, the table shows those with the lowest F1.
TABLE_CLASSES = 30


@make_command("evaluate")
@run_argument
@click.option(
    "--split",
    default="test",
    metavar="[test|validation]",
    help="Images to evaluate on: the test set, or the training images that --validation holdout held out.",
)
@data_dir_option()
@click.option(
    "--require-accuracy", type=float, metavar="X", help="Exit with code 4 if the accuracy (0 to 1) is lower."
)
@click.option(
    "--robustness",
    is_flag=True,
    show_default=False,
    help="Also measure accuracy under fifteen corruptions and two attacks; takes minutes.",
)
@click.option(
    "--robustness-images", type=int, default=2000, metavar="N", help="Number of images for --robustness."
)
@click.option(
    "--unfamiliar",
    type=PathType(),
    metavar="FOLDER",
    help="Also test whether the model recognizes these images as unfamiliar.",
)
def command(
    output: "Output",
    /,
    run: Path | None,
    split: str,
    data_dir: Path | None,
    require_accuracy: float | None,
    robustness: bool,
    robustness_images: int,
    unfamiliar: Path | None,
) -> None:
    """Measure a run's model and write a report.

    RUN is a run's folder, by default the newest run. The report goes into
    RUN/evaluation/SPLIT/: report.html, one page to open or send; report.json;
    predictions.csv, one row per image; the figures.

    \b
    Examples:
      cifar-trainer evaluate
      cifar-trainer evaluate runs/seed-1 --split validation --json
      cifar-trainer evaluate --require-accuracy 0.65
      cifar-trainer evaluate --robustness
    """
    if require_accuracy is not None and not 0 <= require_accuracy <= 1:
        raise UsageError(
            f"--require-accuracy {require_accuracy} is out of range. "
            "Expected a fraction from 0 to 1, such as 0.65."
        )
    from cifar_trainer.evaluation.evaluate import evaluate

    with output.counting() as show:
        report = evaluate(
            run,
            split=split,
            data_dir=data_dir,
            robustness=robustness,
            robustness_images=robustness_images,
            unfamiliar=unfamiliar,
            verbose=output.verbose,
            on_progress=show,
        )
    output.result(report, lambda report: report_tables(report, robustness))
    output.note(f"report: {Path(report.run_dir) / 'evaluation' / split}/report.html", wrap=False)
    output.note(f"next: cifar-trainer export {shlex.quote(report.run_dir)}", wrap=False)
    if require_accuracy is not None and report.accuracy < require_accuracy:
        raise CheckError(
            f"The accuracy is {report.accuracy:.4f} on {report.images:,} images of the {split} split; "
            f"--require-accuracy expects at least {require_accuracy}."
        )


def report_tables(report: "Report", robustness: bool) -> "list[Table]":
    """A report's tables; `robustness` includes that table."""
    tables = [report_table(report), unfamiliar_table(report.unfamiliar)]
    if robustness and report.robustness is not None:
        tables.append(robustness_table(report.robustness))
    return tables


def report_table(report: "Report") -> "Table":
    """One row per class, with a summary as the caption."""
    from rich.table import Table

    balanced = "" if report.is_balanced else f", balanced accuracy {report.balanced_accuracy:.2%}"
    rows = report.per_class
    hidden = len(rows) - TABLE_CLASSES
    if hidden > 0:
        rows = sorted(rows, key=lambda row: row["f1"])[:TABLE_CLASSES]
    table = Table(
        title=f"{report.run_dir}: {report.split} split of {report.data}",
        caption=(
            f"{report.images:,} images, accuracy {report.accuracy:.2%} (95 % interval "
            f"{report.accuracy_interval[0]:.2%} to {report.accuracy_interval[1]:.2%}){balanced}, "
            f"loss {report.loss:.4f}{_without_near_duplicates(report)}{_expectation(report)}"
        ),
        caption_justify="left",
    )
    table.add_column("class")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            printable(row["class"]),
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['f1']:.3f}",
            str(row["support"]),
        )
    if hidden > 0:
        table.add_row(f"and {hidden} more, with a higher F1", "", "", "", "")
    table.add_section()
    macro = report.macro
    table.add_row(
        "mean",
        f"{macro['precision']:.3f}",
        f"{macro['recall']:.3f}",
        f"{macro['f1']:.3f}",
        str(report.images),
    )
    return table


def _without_near_duplicates(report: "Report") -> str:
    rest = report.without_near_duplicates
    if rest is None:
        return ""
    low, high = rest.interval
    return (
        f"\naccuracy {rest.accuracy:.2%} ({low:.2%} to {high:.2%}) without {rest.near_duplicates:,} images "
        "that have a near-duplicate in the training set"
    )


def _expectation(report: "Report") -> str:
    expected = report.expected
    if expected is None:
        return ""
    span = f"{expected.low:.1%} to {expected.high:.1%}"
    return f"\n{report.position} the range of {expected.n} earlier runs of this recipe, {span}"


def unfamiliar_table(unfamiliar: "Unfamiliar") -> "Table":
    """One row per kind of unfamiliar images: how well the model detects them."""
    from rich.table import Table

    what = "held-out training images" if unfamiliar.fitted_on == "validation" else "training images"
    unused = "" if unfamiliar.usable else "; predict and serve do not use it: it is worse than chance"
    table = Table(
        title="unfamiliar images, by their energy",
        caption=f"threshold fitted on {unfamiliar.fitted_images:,} {what}{unused}",
        caption_justify="left",
    )
    table.add_column("images of another kind")
    for name in ("images", "AUROC", "FPR at 95 %", "called unfamiliar"):
        table.add_column(name, justify="right")
    for kind in unfamiliar.kinds:
        table.add_row(
            f"{kind.name}: worse than chance, do not use" if kind.worse_than_chance else kind.name,
            f"{kind.images:,}",
            f"{kind.energy.auroc:.3f}",
            f"{kind.energy.fpr95:.1%}",
            f"{kind.flagged:.1%}",
        )
    return table


def robustness_table(robustness: "Robustness") -> "Table":
    """Accuracy under each corruption by severity, and under each attack by strength."""
    from rich.table import Table

    table = Table(
        title=f"accuracy on {robustness.images:,} images, clean {robustness.clean:.1%}",
        caption=f"mean over the corruptions {robustness.mean_corrupted:.1%}",
        caption_justify="left",
    )
    table.add_column("corruption, by severity")
    for severity in robustness.severities:
        table.add_column(str(severity), justify="right")
    for result in robustness.corruptions:
        table.add_row(result.name.replace("_", " "), *(f"{share:.1%}" for share in result.accuracy))
    table.add_section()
    table.add_row("attack, by largest change", *(f"{epsilon}/255" for epsilon in robustness.epsilons_255), "")
    for attack in robustness.attacks:
        table.add_row(attack.name, *(f"{share:.1%}" for share in attack.accuracy), "")
    return table
