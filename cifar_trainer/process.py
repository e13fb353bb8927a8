"""The command line of this process, and commands for child processes."""

import sys

#: The command that started this process, as typed in a shell; None if other Python code called us.
command_line: str | None = None


def module_command(module: str, *arguments: object) -> list[str]:
    """The subprocess command for `python -m MODULE ARGUMENTS` in this interpreter.

    Uses -P: without it, a `queue.py` in the current folder would shadow the standard library's.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]
