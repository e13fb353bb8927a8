"""Optional packages: which are missing, and how to install them."""

import importlib.util
import json
import os
import shlex
import sys
import urllib.parse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cifar_trainer.errors import CifarTrainerError

_NAME = "cifar-trainer"
#: Files that a tool leaves in each environment of its own, and its command.
_TOOLS = {"uv-receipt.toml": "uv tool install --force", "pipx_metadata.json": "pipx install --force"}


def check_extra(what: str, extra: str, modules: Sequence[str]) -> None:
    """Check that the modules of an extra can be imported.

    Args:
        what: what needs them, the subject of the message.
        extra: such as `serve`.
        modules: names of modules.

    Raises:
        CifarTrainerError: a module is missing; the message has the command that installs the extra.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CifarTrainerError(
            f"{what} needs {', '.join(missing)}, which {verb} not installed. "
            f"Install with: {install_command(extra)}"
        )


def install_command(*extras: str) -> str:
    """The command that adds extras to this installation, by the tool and from the source it came from."""
    source, editable = _source()
    tool = next((command for file, command in _TOOLS.items() if Path(sys.prefix, file).exists()), None)
    command = tool or "pip install"
    if editable:
        command += " -e"
    wanted = f"[{','.join(extras)}]"
    target = f"{_NAME}{wanted} @ {source}" if "://" in source else f"{source}{wanted}"
    return f"{command} {shlex.quote(target)}"


def _source() -> tuple[str, bool]:
    """What this package was installed from, and whether as editable (PEP 610)."""
    try:
        recorded = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        recorded = None
    if recorded is None:
        return _NAME, False
    origin = json.loads(recorded)
    url = str(origin["url"])
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{url}", False
    if not url.startswith("file://"):
        return url, False
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    # In the clone itself, the command as the documentation has it.
    return "." if os.path.realpath(path) == os.path.realpath(Path.cwd()) else path, bool(
        origin.get("dir_info", {}).get("editable")
    )
