"""`cifar-trainer prepare`: download or import a data set."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import DATASET, PathType, SourceType, data_dir_option, make_command
from cifar_trainer.errors import UsageError, counted
from cifar_trainer.settings import DEFAULT_DATA_DIR, MAX_SIZE, MIN_SIZE

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.data.dataset import Corrections, Groups, SplitSummary
    from cifar_trainer.data.prepare import PreparedReport
    from cifar_trainer.data.store import Record


class DatasetOption(click.Option):
    """An option whose help lists the data sets, imported only for --help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from cifar_trainer.data import DATASETS

        self.help = f"{', '.join(DATASETS)}; or, with --source, a name for your own classes."
        return super().get_help_record(ctx)


@make_command("prepare")
@click.argument("path", required=False, metavar="", type=SourceType())
@click.option("--dataset", cls=DatasetOption, type=DATASET, default="cifar10", metavar="NAME")
@click.option(
    "--source", type=SourceType(), metavar="PATH|URL",
    help="Folder, archive or table of images.  [default: other programs' caches, then a download]",
)  # fmt: skip
@click.option(
    "--size", type=int, metavar="N",
    help=f"Your own classes: pixels along each side, {MIN_SIZE} to {MAX_SIZE}.  "
    "[default: 32, or the size of arrays]",
)  # fmt: skip
@click.option(
    "--resize", default="stretch", metavar="[stretch|crop|fit]", help="How to resize images to that size."
)
@click.option(
    "--test-fraction", type=float, metavar="X",
    help="Share of each class to split off as a test set if the source has none.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, help="Seed that chooses the images of the test set.")
@click.option(
    "--skip-unreadable", is_flag=True, show_default=False, help="Leave out images that cannot be decoded."
)
@click.option(
    "--relabel", metavar="FILE.csv", type=PathType(),
    help="CSV file of corrections: columns file (or split and index) and label, a class or `delete`.",
)  # fmt: skip
@click.option(
    "--keep-groups", metavar="FILE.csv", type=PathType(),
    help="CSV file of groups, each kept on one side of every split: columns group and file.",
)  # fmt: skip
@data_dir_option("Folder of the prepared data sets.  [default: data]")
@click.option("--offline", is_flag=True, show_default=False, help="Never download.")
@click.option("--force", is_flag=True, show_default=False, help="Prepare again even if already done.")
@click.option("--verify", is_flag=True, show_default=False, help="Read the prepared data back and verify it.")
def command(output: "Output", /, path: str | None, data_dir: Path | None, **options: Any) -> None:
    """Download or import a data set and verify it by its content.

    A source is an official archive of a data set (Python, binary or MATLAB version), a cache of Keras,
    torchvision, Hugging Face or TFDS, a file of arrays or records, or a folder or archive with one folder of
    images per class. Sources are recognized by content, not by name. Interrupted downloads resume.

    \b
    Examples:
      cifar-trainer prepare
      cifar-trainer prepare --source cifar-10-python.tar.gz --data-dir data
      cifar-trainer prepare --dataset synthetic
      cifar-trainer prepare --dataset pets --source photos/ --size 64 --test-fraction 0.2
      cifar-trainer prepare --dataset pets --source photos/ --relabel corrections.csv --force
    """
    if path is not None:
        raise UsageError(f"prepare takes no argument, got {path}. Did you mean --source {path}?")
    from cifar_trainer.cli.displays import PrepareDisplay
    from cifar_trainer.data.prepare import prepare

    verified = options["verify"]
    with PrepareDisplay(output) as display:
        report = prepare(
            options.pop("dataset"), data_dir or DEFAULT_DATA_DIR, **options, reporter=display.reporter
        )
    output.result(report, lambda report: format_report(report, checked=verified))


def format_report(report: "PreparedReport", *, checked: bool) -> str:
    """The report of `prepare`, and the next command."""
    record = report.record
    rows = [
        ("verified", _format_proof(record)),
        ("files", "unchanged: every checksum and fingerprint matches" if checked else None),
        ("training", _format_split(record.train)),
        ("test", _format_split(record.test)),
        ("classes", _format_classes(record.classes)),
        ("corrected", _format_corrections(record.corrections)),
        ("groups", _format_groups(record.groups)),
        ("source", record.source),
        ("samples", str(report.folder / "samples.png")),
    ]
    state = "prepared already" if report.already else "prepared"
    lines = [f"{report.title}: {state} in {report.folder}"]
    lines += [f"  {label:<9} {text}" for label, text in rows if text is not None]
    return "\n".join([*lines, f"next: {_next_command(report)}"])


def _format_proof(record: "Record") -> str:
    from cifar_trainer.data import DATASETS

    spec = DATASETS.get(record.dataset)
    if record.verified_by == "content":
        return f"yes: both fingerprints are {record.title}'s"
    if record.verified_by == "archive":
        return f"yes: the archives have the SHA-256 of the published {record.title}"
    if spec is not None and spec.fingerprints is not None:
        return f"no: it is not {spec.title}"
    if spec is not None and spec.archives:
        return f"no: only the published archives of {spec.title} can be verified"
    return "no: only published data sets can be verified"


def _format_classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:10])
    return shown if len(classes) <= 10 else f"{shown} and {len(classes) - 10} more"


def _format_corrections(made: "Corrections | None") -> str | None:
    if made is None:
        return None
    changed, deleted = counted(made.relabelled, "label"), counted(made.deleted, "image")
    return f"{changed} changed, {deleted} deleted ({made.file})"


def _format_groups(kept: "Groups | None") -> str | None:
    if kept is None:
        return None
    return f"{counted(kept.groups, 'group')} of {counted(kept.images, 'image')} kept together ({kept.file})"


def _format_split(split: "SplitSummary") -> str:
    fewest, most = min(split.per_class), max(split.per_class)
    each = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{split.images:,} images, {each} of each class"


def _next_command(report: "PreparedReport") -> str:
    words = ["cifar-trainer", "train"]
    if report.record.dataset != "cifar10":
        words += ["--dataset", report.record.dataset]
    if report.data_dir != DEFAULT_DATA_DIR:
        words += ["--data-dir", str(report.data_dir)]
    return shlex.join(words)
