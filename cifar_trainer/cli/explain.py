"""`cifar-trainer explain`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, RunType, SourceType, data_dir_option, make_command
from cifar_trainer.cli.predict import format_answer, format_failures, take_run
from cifar_trainer.errors import CifarTrainerError

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output


@make_command("explain")
@click.argument("images", metavar="[RUN] IMAGE...", nargs=-1, required=True, type=SourceType())
@click.option("--run", type=RunType(), help="A run's folder.  [default: the newest run with a model]")
@click.option(
    "--output", type=PathType(), metavar="FILE", help="Page to write.  [default: RUN/explanation.html]"
)
@data_dir_option()
def command(
    console: "Output",
    /,
    images: tuple[str, ...],
    run: Path | None,
    output: Path | None,
    data_dir: Path | None,
) -> None:
    """Write a page that explains the predictions for images.

    For each IMAGE, the page shows the parts that raise the class's score (Grad-CAM), how the
    prediction changes if a part is covered, and the nearest training images with their labels.
    Images are read as by predict.

    \b
    Examples:
      cifar-trainer explain cat.jpg
      cifar-trainer explain runs/seed-1 photos/ --output photos.html
    """
    from cifar_trainer.explanation import explain

    run, images = take_run(run, images)
    with console.counting() as show:
        report = explain(
            images, run=run, output=output, data_dir=data_dir, verbose=console.verbose, on_progress=show
        )
    console.result(report, lambda report: [format_answer(each) for each in report.predictions])
    if report.page is not None:
        console.note(f"page: {report.page}", wrap=False)
    if report.errors:
        raise CifarTrainerError(format_failures(report))
