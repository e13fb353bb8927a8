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
    """Export a run's model, and verify the result on real images.

    RUN is a run's folder, by default the newest run with a model. Each artefact takes raw uint8 images. A
    clean process loads it and compares its answers with those of the Keras model. If they differ, nothing is
    published and the exit code is 4.

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
    screen.result(report, lambda report: exports_table(report.exports, screen.width))


def exports_table(exports: "Sequence[Export]", width: int) -> "Table":
    """One row per artefact; drops the least important columns to fit into `width`."""
    from cifar_trainer.cli.console import fitting_table

    rows = [
        {
            "format": export.format,
            "bytes": f"{export.bytes:,}",
            "difference": f"{export.proof.max_abs_difference:.2g}",
            "agreement": f"{export.proof.agreement:.2%}",
            "accuracy": f"{export.proof.accuracy:.2%}",
            "path": printable(export.path),
        }
        for export in exports
    ]
    dropped = ("bytes", "accuracy", "difference", "agreement")
    return fitting_table(rows, width, left=("format",), folding=("path",), less_important=dropped)
