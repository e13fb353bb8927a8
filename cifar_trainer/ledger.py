"""A run's ledger of looks at the test set: when, by which command, after how many epochs.

A test set that was looked at often is no longer an independent check. So each look is a
line of the run's `test_looks.jsonl`, written before the figures are, and nothing takes a
line away.
"""

import dataclasses
import datetime
import json
import os

import msgspec

from cifar_trainer.errors import RunError
from cifar_trainer.run import Run

FILE_NAME = "test_looks.jsonl"


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at the test set.

    Attributes:
        at: when, ISO 8601 with the time zone.
        command: such as `train` or `evaluate`.
        epoch: how many epochs the model had been trained for.
    """

    at: str
    command: str
    epoch: int


def record_look(run: Run, command: str, epoch: int) -> None:
    """Add a look to the run's ledger; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    line = json.dumps(dataclasses.asdict(Look(now, command, epoch))) + "\n"
    # One write of few bytes at the end of the file: processes that look at once do not mix their lines.
    descriptor = os.open(run.path / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode("ascii"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_looks(run: Run) -> tuple[Look, ...]:
    """The looks at the test set that were recorded, in order; none where there is no ledger.

    Raises:
        RunError: the ledger cannot be read, or holds something else.
    """
    path = run.path / FILE_NAME
    try:
        lines = path.read_bytes().splitlines()
        return tuple(msgspec.json.decode(line, type=Look) for line in lines)
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(f"{path} cannot be read: {error}. Each line is one look at the test set.") from error
