"""Terminal output: results on stdout; notes, warnings and progress on stderr.

Rich chooses colours by the stream, NO_COLOR, FORCE_COLOR and TERM.
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

#: Minimum width of a wrapped column.
_MIN_WRAPPED_WIDTH = 16

#: Drawing on a closed terminal raises these errors, which must not stop the work.
IGNORE_CLOSED_TERMINAL = contextlib.suppress(OSError, ValueError)


class _Results(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit 1; `cli.base` exits quietly.
        raise


class _Notes(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit, but the work must continue without its notes.
        self.quiet = True


class Output:
    """Prints the results, notes and progress of a command.

    Attributes:
        verbosity: -1 for --quiet (results and errors only), 1 for --verbose, else 0.
        as_json: print results as JSON.
    """

    def __init__(self, verbosity: int = 0, as_json: bool = False) -> None:
        self.verbosity, self.as_json = verbosity, as_json
        # A file or a pipe has no width; Rich would squeeze tables into 80 columns.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 250
        # File names may contain [red] or :cat:, so turn markup off.
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self.results = _Results(**plain, file=sys.stdout, soft_wrap=not sys.stdout.isatty(), width=width)
        self.notes = _Notes(**plain, stderr=True, soft_wrap=not sys.stderr.isatty())

    @property
    def verbose(self) -> bool:
        """Whether to show TensorFlow's own messages."""
        return self.verbosity > 0

    @property
    def width(self) -> int:
        """Columns available on stdout."""
        return self.results.width

    @property
    def live(self) -> bool:
        """Whether stderr is a terminal that can redraw a line."""
        return (
            self.verbosity >= 0
            # Not Rich's `is_terminal`, which FORCE_COLOR makes true even for a file.
            and self.notes.file.isatty()
            and not self.notes.is_dumb_terminal
            and os.environ.get("TERM") != "dumb"
        )

    def note(self, text: str, *, wrap: bool = True) -> None:
        """Print a note on stderr; never fails.

        `wrap=False` adds no line breaks, so that a command in the text can be pasted.
        """
        if self.verbosity >= 0:
            with IGNORE_CLOSED_TERMINAL:
                self.notes.print(printable_lines(text), soft_wrap=None if wrap else True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr; never fails."""
        if self.verbosity >= 0:
            with IGNORE_CLOSED_TERMINAL:
                self.notes.print(f"Warning: {printable_lines(text)}", style="yellow")

    def result(self, result: R, show: Callable[[R], RenderableType | Iterable[RenderableType]]) -> None:
        """Print a result on stdout, as JSON or as the strings and tables that `show` returns."""
        if self.as_json:
            with _writing_results():
                print(json.dumps(result.to_json(), allow_nan=False), file=self.results.file, flush=True)
            return
        shown = show(result)
        for item in shown if isinstance(shown, list | tuple) else [shown]:
            self.print(item)

    def print(self, item: object) -> None:
        """Print a string or a Rich table on stdout."""
        with _writing_results():
            if isinstance(item, str):
                self.results.print(printable_lines(item), soft_wrap=True)
            elif self.results.file.isatty():
                self.results.print(item)
            else:
                # Rich pads cells; strip the trailing spaces.
                with self.results.capture() as captured:
                    self.results.print(item)
                lines = captured.get().splitlines()
                self.results.file.write("".join(f"{line.rstrip()}\n" for line in lines))

    @contextlib.contextmanager
    def redirecting(self) -> Iterator[None]:
        """Within the block, keep stdout for results, and show the package's log.

        A user's recipe may print, and Keras prints downloads; both go to stderr.
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
        """Progress bars, updated by calls with title, done and total (or None)."""
        with self.count_bar() as progress:
            tasks: dict[str, TaskID] = {}

            def show(title: str, done: int, total: int | None) -> None:
                if title not in tasks:
                    tasks[title] = progress.add_task(printable(title), total=total)
                progress.update(tasks[title], completed=done, total=total)

            yield show

    def count_bar(self) -> Progress:
        """A progress bar with counts and the time left."""
        columns = (MofNCompleteColumn(), TimeRemainingColumn())
        return self.bar(TextColumn("{task.description}"), BarColumn(), *columns)

    def download_bar(self) -> Progress:
        """A progress bar with bytes, speed and the time left."""
        columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        return self.bar(TextColumn("{task.description}"), BarColumn(), *columns)

    def bar(self, *columns: ProgressColumn) -> Progress:
        """A transient progress bar on stderr; disabled unless stderr is a live terminal."""
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
    """A table that drops less important columns to fit into `width`.

    Args:
        rows: cells by column name, the same columns in each row. Empty columns are dropped.
        width: available characters per line.
        title: shown above the table.
        left: left-aligned columns; the others are aligned to the right.
        folding: columns that may wrap.
        less_important: columns that may be dropped, the first one first.
    """
    longest = {name: max(len(row[name]) for row in rows) for name in rows[0]} if rows else {}
    columns = [name for name, length in longest.items() if length]
    needed = {
        # A narrower column would wrap after every letter.
        name: max(len(name), min(longest[name], _MIN_WRAPPED_WIDTH) if name in folding else longest[name])
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
    """Treat a closed terminal like a closed pipe.

    Raises:
        BrokenPipeError: the reader is gone.
        OutputError: the results cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise BrokenPipeError(errno.EPIPE, "the terminal is closed") from error
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(error) from error
