"""The wheel that users install, and the Dockerfile."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "cifar_trainer"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    packed = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in packed if ".dist-info/" not in name) == sorted(tracked)


def test_a_wheel_installed_into_a_new_environment_answers_from_any_folder(
    wheel: Path, tmp_path: Path
) -> None:
    """As pipx and uv tool install it; the dependencies are lent by this environment."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True, capture_output=True)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (site / "lent.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    command = tmp_path / "venv" / "bin" / "cifar-trainer"
    for arguments in (["--version"], ["train", "--help"]):
        done = subprocess.run(
            [command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    where = "import cifar_trainer; print(cifar_trainer.__file__)"
    found = subprocess.run(
        [python, "-c", where], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert Path(found).is_relative_to(site)


def test_the_extra_all_brings_every_optional_capability_that_needs_no_gpu() -> None:
    extras = dict(PROJECT["project"]["optional-dependencies"])
    (everything,) = extras.pop("all")
    named = everything.removeprefix("cifar-trainer[").removesuffix("]").split(",")
    assert set(named) == set(extras) - {"gpu", "gpu-program"}


def test_the_dockerfile_passes_its_linter() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_each_image_of_the_dockerfile_runs_as_an_unprivileged_user() -> None:
    targets = (ROOT / "Dockerfile").read_text().split("\nFROM ")[2:]
    assert [target.split()[2] for target in targets] == ["gpu", "cpu"]
    assert all("\nUSER 1000:1000\n" in target for target in targets)
