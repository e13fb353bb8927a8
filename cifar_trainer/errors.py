"""Everything that can go wrong and that a user can put right.

CifarTrainerError           exit code 1
├── UsageError              2   an argument, or a setting, that cannot be
├── DataError               3   data that is missing, or not what it should be
│   └── DataNotFoundError   3   nothing prepared, and nothing to prepare it from
├── CheckError              4   a check that did not hold: parity, a required accuracy
├── DeviceError             5   the device that was asked for is not there
├── OutputError             1   standard output that takes no more
└── RunError                1   a run's folder: absent, in use, damaged, in the way
    ├── CheckpointError     1   a checkpoint that is damaged or missing
    ├── TrainingError       1   training that could not go on: a loss that is not finite, no memory
    ├── SweepError          1   a sweep without a complete trial
    └── TrainingStopped     -   training that was asked to stop, and has saved its state

The message names the value received, what was expected, and what to do next.
The exit codes themselves are the command line's business (`cifar_trainer.cli`).
"""

from pathlib import Path
from typing import Any


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates escaped, so that it stays on one line.

    Names come from archives and disks; none of them may steer a terminal or forge a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`printable`, but line ends are kept."""
    return "\n".join(map(printable, text.split("\n")))


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as `1 epoch` or `1,563 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class CifarTrainerError(Exception):
    """The root of the family: a failure with a message meant for the user."""


class UsageError(CifarTrainerError):
    """An argument or a setting that cannot be: its value, the range, the nearest name."""


class DataError(CifarTrainerError):
    """Data that is missing, damaged, or not what it says it is."""


class DataNotFoundError(DataError):
    """No prepared data, and no source to prepare it from."""


class CheckError(CifarTrainerError):
    """A check that was asked for, or that guards an artefact, did not hold."""


class DeviceError(CifarTrainerError):
    """The device that was asked for is not there, or cannot be used."""


class OutputError(CifarTrainerError):
    """Standard output that could not be written, such as a file on a full disk."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"The result could not be written to standard output: {cause.strerror or cause}.")


class RunError(CifarTrainerError):
    """A run's folder that is absent, in use, unwritable or incomplete."""


class CheckpointError(RunError):
    """A checkpoint that is damaged or missing."""


class TrainingError(RunError):
    """Training that could not go on.

    Attributes:
        epoch: where it stopped, counted from 1.
        step: the step of that epoch, counted from 1.
    """

    def __init__(self, message: str, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step


class SweepError(RunError):
    """A sweep ended without a complete trial.

    Attributes:
        result: its trials and why they failed, a `SweepResult`.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class TrainingStopped(RunError):  # noqa: N818
    """Training that was asked to stop. Its state is saved; `cifar_trainer.resume(run_dir)` goes on.

    Attributes:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"Training was stopped. Its state is saved in {run_dir}.")
        self.run_dir = run_dir
