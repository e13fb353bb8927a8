"""`cifar-trainer prepare`: the data, from wherever it is, ready to train on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifar_trainer.cli.base import data_dir_option, json_option, print_json, verbosity, verbosity_options

if TYPE_CHECKING:
    from cifar_trainer.console import Output
    from cifar_trainer.data import PreparedReport, Reporter


@click.command()
@click.option(
    "--dataset", default="cifar10", help="cifar10, or synthetic: drawn pictures that need no source."
)
@click.option("--source", metavar="PATH|URL", help="Where CIFAR-10 is; without it, it is downloaded.")
@data_dir_option("prepare")
@click.option("--offline", is_flag=True, show_default=False, help="Never open a connection.")
@click.option("--force", is_flag=True, show_default=False, help="Prepare anew what is prepared already.")
@click.option("--verify", is_flag=True, show_default=False, help="Read back and check what is prepared.")
@json_option
@verbosity_options
def command(
    dataset: str,
    source: str | None,
    data_dir: Path,
    offline: bool,
    force: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Bring CIFAR-10, or the synthetic set, into the form that training reads.

    A source is the official Python or binary archive, the extracted folder of
    either, or pictures laid out train/CLASS/*.png|jpg and test/CLASS/* in a folder, a
    .zip or a .tar[.gz]. Without --source it is downloaded, and goes on where it stopped.

    \b
    Examples:
      cifar-trainer prepare
      cifar-trainer prepare --source ~/cifar-10-python.tar.gz --data-dir data
      cifar-trainer prepare --dataset synthetic
    """
    from cifar_trainer.console import Output
    from cifar_trainer.data import prepare

    output = Output(verbosity())
    with reporting(output) as reporter:
        report = prepare(
            dataset, data_dir, source=source, offline=offline, force=force, verify=verify, reporter=reporter
        )
    if as_json:
        print_json(report.to_json())
    else:
        output.result(format_report(report))


def prepare_if_missing(dataset: str, data_dir: Path, *, offline: bool, output: "Output") -> None:
    """Prepare `dataset` as `prepare` would, where nothing is prepared yet; for `train`."""
    from cifar_trainer.data import prepare

    with reporting(output) as reporter:
        report = prepare(dataset, data_dir, offline=offline, reporter=reporter)
    if not report.already:
        output.note(f"Prepared {report.title} in {report.folder}.")


@contextlib.contextmanager
def reporting(output: "Output") -> Iterator["Reporter"]:
    """A reporter that shows on `output` what `prepare` says."""
    from cifar_trainer.data import Reporter

    with output.count_bar() as bar:
        task = bar.add_task("reading images", total=None, visible=False)

        def on_images(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield Reporter(note=output.note, warn=output.warn, on_images=on_images)


def format_report(report: "PreparedReport") -> str:
    """What `prepare` says at its end."""
    return f"{report.title}: {report.train.images:,} + {report.test.images:,} images in {report.folder}"
