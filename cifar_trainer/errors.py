"""Everything that can go wrong in a way that a user can mend.

CifarTrainerError           exit code 1
├── UsageError              2   an argument, or a setting, that cannot be
├── DataError               3   data that is missing, or not what it should be
│   └── DataNotFoundError   3   nothing prepared, and nothing to prepare it from
├── CheckError              4   a check that did not hold: parity, a required accuracy
├── DeviceError             5   the device that was asked for is not there
├── OutputError             1   standard output that takes no more
└── RunError                1   a run's folder: absent, in use, damaged, in the way
    ├── CheckpointError     1   a checkpoint that is damaged or missing
    └── TrainingError       1   training that could not go on: a loss that is not finite, no memory

The message names the value received, what was expected, and what to do next.
The exit codes themselves are the command line's business (`cifar_trainer.cli`).
"""


def spoken(name: str) -> str:
    """A name for a message, one line of it: control characters and lone surrogates are escaped.

    Names come from archives and disks; none of them may steer a terminal or forge a line.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


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
