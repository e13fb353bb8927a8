"""`cifar-trainer export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.artefacts.formats import FORMATS
from cifar_trainer.cli.base import (
    PathType,
    data_dir_option,
    json_option,
    print_json,
    run_argument,
    verbosity,
    verbosity_options,
)
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cifar_trainer.artefacts.documents import Export


@click.command(name="export")
@run_argument
@click.option(
    "--format",
    "names",
    type=click.Choice(list(FORMATS)),
    multiple=True,
    default=["saved_model"],
    help="What to make; may be given several times.",
)
@click.option("--output", type=PathType(), help="Folder to write into.  [default: RUN/export]")
@click.option("--force", is_flag=True, show_default=False, help="Replace what is there, whole.")
@data_dir_option("export")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    run: Path | None,
    names: tuple[str, ...],
    output: Path | None,
    force: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Export a run's model, proved against it on real pictures.

    RUN is a run's folder; the newest run, if left out. Each artefact takes uint8
    pictures as they are. It is loaded in a clean process, compared with the Keras
    model, and put in place only if they agree (else exit code 4).

    \b
    Examples:
      cifar-trainer export
      cifar-trainer export runs/seed-1 --format saved_model --force
    """
    from cifar_trainer.artefacts.formats import check_packages, check_targets
    from cifar_trainer.cli.console import Output
    from cifar_trainer.run import check_model, load_data, open_run

    screen = Output(verbosity(ctx))
    opened = open_run(run)
    formats = [FORMATS[name] for name in dict.fromkeys(names)]
    target = output or opened.export
    check_model(opened)
    check_packages(formats)
    check_targets(formats, target, force)
    dataset = load_data(opened, data_dir)

    from cifar_trainer import environment

    environment.load_tensorflow(verbose=verbosity(ctx) > 0)
    # The gate asks for 1e-4 of a logit; a GPU's TF32 alone would be further off.
    environment.choose_device("cpu")
    from cifar_trainer.artefacts.export import export_run

    exports = export_run(opened, formats, target, dataset, replace=force, on_progress=screen.note)
    if as_json:
        print_json({"run_dir": str(opened.path), "exports": [export.to_json() for export in exports]})
    else:
        screen.result(format_exports(exports))


def format_exports(exports: "list[Export]") -> "Table":
    """The artefacts as a table."""
    from rich.table import Table

    table = Table("format", box=None)
    for name in ("bytes", "difference", "agreement", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for export in exports:
        table.add_row(
            export.format,
            f"{export.bytes:,}",
            f"{export.proof.max_abs_difference:.2g}",
            f"{export.proof.agreement:.2%}",
            f"{export.proof.accuracy:.2%}",
            printable(export.path),
        )
    return table
