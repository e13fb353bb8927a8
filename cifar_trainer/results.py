"""The base class of what the functions of the Python API return."""

import dataclasses
from typing import Any


class Result:
    """A result; subclasses are dataclasses whose fields are the keys that `--json` prints."""

    def to_json(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]
