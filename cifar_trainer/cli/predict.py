"""`cifar-trainer predict`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import PathType, json_option, print_json, verbosity, verbosity_options
from cifar_trainer.errors import CifarTrainerError, UsageError, printable

if TYPE_CHECKING:
    from cifar_trainer.artefacts.formats import Artefact
    from cifar_trainer.prediction import Answer, Failure


@click.command(name="predict")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--run", type=PathType(), help="A run's folder.  [default: the newest run]")
@click.option("--model", type=PathType(), metavar="ARTEFACT", help="An exported artefact.")
@click.option("--top", type=click.IntRange(1, 10), default=3, help="How many classes to give.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, images: tuple[str, ...], run: Path | None, model: Path | None, top: int, as_json: bool
) -> None:
    """Classify pictures: PNG, JPEG, WebP, GIF or BMP, of any size.

    An IMAGE is a file, a folder (the pictures below it), or - for standard input. The
    whole picture is reduced to 32x32; every artefact sees the same pixels.

    \b
    Examples:
      cifar-trainer predict cat.jpg
      cifar-trainer predict --model runs/seed-1/export/model.tflite pictures/
      curl -s https://example.org/ship.png | cifar-trainer predict --top 1 -
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.prediction import predict

    if run is not None and model is not None:
        raise UsageError(f"--run {run} and --model {model} were both given. Name one of them.")
    screen = Output(verbosity(ctx))
    artefact, path = _open(run, model)
    with screen.count_bar() as bar:
        task = bar.add_task("reading", total=None)
        answers, failures = predict(artefact, images, top, lambda done: bar.update(task, completed=done))
    if as_json:
        print_json(
            {
                "model": str(path),
                "format": artefact.format,
                "predictions": [answer.to_json() for answer in answers],
                "errors": [failure.to_json() for failure in failures],
            }
        )
    else:
        for answer in answers:
            screen.result(format_answer(answer))
    if failures:
        raise CifarTrainerError(format_failures(failures, len(answers)))


def _open(run: Path | None, model: Path | None) -> "tuple[Artefact, Path]":
    from cifar_trainer.artefacts.formats import kind_of, open_artefact

    if model is not None:
        if kind_of(model) in ("saved_model", "keras"):
            _load_tensorflow()
        return open_artefact(model), model
    from cifar_trainer.artefacts.keras import open_run_model
    from cifar_trainer.run import check_model, open_run

    opened = open_run(run)
    check_model(opened)
    _load_tensorflow()
    return open_run_model(opened), opened.model


def _load_tensorflow() -> None:
    from cifar_trainer import environment

    environment.load_tensorflow(verbose=verbosity() > 0)
    # A few pictures are classified before a GPU has started.
    environment.choose_device("cpu")


def format_answer(answer: "Answer") -> str:
    """One line for a picture; a name that belies the picture's format is noted."""
    guesses = ", ".join(f"{guess.class_name} {guess.probability:.1%}" for guess in answer.guesses)
    return f"{printable(answer.name)}: {guesses}{_format_note(answer)}"


def _format_note(answer: "Answer") -> str:
    suffix = Path(answer.name).suffix.lower()
    names = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}
    expected = names.get(suffix, (suffix[1:].upper(),))
    if suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp") and answer.format not in expected:
        return f"  (it is a {answer.format}, whatever its name says)"
    return ""


def format_failures(failures: "list[Failure]", answered: int) -> str:
    """One message that names every picture that could not be read."""
    total = len(failures) + answered
    lines = [f"  {printable(failure.name)}: {failure.reason}" for failure in failures]
    return "\n".join([f"{len(failures)} of {total} could not be read; the others are done.", *lines])
