"""`cifar-trainer prepare`: the data, from wherever it is, ready to train on."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress, TaskID

from cifar_trainer.cli.base import (
    SourceType,
    data_dir_option,
    json_option,
    print_json,
    verbosity,
    verbosity_options,
)
from cifar_trainer.config import DEFAULT_DATA_DIR
from cifar_trainer.errors import printable, printable_lines

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.data.dataset import SplitSummary
    from cifar_trainer.data.download import PrepareReporter
    from cifar_trainer.data.preparation import PreparedReport


#: Without a terminal, a line of a download's progress for each so many bytes.
_LINE_BYTES = 20_000_000


@contextlib.contextmanager
def reporting(output: "Output") -> "Iterator[PrepareReporter]":
    """A reporter that shows on `output` what `prepare` says."""
    from cifar_trainer.data.download import PrepareReporter

    display = _Display(output)
    try:
        yield PrepareReporter(
            note=output.note,
            warn=output.warn,
            on_download=display.on_download,
            on_images=display.on_images,
        )
    finally:
        display.close()


class _Display:
    """One bar at a time: that of the download, then that of the images."""

    def __init__(self, output: "Output") -> None:
        self._output = output
        self._stack = contextlib.ExitStack()
        self._bar: tuple[str, Progress, TaskID] | None = None
        self._said = 0

    def on_download(self, done: int, total: int | None, host: str) -> None:
        self._show(f"from {host}", done, total, download=True)
        if not self._output.live and (done - self._said >= _LINE_BYTES or done == total):
            self._said = done
            self._output.note(f"{done:,} of {total:,} bytes" if total else f"{done:,} bytes")

    def on_images(self, done: int, total: int) -> None:
        self._show("reading images", done, total, download=False)

    def _show(self, title: str, done: int, total: int | None, *, download: bool) -> None:
        if self._bar is None or self._bar[0] != title:
            self.close()
            bar = self._output.download_bar() if download else self._output.count_bar()
            progress = self._stack.enter_context(bar)
            self._bar = (title, progress, progress.add_task(printable(title), total=total))
        _, progress, task = self._bar
        progress.update(task, completed=done, total=total)

    def close(self) -> None:
        self._stack.close()
        self._bar = None


@click.command()
@click.option(
    "--dataset", default="cifar10", metavar="cifar10|synthetic",
    help="synthetic: drawn pictures, which need no source.",
)  # fmt: skip
@click.option(
    "--source", type=SourceType(), metavar="PATH|URL", help="Where CIFAR-10 is; without it, it is downloaded."
)
@data_dir_option("prepare", help="Folder of the prepared data sets.  [default: data]")
@click.option("--offline", is_flag=True, show_default=False, help="Never open a connection.")
@click.option("--force", is_flag=True, show_default=False, help="Prepare anew what is prepared already.")
@click.option("--verify", is_flag=True, show_default=False, help="Read back and check what is prepared.")
@json_option
@verbosity_options
def command(
    dataset: str,
    source: str | None,
    data_dir: Path | None,
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
      cifar-trainer prepare --source cifar-10-python.tar.gz --data-dir data
      cifar-trainer prepare --dataset synthetic
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.data.preparation import prepare

    output = Output(verbosity())
    with reporting(output) as reporter:
        report = prepare(
            dataset,
            data_dir or DEFAULT_DATA_DIR,
            source=source,
            offline=offline,
            force=force,
            verify=verify,
            reporter=reporter,
        )
    if as_json:
        print_json(report.to_json())
    else:
        output.result(printable_lines(format_report(report, checked=verify)))


def format_report(report: "PreparedReport", *, checked: bool) -> str:
    """What `prepare` says at its end: what it is, how much, where it lies, what comes next."""
    verified = "yes: both fingerprints are CIFAR-10's" if report.verified else "no: it is not CIFAR-10"
    files = "as they were written: every checksum and fingerprint holds" if checked else None
    rows = [
        ("verified", verified),
        ("files", files),
        ("training", _format_split(report.train)),
        ("test", _format_split(report.test)),
        ("classes", ", ".join(report.classes)),
        ("source", report.source),
        ("samples", str(report.folder / "samples.png")),
    ]
    state = "prepared already" if report.already else "prepared"
    name = report.title[0].upper() + report.title[1:]
    lines = [f"{name}: {state} in {report.folder}"]
    lines += [f"  {label:<9} {text}" for label, text in rows if text is not None]
    return "\n".join([*lines, f"Next: {_next_command(report)}"])


def _format_split(split: "SplitSummary") -> str:
    fewest, most = min(split.per_class), max(split.per_class)
    each = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{split.images:,} images, {each} of each class"


def _next_command(report: "PreparedReport") -> str:
    words = ["cifar-trainer", "train"]
    if report.dataset != "cifar10":
        words += ["--dataset", report.dataset]
    if report.data_dir != DEFAULT_DATA_DIR:
        words += ["--data-dir", str(report.data_dir)]
    return shlex.join(words)
