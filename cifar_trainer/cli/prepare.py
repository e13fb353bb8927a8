"""`cifar-trainer prepare`: the data, from wherever it is, ready to train on."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import DATASET, SourceType, data_dir_option, make_command
from cifar_trainer.errors import UsageError
from cifar_trainer.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.data.dataset import SplitSummary
    from cifar_trainer.data.prepare import PreparedReport


@make_command("prepare")
@click.argument("path", required=False, metavar="", type=SourceType())
@click.option(
    "--dataset", type=DATASET, default="cifar10", metavar="NAME",
    help="cifar10, synthetic (drawn; no source needed), cifar100, cifar100-coarse, fashion-mnist, svhn, or "
    "with --source a name for classes of your own.",
)  # fmt: skip
@click.option(
    "--source", type=SourceType(), metavar="PATH|URL",
    help="Folder, archive or table of images.  [default: other programs' caches, then a download]",
)  # fmt: skip
@click.option("--size", type=int, metavar="N", help="Own classes: pixels along each side.  [default: 32]")
@click.option(
    "--resize", default="stretch", metavar="[stretch|crop|fit]", help="Own classes: how to reach that size."
)
@click.option(
    "--test-fraction",
    type=float,
    metavar="X",
    help="Split off a test set where the source has none (0 to 1).",
)
@click.option("--seed", type=int, default=0, help="Decides which images become the test set.")
@click.option(
    "--skip-unreadable", is_flag=True, show_default=False, help="Leave out images that cannot be decoded."
)
@data_dir_option("Folder of the prepared data sets.  [default: data]")
@click.option("--offline", is_flag=True, show_default=False, help="Never download.")
@click.option("--force", is_flag=True, show_default=False, help="Prepare again even if already done.")
@click.option("--verify", is_flag=True, show_default=False, help="Read back and check what is prepared.")
def command(output: "Output", /, path: str | None, data_dir: Path | None, **options: Any) -> None:
    """Download or import a data set and verify it by its content.

    A source may be the official archive of a data set in any version (Python, binary, MATLAB), a
    cache of Keras, torchvision, Hugging Face or TFDS, arrays (.npz, .npy), or images in a folder for
    each class. It is told apart by content, not by name. A download goes on where it stopped.

    \b
    Examples:
      cifar-trainer prepare
      cifar-trainer prepare --source cifar-10-python.tar.gz --data-dir data
      cifar-trainer prepare --dataset synthetic
      cifar-trainer prepare --dataset pets --source photos/ --size 64 --test-fraction 0.2
    """
    if path is not None:
        raise UsageError(f"prepare takes no argument, received {path}. Did you mean --source {path}?")
    from cifar_trainer.cli.displays import PrepareDisplay
    from cifar_trainer.data.prepare import prepare

    verified = options["verify"]
    with PrepareDisplay(output) as display:
        report = prepare(
            options.pop("dataset"), data_dir or DEFAULT_DATA_DIR, **options, reporter=display.reporter
        )
    output.result(report, lambda report: format_report(report, checked=verified))


def format_report(report: "PreparedReport", *, checked: bool) -> str:
    """What `prepare` says at its end: what it is, how much, where it lies, what comes next."""
    from cifar_trainer.data import DATASETS

    spec = DATASETS.get(report.dataset)
    known = spec if spec is not None and spec.fingerprints is not None else None
    verified = (
        f"yes: both fingerprints are {report.title}'s"
        if report.verified
        else "no: "
        + (f"it is not {known.title}" if known is not None else "there is no published fingerprint of it")
    )
    files = "as they were written: every checksum and fingerprint holds" if checked else None
    rows = [
        ("verified", verified),
        ("files", files),
        ("training", _format_split(report.train)),
        ("test", _format_split(report.test)),
        ("classes", _format_classes(report.classes)),
        ("source", report.source),
        ("samples", str(report.folder / "samples.png")),
    ]
    state = "prepared already" if report.already else "prepared"
    name = report.title[0].upper() + report.title[1:]
    lines = [f"{name}: {state} in {report.folder}"]
    lines += [f"  {label:<9} {text}" for label, text in rows if text is not None]
    return "\n".join([*lines, f"Next: {_next_command(report)}"])


def _format_classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:10])
    return shown if len(classes) <= 10 else f"{shown} and {len(classes) - 10} more"


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
