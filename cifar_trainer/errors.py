"""Errors that a user can fix, and helpers for formatting messages.

CifarTrainerError           exit code 1
├── UsageError              2   an invalid argument or setting
├── DataError               3   missing, damaged or wrong data
│   └── DataNotFoundError   3   no prepared data, and no source to prepare it from
├── CheckError              4   a failed check: parity, a required accuracy
├── DeviceError             5   the requested device is not available
├── OutputError             1   standard output cannot be written
└── RunError                1   a run's folder is missing, in use, damaged, or cannot be written
    ├── CheckpointError     1   a damaged or missing checkpoint
    ├── TrainingError       1   training failed: the loss is not finite, no memory
    ├── SweepError          1   a sweep ended without a complete trial
    └── TrainingStopped     -   training was asked to stop and has saved its state

Each message states the value received, what was expected, and what to do next. The exit codes are those of
the command line (`cifar_trainer.cli`).
"""

from pathlib import Path
from typing import Any

#: The message on native Windows, which has neither flock nor SIGHUP.
UNSUPPORTED = "cifar-trainer runs on Linux and macOS. On Windows, install and run it inside WSL 2."


def printable(text: str) -> str:
    """`text` on one line, with control characters and lone surrogates escaped.

    File names must not be able to control a terminal or forge a line of output.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`printable` for each line; newlines are kept."""
    return "\n".join(map(printable, text.split("\n")))


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as `1 epoch` or `1,563 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class CifarTrainerError(Exception):
    """Base class: a failure with a message for the user."""


class UsageError(CifarTrainerError):
    """An invalid argument or setting; the message has the value, and the valid range or the nearest name."""


class DataError(CifarTrainerError):
    """Data that is missing, damaged, or not what it claims to be."""


class DataNotFoundError(DataError):
    """No prepared data, and no source to prepare it from."""


class CheckError(CifarTrainerError):
    """A failed check: one that the user requested, or one that protects an artefact."""


class DeviceError(CifarTrainerError):
    """The requested device is missing or cannot be used."""


class OutputError(CifarTrainerError):
    """Standard output cannot be written, for example on a full disk."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"The result could not be written to standard output: {cause.strerror or cause}.")


class RunError(CifarTrainerError):
    """A run's folder that is missing, in use, read-only or incomplete."""


class CheckpointError(RunError):
    """A checkpoint that is damaged or missing."""


class TrainingError(RunError):
    """Training failed.

    Attributes:
        epoch: the epoch in which it failed, from 1.
        step: the step of that epoch, from 1.
    """

    def __init__(self, message: str, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step


class SweepError(RunError):
    """A sweep ended without a complete trial.

    Attributes:
        result: a `SweepResult` with the trials and the reasons why they failed.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class TrainingStopped(RunError):  # noqa: N818
    """Training was asked to stop. Its state is saved; `cifar_trainer.resume(run_dir)` continues.

    Attributes:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"Training was stopped. Its state is saved in {run_dir}.")
        self.run_dir = run_dir
