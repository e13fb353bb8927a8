"""What tests share: the command line as a subprocess, and small data and runs made once."""

import dataclasses
import fcntl
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import quit_browser
from command_line import COMMAND_WITH_A_SMALL_GATE, ForkServer, RunCli, python, run_command, run_python

from cifar_trainer.artefacts.formats import FORMATS

# A GPU is for the tests that ask for it; what is set here holds for the commands too.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# Commands that are forked draw nothing, unless a test gives them DRAWING.
os.environ["TESTS_WITHOUT_FIGURES"] = "1"
DRAWING = {"TESTS_WITHOUT_FIGURES": ""}

_server: ForkServer | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Start one fork server for all workers of pytest-xdist; it imports nothing until it is asked."""
    global _server
    if sys.platform == "linux" and not hasattr(config, "workerinput") and not config.option.collectonly:
        _server = ForkServer()


def pytest_unconfigure() -> None:
    """End it, and the browser."""
    quit_browser()
    if _server is not None:
        _server.stop()


@pytest.fixture(scope="session", autouse=True)
def _started() -> None:
    """Start TensorFlow in this process, so that its threads do not depend on which test comes first."""
    from cifar_trainer import devices

    sys.executable = python()
    devices.start(device="cpu")
    import tensorflow as tf

    # Until something is computed, another start may still change the threads, and with them the rounding.
    tf.constant(0)


@pytest.fixture(autouse=True)
def _no_variables_are_handed_on() -> Iterator[None]:
    """Take back what a start of TensorFlow in a test has set: the commands of later tests would have it."""
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:
        del os.environ[name]


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`command_line.run_command`: arguments, by keyword `env`, `own_process`, what subprocess.run takes."""
    return run_command


#: A folder's name and what fills it, to the folder.
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder that all workers of pytest-xdist share: the first that needs it fills it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = root / "shared" / name
        folder.mkdir(parents=True, exist_ok=True)
        made = root / "shared" / f"{name}.made"
        with open(root / "shared" / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                fill(folder)
                made.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data_dir(made_once: MakeOnce) -> Path:
    """A data folder with the synthetic set prepared in it. Read it; to change it, copy it first."""
    from cifar_trainer.data.prepare import prepare

    return made_once("data", lambda folder: prepare("synthetic", folder))


@pytest.fixture(scope="session")
def small_data(made_once: MakeOnce, data_dir: Path) -> Path:
    """A data folder with 320 training and 80 test images of the synthetic set, under the same name."""
    from cifar_trainer.data.dataset import ImageSet, Split
    from cifar_trainer.data.store import load_dataset, write_dataset

    def write(folder: Path) -> None:
        data = load_dataset(data_dir, "synthetic")
        counts = {"train": (data.train, 320), "test": (data.test, 80)}
        splits = {name: Split(s.images[:count], s.labels[:count]) for name, (s, count) in counts.items()}
        write_dataset(folder / "synthetic", "synthetic", ImageSet(data.classes, splits), "drawn")

    return made_once("small", write)


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """What is trained and evaluated in this process draws nothing."""
    import tensorflow as tf

    from cifar_trainer import pages
    from cifar_trainer.training.tensorboard import EpochImages, EventWriter

    empty = pages.PageFigure(b"", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochImages, "_draw", lambda *arguments: None)
        patch.setattr(EventWriter, "_forward_graph", lambda *arguments: tf.Graph())
        patch.setattr(pages, "draw_figures", lambda drawings, *arguments: dict.fromkeys(drawings, empty))
        yield


@pytest.fixture(scope="module")
def small_runs(without_figures: None) -> Iterator[None]:
    """For claims about runs in this process: small networks for two recipes, and no figures."""
    import keras
    from keras import layers

    from cifar_trainer.recipes import RECIPES

    def network(*middle: Callable[[], keras.layers.Layer]) -> Callable[..., keras.Model]:
        return lambda image_shape, classes: keras.Sequential(
            [keras.Input(image_shape, dtype="uint8", name="images"), layers.Rescaling(1 / 255),
             layers.Conv2D(8, 3, name="conv1"), *(make() for make in middle), layers.ReLU(),
             layers.MaxPooling2D(2), layers.MaxPooling2D(2), layers.Flatten(),
             layers.Dense(classes, dtype="float32", name="logits")]
        )  # fmt: skip

    networks = {
        "tutorial": network(),
        "regularized": network(layers.BatchNormalization, lambda: layers.Dropout(0.2)),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, build_model in networks.items():
            patch.setitem(RECIPES, name, dataclasses.replace(RECIPES[name], build_model=build_model))
        yield


@pytest.fixture(scope="session")
def trained_run(made_once: MakeOnce, data_dir: Path) -> Path:
    """A finished run's folder: `tutorial`, two epochs of 2,000 synthetic images, on the CPU.

    Read it; to change it, copy it first.
    """

    def train(folder: Path) -> None:
        data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 2000]
        # 40 divides 2,000: otherwise each command would trace a second program, for a smaller last batch.
        settings = ["--epochs", 2, "--batch-size", 40, "--device", "cpu"]
        done = run_command(["train", *data, *settings, "--run-dir", folder / "tiny"], env=DRAWING)
        assert done.returncode == 0, done.stderr
        (folder / "stderr.txt").write_text(done.stderr)

    return made_once("trained", train) / "tiny"


@pytest.fixture(scope="session")
def evaluated_run(made_once: MakeOnce, trained_run: Path, data_dir: Path) -> Path:
    """A copy of `trained_run` with its report on the test set; stdout.json beside it is what was printed.

    It was asked for an accuracy that it misses. Read it; to change it, copy it first.
    """

    def evaluate(folder: Path) -> None:
        run = shutil.copytree(trained_run, folder / "run")
        options = ["--json", "--require-accuracy", "0.999"]
        done = run_command(["evaluate", run, "--data-dir", data_dir, *options], env=DRAWING)
        assert done.returncode == 4, done.stderr
        assert "--require-accuracy expects at least 0.999" in done.stderr
        (folder / "stdout.json").write_text(done.stdout)

    return made_once("evaluated", evaluate) / "run"


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
def learned_run(made_once: MakeOnce, trained_run: Path, data_dir: Path) -> Path:
    """`trained_run` with a model that knows the synthetic classes well enough for int8."""
    import keras

    from cifar_trainer.recipes.tutorial import TUTORIAL

    def train(folder: Path) -> None:
        shutil.copytree(trained_run, folder / "learned")
        keras.utils.set_random_seed(0)
        model = TUTORIAL.build_model((32, 32, 3), 10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, jit_compile=False)
        images = np.load(data_dir / "synthetic" / "train_images.npy")
        labels = np.load(data_dir / "synthetic" / "train_labels.npy")
        model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
        replace_model(folder / "learned", model)

    return made_once("learned", train) / "learned"


@pytest.fixture(scope="session")
def exports(made_once: MakeOnce, learned_run: Path, data_dir: Path) -> dict[str, Any]:
    """What `export --json` printed for every format that can be made here. Read the files; change copies.

    The gate compares 1,000 images and two files of each kind.
    """

    def export(folder: Path) -> None:
        installed = [form for form in FORMATS.values() if all(map(importlib.util.find_spec, form.packages))]
        options = [option for form in installed for option in ("--format", form.name)]
        command = ["export", learned_run, "--output", folder / "artefacts", "--data-dir", data_dir, "--json"]
        done = run_python(["-c", COMMAND_WITH_A_SMALL_GATE, *command, *options])
        assert done.returncode == 0, done.stderr
        (folder / "printed.json").write_text(done.stdout)

    result: dict[str, Any] = json.loads((made_once("exports", export) / "printed.json").read_text())
    return result


@pytest.fixture(scope="session")
def artefacts(exports: dict[str, Any]) -> dict[str, Path]:
    """The artefacts' paths by format."""
    return {each["format"]: Path(each["path"]) for each in exports["exports"]}


@pytest.fixture
def stop_after() -> Callable[[int], Callable[[], bool]]:
    """A `should_stop` that asks to stop once it has been asked so many times."""

    def make(count: int) -> Callable[[], bool]:
        asked = itertools.count()
        return lambda: next(asked) >= count

    return make
