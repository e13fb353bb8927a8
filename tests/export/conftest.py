"""A run that has learned something, and all its artefacts, made once."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.export.formats import FORMATS


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
    model.save(run / "model.keras")
    return run


@pytest.fixture(scope="session")
def exports(
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
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
