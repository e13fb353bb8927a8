"""The base class of the Python API's results."""

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

#: Rows of a list to show in a notebook.
_SHOWN_ROWS = 20


class Result:
    """A result; subclasses are dataclasses whose fields are the keys that `--json` prints."""

    def to_json(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def _repr_html_(self) -> str:
        """The result as an HTML table, for notebooks."""
        return _table(self.to_json())


def _table(value: Mapping[str, Any]) -> str:
    rows = (f"<tr><th>{html.escape(str(key))}</th><td>{_cell(item)}</td></tr>" for key, item in value.items())
    return f"<table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return _table(value)
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return _rows(value)
        shown = ", ".join(map(_cell, value[:_SHOWN_ROWS]))
        return shown if len(value) <= _SHOWN_ROWS else f"{shown} and {len(value) - _SHOWN_ROWS:,} more"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else html.escape(str(value))


def _rows(values: list[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> str:
    """A table with a row for each object and a column for each key of the first one."""
    names = list(values[0])
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in names)
    rows = (
        "<tr>" + "".join(f"<td>{_cell(value.get(name))}</td>" for name in names) + "</tr>"
        for value in values[:_SHOWN_ROWS]
    )
    more = len(values) - _SHOWN_ROWS
    note = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{note}"
