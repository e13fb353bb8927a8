"""The install command fits the way in which the package was installed."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cifar_trainer import extras
from cifar_trainer.errors import CifarTrainerError

INSTALLATIONS: dict[str, tuple[dict[str, Any] | None, str | None, str]] = {
    "from the package index": (None, None, "pip install 'cifar-trainer[serve]'"),
    "an editable clone": (
        {"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}, None,
        "pip install -e '/home/me/my clone[serve]'",
    ),
    "a wheel": (
        {"url": "file:///tmp/cifar_trainer-1-py3-none-any.whl", "archive_info": {}}, None,
        "pip install '/tmp/cifar_trainer-1-py3-none-any.whl[serve]'",
    ),
    "a repository": (
        {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}}, None,
        "pip install 'cifar-trainer[serve] @ git+https://host/x.git'",
    ),
    "uv tool": (
        {"url": "file:///home/me/clone", "dir_info": {}}, "uv-receipt.toml",
        "uv tool install --force '/home/me/clone[serve]'",
    ),
    "pipx": (None, "pipx_metadata.json", "pipx install --force 'cifar-trainer[serve]'"),
}  # fmt: skip


@pytest.mark.parametrize(("origin", "receipt", "expected"), INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_the_install_command_uses_the_tool_and_the_source_of_this_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Any, receipt: str | None, expected: str
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            return json.dumps(origin) if name == "direct_url.json" and origin is not None else None

    monkeypatch.setattr(extras, "distribution", lambda name: Distribution())
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    if receipt is not None:
        (tmp_path / receipt).touch()
    assert extras.install_command("serve") == expected


def test_a_missing_extra_is_named_with_its_packages() -> None:
    with pytest.raises(
        CifarTrainerError, match=r"^serve needs no_such_module, which is not installed\. .*\[x\]"
    ):
        extras.check_extra("serve", "x", ["json", "no_such_module"])


def test_serve_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import cifar_trainer

    for name in [name for name in sys.modules if name.startswith("cifar_trainer.serving")]:
        monkeypatch.delitem(sys.modules, name)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else find(name, *rest)
    )
    with pytest.raises(CifarTrainerError, match=r"^serve needs uvicorn, which is not installed\. Install"):
        _ = cifar_trainer.serve
