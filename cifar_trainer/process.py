"""Start a module of this package in another Python process."""

import sys


def module_command(module: str, *arguments: object) -> list[str]:
    """The words that run `python -m MODULE ARGUMENTS` in this interpreter, for subprocess.

    With -P, since Python would otherwise import a `queue.py` of the current folder in place of its own.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]
