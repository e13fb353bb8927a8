"""The display of a running sweep: a live table of the best trials, or one plain line per trial."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from cifar_trainer.cli.console import IGNORE_CLOSED_TERMINAL, Output
from cifar_trainer.cli.displays import StoppableDisplay
from cifar_trainer.errors import counted
from cifar_trainer.sweeps.result import SweepReporter, Trial, best_first, format_value

#: The number of trials in the live table.
_BEST = 8


class SweepDisplay(StoppableDisplay, SweepReporter):
    """Shows a sweep on stderr. Once the study is open, the first signal requests a stop."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._live: Live | None = None
        self._trials: Sequence[Trial] = ()
        self._running: dict[int, tuple[Trial, str]] = {}

    def close(self) -> None:
        """Remove the live table from the screen."""
        if self._live is not None:
            with IGNORE_CLOSED_TERMINAL:
                self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        if self._output.verbosity > 0:
            self._output.note(text)

    def opened(self, folder: Path, storage: str, trials: Sequence[Trial]) -> None:
        self.handle_signals()
        done = sum(trial.state in ("complete", "pruned", "failed") for trial in trials)
        self._output.note(f"sweep: {folder}, {done} trials done\nstorage: {storage}", wrap=False)
        self._trials = trials
        if self._output.live:
            self._live = Live(console=self._output.notes, transient=True, auto_refresh=False)
            with IGNORE_CLOSED_TERMINAL:
                self._live.start()
            self._draw()

    def trial_started(self, trial: Trial) -> None:
        self._running[trial.attempts[-1]] = (trial, "starting")
        self._draw()

    def epoch_ended(self, trial: Trial, epoch: int, accuracy: float) -> None:
        self._running[trial.attempts[-1]] = (trial, f"epoch {epoch}, {accuracy:.2%}")
        self._draw()

    def trial_ended(self, trial: Trial, state: str, value: float | None, message: str | None) -> None:
        self._running.pop(trial.attempts[-1], None)
        if self._live is None or state == "failed":
            accuracy = "" if value is None else f"  accuracy {value:.2%}"
            reason = "" if message is None else f"  {message}"
            self._output.note(f"{trial.label}  {state}{accuracy}  {_values(trial.params)}{reason}")

    def listed(self, trials: Sequence[Trial]) -> None:
        self._trials = trials
        self._draw()

    def confirming(self, runs: int) -> None:
        self._output.note(f"The trials are done. Retraining the best on all images: {counted(runs, 'run')}.")

    def _draw(self) -> None:
        if self._live is not None:
            with IGNORE_CLOSED_TERMINAL:
                self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The best trials so far, and those running here."""
        done = sum(trial.state in ("complete", "pruned", "failed") for trial in self._trials)
        table = Table(title=f"{done} trials done", title_justify="left", box=None, pad_edge=False)
        table.add_column("trial", justify="right")
        table.add_column("state")
        table.add_column("accuracy", justify="right")
        table.add_column("values", overflow="ellipsis", no_wrap=True)
        for trial in best_first(self._trials)[:_BEST]:
            table.add_row(str(trial.number), "complete", f"{trial.value:.2%}", _values(trial.params))
        for trial, progress in self._running.values():
            table.add_row(trial.label.removeprefix("trial "), "running", progress, _values(trial.params))
        return table


def _values(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={format_value(value)}" for name, value in values.items())
