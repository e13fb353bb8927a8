"""Reading the JSON files that this package has written, each with the type of what it holds."""

import json
from pathlib import Path
from typing import TypeVar

import msgspec

from cifar_trainer.errors import CifarTrainerError, RunError, UsageError

T = TypeVar("T")


def read(path: Path, kind: type[T], *, error: type[CifarTrainerError] = RunError, remedy: str = "") -> T:
    """Read a JSON object as a dataclass; keys that the dataclass does not know are passed over.

    Args:
        path: the file.
        kind: a dataclass, or another type that msgspec converts to.
        error: the class of what is raised.
        remedy: what to do about it, as a sentence.

    Raises:
        CifarTrainerError: as `error`: the file cannot be read, is not JSON, or a value is missing or of
            another type. The message names the file, the key, and what was expected.
    """
    advice = f" {remedy}" if remedy else ""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}.{advice}") from cause
    except ValueError as cause:
        raise error(f"{path} is not JSON: {cause}.{advice}") from cause
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UsageError) as cause:
        # A check of the settings names them as options, which nobody has given here.
        reason = (
            str(cause).removeprefix("--").rstrip(".").replace("- at `$.", "at `").replace("`$`", "the top")
        )
        raise error(f"{path} is damaged or from another version: {reason}.{advice}") from cause
