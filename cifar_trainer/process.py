"""This process, and others that run modules of this package."""

import sys

#: The command that started this process, as a person would type it; None if other Python code calls us.
command_line: str | None = None


def module_command(module: str, *arguments: object) -> list[str]:
    """The words that run `python -m MODULE ARGUMENTS` in this interpreter, for subprocess.

    With -P, since Python would otherwise import a `queue.py` of the current folder in place of its own.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]
