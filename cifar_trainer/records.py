"""Reading the JSON files that this package has written, each with the type of what it holds."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

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
            another type. The message names the file, the key, its value, and what was expected.
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
        raise error(
            f"{path} is damaged or from another version: {_describe(cause, value)}.{advice}"
        ) from cause


def _describe(cause: Exception, value: Any) -> str:
    """What is wrong, such as `Expected `int`, got `str` at `epochs`, which is "2"`."""
    # A check of the settings names them as options, which nobody has given here.
    reason, _, place = str(cause).removeprefix("--").rstrip(".").partition(" - at `$")
    if not place:
        return reason
    keys = re.findall(r"\.(\w+)|\[(\d+)\]", place)
    for key, index in keys:
        value = value[key] if key else value[int(index)]
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 80 else f"{shown[:76]} ..."
    return f"{reason} at `{place.rstrip('`').removeprefix('.') or 'the top'}`, which is {shown}"
