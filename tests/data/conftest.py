"""A prepared folder that must survive, and the check that a command refuses and leaves it alone."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import builders
import pytest
from builders import Refuse, RunCli
from command_line import run_command, run_here

from cifar_trainer.data.prepare import prepare
from cifar_trainer.errors import DataError


@pytest.fixture
def run_cli() -> RunCli:
    """Run the command in this process: no test here is about how a process starts, except for locales."""

    def run(
        arguments: Sequence[object], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = run_here(arguments, env)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of class folders with three pictures of each class."""
    return builders.write_zip(tmp_path_factory.mktemp("source") / "small.zip", builders.class_folders())


@pytest.fixture(scope="session")
def _prepared_once(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare("cifar10", folder, source=str(small_source))
    return folder


@pytest.fixture
def prepared(tmp_path: Path, _prepared_once: Path) -> Path:
    """A data folder of one's own, with a small data set prepared in it."""
    return Path(shutil.copytree(_prepared_once, tmp_path / "prepared"))


@pytest.fixture
def refuse(run_cli: RunCli, prepared: Path) -> Refuse:
    """Prepare `source` over what is prepared: it is refused with a message, and changes nothing.

    With `command`, by the command; with options of subprocess.run, by the command in its own process.
    """

    def check(source: Path, *says: str, command: bool = False, **options: object) -> str:
        before = builders.snapshot(prepared)
        if command or options:
            arguments = ["prepare", "--force", "--data-dir", prepared, "--source", source]
            done = run_command(arguments, **options) if options else run_cli(arguments)
            assert done.returncode == 3, done.stderr
            assert "Traceback" not in done.stderr
            assert done.stderr.count("Error: ") == 1 and done.stdout == ""
            message = str(done.stderr)
        else:
            with pytest.raises(DataError) as caught:
                prepare("cifar10", prepared, source=source, force=True)
            message = str(caught.value)
        for text in says:
            assert text in message
        assert builders.snapshot(prepared) == before
        return message

    return check
