"""A prepared folder that must survive, and the check that a command refuses and leaves it alone."""

import shutil
import subprocess
from pathlib import Path

import builders
import pytest
from builders import Refuse, RunCli

from cifar_trainer.data.prepare import prepare


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
    """Run `prepare --force` over what is prepared: it ends with `code`, says so, and changes nothing."""

    def check(
        source: object, *says: str, code: int = 3, **options: object
    ) -> subprocess.CompletedProcess[str]:
        before = builders.snapshot(prepared)
        arguments = ["prepare", "--force", "--data-dir", prepared, "--source", source]
        done = run_cli(arguments, **options)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("Error: ") == 1 and done.stdout == ""
        for text in says:
            assert text in done.stderr
        assert builders.snapshot(prepared) == before
        return done

    return check
