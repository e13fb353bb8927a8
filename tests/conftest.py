"""What tests share: the command line as a subprocess, and small data and runs made once."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.artefacts.formats import FORMATS

RunCli = Callable[..., subprocess.CompletedProcess[str]]

#: What would change a command's behaviour or looks, and must not leak in from who runs the tests.
_FOREIGN = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "TERM", "CUDA_VISIBLE_DEVICES")


def run_command(
    arguments: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Run `cifar-trainer ARGUMENTS` in a process of its own, without a terminal."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.startswith("CIFAR_TRAINER_")
    }
    return subprocess.run(
        [sys.executable, "-m", "cifar_trainer", *map(str, arguments)],
        **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, **options},
        env={**kept, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`run_command`: arguments, and by keyword `env`, `cwd`, `timeout`, and what subprocess.run takes."""
    return run_command


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the synthetic set prepared in it. Read it; to change it, copy it first."""
    from cifar_trainer.data import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare("synthetic", folder)
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A finished run's folder: `document`, two epochs of 2,000 synthetic images, on the CPU.

    Read it; to change it, copy it first.
    """
    run = tmp_path_factory.mktemp("runs") / "tiny"
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 2000]
    done = run_command(["train", *data, "--run-dir", run, "--epochs", 2, "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk with the options given; skips where that is not permitted."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("no permission to mount a small disk")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def replace_model(run: Path, model: Any) -> None:
    """Put another model into a run's folder, as if the run had trained it."""
    from cifar_trainer.model import weights_sha256

    model.save(run / "model.keras")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "weights_sha256": weights_sha256(model)}))


@pytest.fixture(scope="session", name="replace_model")
def _replace_model() -> Callable[[Path, Any], None]:
    """`replace_model`."""
    return replace_model


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory: pytest.TempPathFactory, trained_run: Path, data_dir: Path) -> Path:
    """`trained_run` with a model that knows the synthetic classes well enough for int8."""
    import keras

    from cifar_trainer.recipes import document

    run = tmp_path_factory.mktemp("runs") / "learned"
    shutil.copytree(trained_run, run)
    keras.utils.set_random_seed(0)
    model = document.build_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.load(data_dir / "synthetic" / "train_images.npy")
    labels = np.load(data_dir / "synthetic" / "train_labels.npy")
    model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
    replace_model(run, model)
    return run


@pytest.fixture(scope="session")
def exports(
    run_cli: RunCli,
    tmp_path_factory: pytest.TempPathFactory,
    learned_run: Path,
    data_dir: Path,
) -> dict[str, Any]:
    """What `export --json` printed for every format that can be made here. Read the files; change copies."""
    formats = [form.name for form in FORMATS.values() if all(map(importlib.util.find_spec, form.packages))]
    output = tmp_path_factory.mktemp("exports")
    options = [option for name in formats for option in ("--format", name)]
    done = run_cli(["export", learned_run, "--output", output, "--data-dir", data_dir, "--json", *options])
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="session")
def artefacts(exports: dict[str, Any]) -> dict[str, Path]:
    """The artefacts' paths by format."""
    return {each["format"]: Path(each["path"]) for each in exports["exports"]}
