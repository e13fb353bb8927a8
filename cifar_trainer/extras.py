"""Optional dependencies: which are missing, and how to install them."""

import importlib.util
import json
import os
import re
import shlex
import sys
import urllib.parse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from cifar_trainer.errors import CifarTrainerError

_NAME = "cifar-trainer"
#: The extras for users; `dev` and the like are for contributors.
_USERS_EXTRA = r"extra == ['\"](gpu|litert|onnx|serve|sweep|data|serving)['\"]"
#: Marker files in the environments of installation tools, and the tools' commands.
_TOOLS = {"uv-receipt.toml": "uv tool install --force", "pipx_metadata.json": "pipx install --force"}


def check_extra(what: str, extra: str, modules: Sequence[str]) -> None:
    """Check that the modules of an extra can be imported.

    Args:
        what: the feature that needs them, as the subject of the message.
        extra: the extra's name, such as `serve`.
        modules: module names.

    Raises:
        CifarTrainerError: a module is missing; the message has the command to install the extra.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CifarTrainerError(
            f"{what} needs {', '.join(missing)}, which {verb} not installed. "
            f"Install with: {install_command(extra)}"
        )


def install_command(*extras: str) -> str:
    """The command that adds extras to this installation, with its original tool and source."""
    source, editable = _source()
    tool = next((command for file, command in _TOOLS.items() if Path(sys.prefix, file).exists()), None)
    command = tool or "pip install"
    if editable:
        command += " -e"
    brackets = f"[{','.join(extras)}]"
    target = f"{_NAME}{brackets} @ {source}" if "://" in source else f"{source}{brackets}"
    return f"{command} {shlex.quote(target)}"


def optional_packages() -> dict[str, str | None]:
    """The installed version of each package in the users' extras; None if it is not installed."""
    try:
        required = distribution(_NAME).requires or []
    except PackageNotFoundError:
        required = []
    always = {_package(each) for each in required if "extra ==" not in each}
    optional = {_package(each) for each in required if re.search(_USERS_EXTRA, each)}
    return {name: _version(name) for name in sorted(optional - always - {_NAME})}


def _package(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    return "" if name is None else name[0].lower()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _source() -> tuple[str, bool]:
    """The source that this package was installed from, and whether the install is editable (PEP 610)."""
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
    # In the clone itself, give the documented command.
    return "." if os.path.realpath(path) == os.path.realpath(Path.cwd()) else path, bool(
        origin.get("dir_info", {}).get("editable")
    )
