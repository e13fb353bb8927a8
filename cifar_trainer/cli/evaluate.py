"""`cifar-trainer evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import (
    data_dir_option,
    json_option,
    print_json,
    run_argument,
    verbosity,
    verbosity_options,
)
from cifar_trainer.config import check_choice, check_count
from cifar_trainer.errors import CheckError, UsageError
from cifar_trainer.files import writing

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from cifar_trainer.evaluation.report import Report
    from cifar_trainer.evaluation.robustness import Robustness


@click.command(name="evaluate")
@run_argument
@click.option(
    "--split",
    default="test",
    metavar="[test|validation]",
    help="The test set, or the training images that --validation holdout set aside.",
)
@data_dir_option("evaluate")
@click.option("--require-accuracy", type=float, metavar="X", help="Exit with 4 below it (0 to 1).")
@click.option(
    "--robustness",
    is_flag=True,
    show_default=False,
    help="Also measure accuracy under fifteen corruptions and two attacks; takes minutes.",
)
@click.option("--robustness-images", type=int, default=2000, metavar="N", help="On so many of the images.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: Path | None,
    split: str,
    data_dir: Path | None,
    require_accuracy: float | None,
    robustness: bool,
    robustness_images: int,
    as_json: bool,
) -> None:
    """Measure a run's model, and write a report: figures, pictures, one page.

    RUN is a run's folder; the newest run, if left out. The report goes into
    RUN/evaluation/SPLIT/: report.html to look at and to send, report.json, the pictures.

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
            "Expected a share from 0 to 1, such as 0.65."
        )
    check_choice("split", split, ("test", "validation"))
    check_count("robustness-images", robustness_images)
    from cifar_trainer import environment
    from cifar_trainer.cli.console import Output
    from cifar_trainer.data.splits import check_split
    from cifar_trainer.recipes import get_recipe
    from cifar_trainer.run import check_model, load_data, open_run

    output = Output(verbosity(ctx))
    opened = open_run(run)
    check_model(opened)
    config = opened.read_config()
    check_split(config, split)
    dataset = load_data(opened, data_dir)
    environment.load_tensorflow(verbose=verbosity(ctx) > 0)
    # A run that was trained on a GPU can be evaluated where there is none.
    environment.choose_device("cpu" if config.device == "cpu" else "auto")
    environment.configure_threads(split=get_recipe(config.recipe).SPLITTABLE)
    from cifar_trainer.evaluation.evaluate import evaluate
    from cifar_trainer.evaluation.subject import load_subject

    with output.count_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        subject = load_subject(opened, dataset, split)
        with writing(opened.evaluation(split), "Make room, or give write access to the run's folder."):
            report = evaluate(
                subject, robustness_images=robustness_images if robustness else None, on_progress=show
            )
    if as_json:
        print_json(report.summary())
    else:
        output.result(report_table(report))
        if robustness and report.robustness is not None:
            output.result(robustness_table(report.robustness))
        output.note(f"report: {opened.evaluation(split)}/report.html")
    if require_accuracy is not None and report.accuracy < require_accuracy:
        raise CheckError(
            f"The accuracy is {report.accuracy:.4f} on {report.images} images of the {split} split; "
            f"--require-accuracy asked for {require_accuracy}."
        )


def report_table(report: "Report") -> "Table":
    """The report by class, its summary in the caption."""
    from rich.table import Table

    table = Table(
        title=f"{report.run_dir}: {report.split} split of {report.data}",
        caption=(
            f"{report.images:,} images, accuracy {report.accuracy:.2%} (95 % interval "
            f"{report.accuracy_interval[0]:.2%} to {report.accuracy_interval[1]:.2%}), loss {report.loss:.4f}"
        ),
        caption_justify="left",
    )
    table.add_column("class")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for row in report.per_class:
        table.add_row(
            row["class"],
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['f1']:.3f}",
            str(row["support"]),
        )
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


def robustness_table(robustness: "Robustness") -> "Table":
    """Accuracy under each corruption by severity, and under each attack by strength."""
    from rich.table import Table

    from cifar_trainer.evaluation.corruptions import SEVERITIES
    from cifar_trainer.evaluation.robustness import EPSILONS

    table = Table(
        title=f"accuracy on {robustness.images:,} images, unspoilt {robustness.clean:.1%}",
        caption=f"mean over the corruptions {robustness.mean:.1%}",
        caption_justify="left",
    )
    table.add_column("corruption, by severity")
    for severity in SEVERITIES:
        table.add_column(str(severity), justify="right")
    for result in robustness.corruptions:
        table.add_row(result.name.replace("_", " "), *(f"{share:.1%}" for share in result.accuracy))
    table.add_section()
    table.add_row("attack, by largest change", *(f"{epsilon}/255" for epsilon in EPSILONS), "")
    for attack in robustness.attacks:
        table.add_row(attack.name, *(f"{share:.1%}" for share in attack.accuracy), "")
    return table
