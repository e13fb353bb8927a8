"""The package's own subprocesses import nothing from the current folder."""

import re
import subprocess
from pathlib import Path

from command_line import INTERPRETER, environment

import cifar_trainer
from cifar_trainer.process import module_command

PACKAGE = Path(cifar_trainer.__file__).parent


def test_a_file_in_the_current_folder_is_not_imported_in_place_of_a_module(tmp_path: Path) -> None:
    """`--version` imports msgspec's users, Click and Python's own queue."""
    for name in ("msgspec", "click", "queue", "cifar_trainer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')\n")
    command = [INTERPRETER, *module_command("cifar_trainer", "--version")[1:]]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_module_that_the_package_starts_is_started_so() -> None:
    direct = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"sys\.executable,\s*\"-m\"", path.read_text())
    ]
    assert direct == []
