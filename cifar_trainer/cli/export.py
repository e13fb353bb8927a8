"""`cifar-trainer export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.artefacts.formats import FORMATS
from cifar_trainer.cli.base import PathType, data_dir_option, make_command, run_argument
from cifar_trainer.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from cifar_trainer.artefacts.manifest import Export
    from cifar_trainer.cli.console import Output


@make_command("export")
@run_argument
@click.option(
    "--format",
    metavar=f"[{'|'.join(FORMATS)}]",
    multiple=True,
    default=["saved_model"],
    help="Format to write; repeatable.",
)
@click.option("--output", type=PathType(), help="Folder to write into.  [default: RUN/export]")
@click.option("--force", is_flag=True, show_default=False, help="Replace existing artefacts.")
@data_dir_option()
def command(
    screen: "Output",
    /,
    run: Path | None,
    format: tuple[str, ...],
    output: Path | None,
    force: bool,
    data_dir: Path | None,
) -> None:
    """Export a run's model, verified against the original on real images.

    RUN is a run's folder, by default the newest run with a model. Each artefact takes uint8
    images without further preprocessing. A clean process loads it and compares its answers
    with the Keras model's. If they differ, no format is published (exit code 4).

    \b
    Examples:
      cifar-trainer export
      cifar-trainer export runs/seed-1 --format saved_model --force
    """
    from cifar_trainer.artefacts.export import export

    report = export(
        run,
        format=format,
        output=output,
        data_dir=data_dir,
        force=force,
        verbose=screen.verbose,
        on_progress=screen.note,
    )
    screen.result(report, lambda report: format_exports(report.exports))


def format_exports(exports: "Sequence[Export]") -> "Table":
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
