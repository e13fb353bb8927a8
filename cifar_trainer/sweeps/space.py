"""The space of a sweep: which settings vary, and their ranges, as Optuna's distributions.

A range is `1e-4..1e-2:log`, `32..256:step=32`, or choices: `32,64,128`.
"""

import difflib
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Settings, declared

Range = CategoricalDistribution | IntDistribution | FloatDistribution
#: By setting, sorted by name.
Space = dict[str, Range]

#: A space with more combinations than this counts as infinite.
MAX_COMBINATIONS = 100_000
_EXPECTED = "Expected LOW..HIGH, LOW..HIGH:log, LOW..HIGH:step=STEP, or choices such as 32,64,128."


def parse_space(
    assignments: Iterable[str] = (), space: Mapping[str, Any] | Path | str | None = None
) -> Space:
    """Read the ranges of a sweep.

    Args:
        assignments: such as `learning_rate=1e-4..1e-2:log`.
        space: by setting, a range as text or a list of choices; or a TOML file of that form.

    Raises:
        UsageError: a name is not a setting that can vary, a range is invalid, a setting occurs twice, or
            no setting varies.
    """
    assigned = list((_read_file(Path(space)) if isinstance(space, Path | str) else space or {}).items())
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--set {assignment!r} is invalid. Expected PARAMETER=RANGE, such as "
                "learning_rate=1e-4..1e-2:log."
            )
        assigned.append((name.strip(), text.strip()))
    ranges: Space = {}
    for name, value in assigned:
        setting = _setting(name)
        if setting in ranges:
            raise UsageError(f"{setting} is given twice: {_text(ranges[setting])} and {value}.")
        ranges[setting] = _parse_range(setting, value)
    if not ranges:
        raise UsageError("No setting varies. Add one, such as --set learning_rate=1e-4..1e-2:log.")
    return dict(sorted(ranges.items()))


def _setting(name: str) -> str:
    settings = declared(Settings)
    known = sorted(each for each, declaration in settings.items() if declaration.vary)
    setting = name.removeprefix("--").replace("-", "_")
    if setting not in known:
        nearest = next(iter(difflib.get_close_matches(setting, known, n=1, cutoff=0.5)), None)
        what = "is the same for all trials" if setting in settings else "is not a setting"
        hint = f" Did you mean {nearest!r}?" if nearest and setting not in settings else ""
        raise UsageError(f"{name!r} {what}. Choose from {', '.join(known)}.{hint}")
    return setting


def _parse_range(name: str, value: Any) -> Range:
    kind, shown = declared(Settings)[name].type, f"{name}={value}"
    if isinstance(value, list) or ".." not in str(value):
        texts = value if isinstance(value, list) else str(value).split(",")
        choices = [_read(kind, str(text).strip(), shown) for text in texts]
        if not choices:
            raise UsageError(f"{shown} has no choice. {_EXPECTED}")
        if len({*choices}) < len(choices):
            raise UsageError(f"{shown} repeats a choice.")
        return CategoricalDistribution(choices)
    if kind not in (int, float):
        raise UsageError(f"{shown} is a range, but {name} is not numeric. Expected choices such as a,b,c.")
    bounds, _, how = str(value).partition(":")
    low, high = (_read(kind, text.strip(), shown) for text in bounds.split("..", 1))
    step = _read(kind, how.removeprefix("step="), shown) if how.startswith("step=") else None
    if step is None and how not in ("", "log"):
        raise UsageError(f"{shown} is not a range. {_EXPECTED}")
    if step is not None and step > 0:
        # The last value on the grid; 1e-9 because 0.1 + 0.2 is more than 0.3.
        high = low + math.floor((high - low) / step + 1e-9) * step
    try:
        if kind is int:
            return IntDistribution(low, high, log=how == "log", step=1 if step is None else step)
        return FloatDistribution(low, high, log=how == "log", step=step)
    except ValueError as error:
        raise UsageError(f"{shown} is not a range: {error} {_EXPECTED}") from error


def _read(kind: type, text: str, shown: str) -> Any:
    try:
        if kind is bool or not text:
            raise ValueError
        value = kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(kind, "a value")
        raise UsageError(f"{shown}: {text!r} is not {what}. {_EXPECTED}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{shown}: {text!r} is not finite.")
    return value


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--space {file} cannot be read: {error.strerror}. Expected a TOML file.") from error
    except ValueError as error:
        raise UsageError(f"--space {file} is not TOML: {error}.") from error


def extremes(values: Range) -> tuple[Any, ...]:
    """The lowest and the highest value; or all choices, the lowest first if they are numbers."""
    if not isinstance(values, CategoricalDistribution):
        return values.low, values.high
    numeric = all(isinstance(choice, int | float) for choice in values.choices)
    return tuple(sorted(values.choices)) if numeric else values.choices


def combinations(space: Space) -> list[dict[str, Any]] | None:
    """All combinations of values; None if there are infinitely many, or more than `MAX_COMBINATIONS`."""
    values = [_values(each) for each in space.values()]
    listed = [each for each in values if each is not None]
    if len(listed) < len(values) or math.prod(map(len, listed)) > MAX_COMBINATIONS:
        return None
    return [dict(zip(space, each, strict=True)) for each in itertools.product(*listed)]


def _values(values: Range) -> Sequence[Any] | None:
    if isinstance(values, CategoricalDistribution):
        return values.choices
    if isinstance(values, IntDistribution):
        return range(values.low, values.high + 1, values.step)
    if values.step is None:
        return (values.low,) if values.single() else None
    return [values.low + i * values.step for i in range(round((values.high - values.low) / values.step) + 1)]


def describe(space: Space) -> dict[str, str]:
    """Each setting's range as text."""
    return {name: _text(values) for name, values in space.items()}


def _text(values: Range) -> str:
    if isinstance(values, CategoricalDistribution):
        return ",".join(map(str, values.choices))
    ending = ":log" if values.log else "" if values.step in (None, 1) else f":step={values.step}"
    return f"{values.low}..{values.high}{ending}"
