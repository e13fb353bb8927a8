"""The two streams: results on stdout; notes, warnings and progress on stderr. Never imports TensorFlow.

Rich decides by the stream, NO_COLOR, FORCE_COLOR and TERM whether there are colours.
"""

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from cifar_trainer.errors import OutputError, printable, printable_lines
from cifar_trainer.results import Result

R = TypeVar("R", bound=Result)

#: The least width of a column whose text is wrapped.
_LEAST_FOLDED = 16

#: Drawing on a terminal that is gone raises these. It must not end the work.
UNSEEN = contextlib.suppress(OSError, ValueError)


class _Results(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with 1. The command line ends quietly, as if it had printed without Rich.
        raise


class _Notes(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit, but the work goes on if nobody reads the notes.
        self.quiet = True


class Output:
    """What a command may print, and how much.

    Attributes:
        verbosity: -1 for --quiet: only results and errors; 1 for --verbose; else 0.
        as_json: whether results are printed as JSON.
    """

    def __init__(self, verbosity: int = 0, as_json: bool = False) -> None:
        self.verbosity, self.as_json = verbosity, as_json
        # A file or a pipe has no width; Rich would squeeze tables into 80 columns.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 250
        # Printed text contains file names: neither [red] nor :cat: is markup.
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.results = _Results(**plain, file=sys.stdout, soft_wrap=not sys.stdout.isatty(), width=width)
        self.notes = _Notes(**plain, stderr=True, soft_wrap=not sys.stderr.isatty())

    @property
    def verbose(self) -> bool:
        """Whether to show TensorFlow's own messages."""
        return self.verbosity > 0

    @property
    def width(self) -> int:
        """Columns that a table on stdout may take."""
        return self.results.width

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
        """Print a note on stderr; never fails.

        Without `wrap` no line breaks are added, so that a command in the text can be pasted.
        """
        if self.verbosity >= 0:
            with UNSEEN:
                self.notes.print(printable_lines(text), soft_wrap=None if wrap else True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr; never fails."""
        if self.verbosity >= 0:
            with UNSEEN:
                self.notes.print(f"Warning: {printable_lines(text)}", style="yellow")

    def result(self, result: R, show: Callable[[R], RenderableType | Iterable[RenderableType]]) -> None:
        """Print a result on stdout: as JSON, or what `show` makes of it: texts and Rich's tables."""
        if self.as_json:
            with _writing_results():
                print(json.dumps(result.to_json(), allow_nan=False), file=self.results.file, flush=True)
            return
        shown = show(result)
        for item in shown if isinstance(shown, list | tuple) else [shown]:
            self.print(item)

    def print(self, item: object) -> None:
        """Print a text or one of Rich's tables on stdout."""
        with _writing_results():
            if isinstance(item, str):
                self.results.print(printable_lines(item), soft_wrap=True)
            elif self.results.file.isatty():
                self.results.print(item)
            else:
                # Rich pads the cells of a table; remove the spaces at the ends of lines.
                with self.results.capture() as captured:
                    self.results.print(item)
                lines = captured.get().splitlines()
                self.results.file.write("".join(f"{line.rstrip()}\n" for line in lines))

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """While the block runs, nothing but results reaches stdout, and the package's log is shown here.

        A user's recipe may print, and Keras prints downloads: to stderr.
        """
        handler, log = _LogHandler(self), logging.getLogger("cifar_trainer")
        level = log.level
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """Bars of things done: call with a title, how many are done, and how many there are (or None)."""
        with self.count_bar() as progress:
            tasks: dict[str, TaskID] = {}

            def show(title: str, done: int, total: int | None) -> None:
                if title not in tasks:
                    tasks[title] = progress.add_task(printable(title), total=total)
                progress.update(tasks[title], completed=done, total=total)

            yield show

    def count_bar(self) -> Progress:
        """A bar of things done and time left."""
        columns = (MofNCompleteColumn(), TimeRemainingColumn())
        return self.bar(TextColumn("{task.description}"), BarColumn(), *columns)

    def download_bar(self) -> Progress:
        """A bar of bytes, speed and time left."""
        columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        return self.bar(TextColumn("{task.description}"), BarColumn(), *columns)

    def bar(self, *columns: ProgressColumn) -> Progress:
        """A bar on stderr, removed at its end; invisible if stderr is not a live terminal."""
        return Progress(*columns, console=self.notes, disable=not self.live, transient=True)


def fitting_table(
    rows: Sequence[Mapping[str, str]],
    width: int,
    *,
    title: str | None = None,
    left: Sequence[str] = (),
    folding: Sequence[str] = ("run",),
    less_important: Sequence[str] = (),
) -> Table:
    """A table that stays readable in `width` columns: it leaves columns out before it shortens one.

    Args:
        rows: their cells by column, all with the same columns; a column without any text is left out.
        width: of the screen.
        title: above the table.
        left: columns aligned to the left; the others are numbers.
        folding: columns whose text may be wrapped.
        less_important: columns that may be left out, the first to go first.
    """
    longest = {name: max(len(row[name]) for row in rows) for name in rows[0]} if rows else {}
    columns = [name for name, length in longest.items() if length]
    needed = {
        # A wrapped column needs some room, or its text stands one letter below the other.
        name: max(len(name), min(longest[name], _LEAST_FOLDED) if name in folding else longest[name])
        for name in columns
    }
    for name in less_important:
        if sum(needed[name] + 2 for name in columns) <= width:
            break
        if name in columns:
            columns.remove(name)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in left or name in folding else "right"
        fold = name in folding
        table.add_column(
            name, justify=justify, no_wrap=not fold, overflow="fold", min_width=needed[name] if fold else None
        )
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


class _LogHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        say = self._output.warn if record.levelno >= logging.WARNING else self._output.note
        say(self.format(record))


@contextlib.contextmanager
def _writing_results() -> Iterator[None]:
    """Treat a terminal that is gone like a closed pipe.

    Raises:
        BrokenPipeError: nobody reads the results.
        OutputError: they cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise BrokenPipeError(errno.EPIPE, "the terminal is gone") from error
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(error) from error
