"""What a person sees: progress, notes and tables. Never imports TensorFlow.

Notes, progress and warnings go to stderr; results go to stdout. Rich decides
by the stream, NO_COLOR, FORCE_COLOR and TERM whether there is colour or life in it.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cifar_trainer.errors import OutputError, printable_lines


@contextlib.contextmanager
def writing_results() -> Iterator[None]:
    """Turn the error of a terminal that is gone into that of a pipe that is closed: nobody reads on.

    Raises:
        BrokenPipeError: nobody reads on.
        OutputError: it cannot be written otherwise.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise BrokenPipeError(errno.EPIPE, "the terminal is gone") from error
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(error) from error


class _Results(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with 1. The command line ends quietly, as where it prints without Rich.
        raise


class _Notes(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit; but nobody reading the notes is no reason to stop the work.
        self.quiet = True


class Output:
    """The two streams, and how much may be said on them.

    Attributes:
        verbosity: -1 only results and errors, 0 notes and progress, 1 detail.
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        # Rich would squeeze a table into 80 columns for a file or a pipe, which have none.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 250
        # What is printed holds names of files: neither [red] nor :cat: in them means anything.
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.results = _Results(**plain, soft_wrap=not sys.stdout.isatty(), width=width)
        self.notes = _Notes(**plain, stderr=True, soft_wrap=not sys.stderr.isatty())

    @property
    def live(self) -> bool:
        """Whether stderr is a terminal that can redraw a line."""
        return (
            self.verbosity >= 0
            # Not Rich's answer: FORCE_COLOR asks for colour, not for a bar in a file.
            and self.notes.file.isatty()
            and not self.notes.is_dumb_terminal
            and os.environ.get("TERM") != "dumb"
        )

    def note(self, text: str, *, wrap: bool = True) -> None:
        """Say something in passing. Lost without harm where stderr is closed.

        Without `wrap` no line ends are added, so that a command in it can be pasted.
        """
        if self.verbosity >= 0:
            with contextlib.suppress(OSError, ValueError):
                self.notes.print(printable_lines(text), soft_wrap=None if wrap else True)

    def warn(self, text: str) -> None:
        """Say something that the user should know, --quiet or not."""
        with contextlib.suppress(OSError, ValueError):
            self.notes.print(f"Warning: {printable_lines(text)}", style="yellow")

    def result(self, item: object) -> None:
        """Print a result, a text or a rich table, on stdout; a text without line ends of our own."""
        with writing_results():
            if isinstance(item, str):
                self.results.print(item, soft_wrap=True)
            elif self.results.file.isatty():
                self.results.print(item)
            else:
                # A table's cells are filled up with spaces; nobody wants those of the last in a file.
                with self.results.capture() as captured:
                    self.results.print(item)
                lines = captured.get().splitlines()
                self.results.file.write("".join(f"{line.rstrip()}\n" for line in lines))

    @contextlib.contextmanager
    def download_bar(self) -> Iterator[Progress]:
        """A bar of bytes, speed and time left; invisible where stderr is no live terminal."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.notes,
            disable=not self.live,
        ) as progress:
            yield progress

    @contextlib.contextmanager
    def count_bar(self) -> Iterator[Progress]:
        """A bar of things done and time left; invisible where stderr is no live terminal."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.notes,
            disable=not self.live,
            transient=True,
        ) as progress:
            yield progress
