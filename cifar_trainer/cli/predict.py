"""`cifar-trainer predict`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.artefacts.formats import expected_artefacts
from cifar_trainer.cli.base import PathType, RunType, SourceType, coverage_option, make_command
from cifar_trainer.errors import CifarTrainerError, UsageError, printable
from cifar_trainer.images import FORMAT_OF_SUFFIX
from cifar_trainer.run import is_run_folder

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.prediction import Answer, PredictionReport

#: Maximum number of unreadable images to name.
_NAMED_FAILURES = 8


@make_command("predict")
@click.argument("images", metavar="[RUN] IMAGE...", nargs=-1, required=True, type=SourceType())
@click.option("--run", type=RunType(), help="A run's folder.  [default: the newest run with a model]")
@click.option(
    "--model",
    type=PathType(),
    metavar="ARTEFACT",
    help=f"An artefact: {expected_artefacts()}.",
)
@click.option(
    "--top", type=int, metavar="N", help="Number of classes to show.  [default: 3, or all if fewer]"
)
@coverage_option
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    show_default=False,
    help="Print a CSV table: file, predicted, probability, margin, unfamiliar; with --coverage also set.",
)
def command(
    output: "Output",
    /,
    images: tuple[str, ...],
    run: Path | None,
    model: Path | None,
    top: int | None,
    coverage: str | None,
    as_csv: bool,
) -> None:
    """Classify images: PNG, JPEG, WebP, GIF, BMP or TIFF, of any size.

    An IMAGE is a file, a folder (the images in it), or - for standard input. Images are resized as the
    training images were. The model is the fastest export of RUN (or --run), or else the run's own model.

    \b
    Examples:
      cifar-trainer predict cat.jpg
      cifar-trainer predict runs/seed-1 photos/
      cifar-trainer predict --model runs/seed-1/export/model.tflite photos/
      cifar-trainer predict photos/ --csv > predictions.csv
      cifar-trainer predict photos/ --coverage 90%
      curl -s https://example.org/ship.png | cifar-trainer predict --top 1 -
    """
    if as_csv and output.as_json:
        raise UsageError("--csv and --json were both given. Pass only one.")
    from cifar_trainer.prediction import format_counts, predict

    if model is None:
        run, images = take_run(run, images)
    with output.counting() as show:
        report = predict(
            images,
            run=run,
            model=model,
            top=top,
            coverage=coverage,
            verbose=output.verbose,
            on_progress=lambda done: show("reading", done, None),
        )
    newest = " (the newest run)" if run is None and model is None else ""
    output.note(f"model: {report.model}{newest}")
    if report.passed_over:
        output.note(f"skipped: {format_counts(report.passed_over)}")
    if as_csv:
        output.print(report.to_csv().rstrip("\n"))
    else:
        output.result(
            report, lambda report: [format_answer(answer, report.coverage) for answer in report.predictions]
        )
    if report.errors:
        raise CifarTrainerError(format_failures(report))


def take_run(run: Path | None, images: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """The run and the images: the run may come first, as for `evaluate` and `export`."""
    if run is None and len(images) > 1 and is_run_folder(Path(images[0])):
        return Path(images[0]), images[1:]
    return run, images


def format_answer(answer: "Answer", coverage: float | None = None) -> str:
    """One line per image, with its set, and notes if it is unfamiliar or has a misleading suffix."""
    line = f"{printable(answer.name)}: " + ", ".join(
        f"{printable(guess.class_name)} {guess.probability:.1%}" for guess in answer.guesses
    )
    if answer.class_set is not None and coverage is not None:
        line += f"  ({coverage:.0%} coverage: {printable(' or '.join(answer.class_set)) or 'unknown'})"
    if answer.unfamiliar:
        line += "  (unlike the training images)"
    if FORMAT_OF_SUFFIX.get(Path(answer.name).suffix.lower(), answer.format) != answer.format:
        line += f"  (a {answer.format} file, despite its name)"
    return line


def format_failures(report: "PredictionReport") -> str:
    """An error message that names the images that cannot be read."""
    total = len(report.errors) + len(report.predictions)
    others = "; the others are classified" if report.predictions else ""
    lines = [f"  {printable(failure.name)}: {failure.reason}" for failure in report.errors[:_NAMED_FAILURES]]
    more = len(report.errors) - len(lines)
    if more:
        lines.append(f"  and {more:,} more; --json lists them all.")
    return "\n".join([f"{len(report.errors)} of {total} images could not be read{others}:", *lines])
