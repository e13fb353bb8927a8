"""The space of a sweep: which settings vary, and their ranges.

A range is `1e-4..1e-2:log`, `32..256:step=32`, or choices: `32,64,128`. Needs neither Optuna nor TensorFlow.
"""

import dataclasses
import difflib
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Settings, declared

Value = int | float | str

#: A space with more combinations than this counts as infinite.
MOST_COMBINATIONS = 100_000
_EXPECTED = "Expected LOW..HIGH, LOW..HIGH:log, LOW..HIGH:step=STEP, or choices such as 32,64,128."


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting and its range.

    Attributes:
        name: the setting's name in `Settings`.
        choices: the values, if they are listed.
        low, high: the bounds of a range, both included. With a step, `high` is on the grid.
        step: the distance between values; None if there is none.
        log: whether the values are spread evenly over the orders of magnitude.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def __str__(self) -> str:
        if self.choices:
            return ",".join(map(str, self.choices))
        ending = ":log" if self.log else "" if self.step in (None, 1) else f":step={self.step}"
        return f"{self.low}..{self.high}{ending}"

    @property
    def whole(self) -> bool:
        """Whether the values of the range are whole numbers."""
        return isinstance(self.low, int)

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all others: if these are possible, so are the others."""
        return self.choices or (self.low, self.high)

    def values(self) -> Sequence[Value] | None:
        """All values in order; None if there are infinitely many."""
        if self.choices:
            return self.choices
        if self.whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return (self.low,) if self.low == self.high else None
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]


Space = tuple[Parameter, ...]


def parse_space(
    assignments: Iterable[str] = (), space: Mapping[str, Any] | Path | str | None = None
) -> Space:
    """Read the ranges of a sweep.

    Args:
        assignments: such as `learning_rate=1e-4..1e-2:log`.
        space: by setting, a range as text or a list of choices; or a TOML file of that form.

    Returns:
        The parameters, sorted by name.

    Raises:
        UsageError: a name is not a setting that can vary, a range is invalid, a setting is given twice, or
            there is none.
    """
    given = list((_read_file(Path(space)) if isinstance(space, Path | str) else space or {}).items())
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(
                f"--set {assignment!r} is not known. Expected PARAMETER=RANGE, such as "
                "learning_rate=1e-4..1e-2:log."
            )
        given.append((name.strip(), text.strip()))
    parameters: dict[str, Parameter] = {}
    for name, value in given:
        parameter = parse_parameter(name, value)
        if parameter.name in parameters:
            raise UsageError(f"{parameter.name} is given twice: {parameters[parameter.name]} and {value}.")
        parameters[parameter.name] = parameter
    if not parameters:
        raise UsageError("Nothing varies. Name a setting, such as --set learning_rate=1e-4..1e-2:log.")
    return tuple(parameters[name] for name in sorted(parameters))


def parse_parameter(name: str, value: Any) -> Parameter:
    """Read one setting's range, or its choices as a list.

    Raises:
        UsageError: the setting cannot vary, or the range does not fit its type.
    """
    settings = declared(Settings)
    known = sorted(each for each, declaration in settings.items() if declaration.vary)
    field = name.removeprefix("--").replace("-", "_")
    if field not in known:
        nearest = next(iter(difflib.get_close_matches(field, known, n=1, cutoff=0.5)), None)
        what = "is the same for all trials" if field in settings else "is not a setting"
        hint = f" Did you mean {nearest!r}?" if nearest and field not in settings else ""
        raise UsageError(f"{name!r} {what}. Choose from {', '.join(known)}.{hint}")
    kind = settings[field].type
    if isinstance(value, list):
        return _with_choices(field, kind, [str(each) for each in value], str(value))
    text = str(value)
    if ".." in text:
        return _ranged(field, kind, text)
    return _with_choices(field, kind, text.split(","), text)


def _with_choices(name: str, kind: type, texts: Sequence[str], shown: str) -> Parameter:
    choices = tuple(_read(name, kind, text.strip(), shown) for text in texts)
    if len(set(choices)) < len(choices):
        raise UsageError(f"{name}={shown} has a choice twice.")
    return Parameter(name, choices=choices)


def _ranged(name: str, kind: type, text: str) -> Parameter:
    if kind not in (int, float):
        raise UsageError(
            f"{name}={text} is a range, but {name} is not numeric. Expected choices such as a,b,c."
        )
    bounds, _, how = text.partition(":")
    low_text, _, high_text = bounds.partition("..")
    low, high = (_read(name, kind, each.strip(), text) for each in (low_text, high_text))
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    step: float | None = 1 if kind is int else None
    if how.startswith("step="):
        read = _read(name, kind, how.removeprefix("step="), text)
        assert not isinstance(read, str)
        step = read
    elif how not in ("", "log"):
        raise UsageError(f"{name}={text} is not a range. {_EXPECTED}")
    if low > high or (step is not None and step <= 0):
        raise UsageError(f"{name}={text} is empty. Expected LOW below HIGH and a step above 0.")
    if how == "log" and low <= 0:
        raise UsageError(f"{name}={text} cannot be logarithmic. Expected LOW above 0.")
    if step is not None:
        # The last value on the grid; 1e-9 because 0.1 + 0.2 is more than 0.3.
        high = low + math.floor((high - low) / step + 1e-9) * step
    return Parameter(name, low=low, high=high, step=step, log=how == "log")


def _read(name: str, kind: type, text: str, whole: str) -> Value:
    try:
        if kind is bool or not text:
            raise ValueError
        value: Value = kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(kind, "a value")
        raise UsageError(f"{name}={whole}: {text!r} is not {what}. {_EXPECTED}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}={whole}: {text!r} is not finite.")
    return value


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--space {file} cannot be read: {error.strerror}. Expected a TOML file.") from error
    except ValueError as error:
        raise UsageError(f"--space {file} is not TOML: {error}.") from error


def combinations(space: Space) -> list[dict[str, Value]] | None:
    """All combinations of values; None if there are infinitely many, or more than `MOST_COMBINATIONS`."""
    values = [parameter.values() for parameter in space]
    if any(each is None for each in values):
        return None
    listed = [each for each in values if each is not None]
    if math.prod(map(len, listed)) > MOST_COMBINATIONS:
        return None
    names = [parameter.name for parameter in space]
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*listed)]


def describe(space: Space) -> dict[str, str]:
    """The space as texts, by name."""
    return {parameter.name: str(parameter) for parameter in space}
