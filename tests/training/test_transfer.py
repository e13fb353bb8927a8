"""`train --weights`: a run that starts from trained weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cifar_trainer.artefacts.keras import write
from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.store import load_dataset, write_dataset
from cifar_trainer.errors import CifarTrainerError, RunError, UsageError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import Network
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.resnet18 import RESNET18
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Parent, Run
from cifar_trainer.training.api import train
from cifar_trainer.training.checkpoint import load_step
from cifar_trainer.training.transfer import InitialWeights

pytestmark = pytest.mark.usefixtures("small_runs")


def small(data_dir: Path, run: Path, **options: Any) -> Any:
    settings = {
        "dataset": "synthetic", "epochs": 1, "limit": 64, "batch_size": 16, "device": "cpu",
        "recipe": "regularized",
    }  # fmt: skip
    return train(**{**settings, **options}, data_dir=data_dir, run_dir=run)


@pytest.fixture(scope="module")
def parent(small_runs: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of ten classes. Read it; to change it, copy it first."""
    return Run(Path(small(small_data, tmp_path_factory.mktemp("parents") / "parent", seed=7).run_dir))


@pytest.fixture(scope="module")
def others(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: `three` has three classes, `named` has other names, `grey` has one channel."""
    folder, data = tmp_path_factory.mktemp("others"), load_dataset(small_data, "synthetic")

    def write(name: str, classes: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> None:
        splits = {}
        for split in ("train", "test"):
            images, labels = getattr(data, split).images, getattr(data, split).labels
            few = np.flatnonzero(labels < len(classes))[:64]
            splits[split] = Split(change(images[few]), labels[few])
        write_dataset(folder / name, name, ImageSet(classes, splits), "drawn")

    write("three", ("x", "y", "z"), lambda images: images)
    write("named", tuple("abcdefghij"), lambda images: images)
    write("grey", data.classes, lambda images: images[..., :1])
    return folder


def first_weights(run: Path) -> dict[str, np.ndarray]:
    """The weights before the first step, by layer and name."""
    model = keras.models.load_model(run / "model.keras", compile=False)
    values = load_step(run / "checkpoints", 0).variables
    names = ["/".join(variable.path.split("/")[-2:]) for variable in model.variables]
    return dict(zip(names, values, strict=True))


def trained_weights(run: Run) -> list[np.ndarray]:
    return [np.asarray(each) for each in keras.models.load_model(run.model, compile=False).get_weights()]


def test_a_run_of_the_same_classes_starts_from_all_weights_of_its_parent(
    parent: Run, small_data: Path, tmp_path: Path
) -> None:
    result = small(small_data, tmp_path / "child", weights=parent.path)
    first, theirs = load_step(tmp_path / "child" / "checkpoints", 0).variables, trained_weights(parent)
    assert all(map(np.array_equal, first[: len(theirs)], theirs, strict=False))
    config = json.loads(Run(Path(result.run_dir)).config.read_text())
    assert config["weights"] == str(parent.path)
    assert config["weights_sha256"] == parent.read_result().weights_sha256
    data = parent.read_data()
    assert config["parent"] == {
        "recipe": "regularized", "recipe_sha256": None, "dataset": "synthetic",
        "train_fingerprint": data.train.fingerprint, "classes": list(data.classes),
    }  # fmt: skip


@pytest.mark.parametrize("dataset", ["three", "named"])
def test_other_classes_get_the_last_layer_that_their_seed_gives(
    dataset: str, parent: Run, others: Path, tmp_path: Path
) -> None:
    small(others, tmp_path / "child", dataset=dataset, weights=parent.path)
    small(others, tmp_path / "scratch", dataset=dataset)
    child, scratch = first_weights(tmp_path / "child"), first_weights(tmp_path / "scratch")
    expected = trained_weights(parent)
    *body, kernel, bias = (name for name in child if "seed" not in name)
    assert all(np.array_equal(child[name], each) for name, each in zip(body, expected, strict=False))
    assert np.array_equal(child[kernel], scratch[kernel])
    assert np.array_equal(child[bias], scratch[bias])


@pytest.mark.parametrize("kind", ["model", "export"])
def test_a_keras_file_is_a_parent_too(kind: str, parent: Run, others: Path, tmp_path: Path) -> None:
    model, file = keras.models.load_model(parent.model, compile=False), tmp_path / "some.keras"
    classes = parent.read_data().classes
    if kind == "export":
        write(Network(model, classes, Preprocessing((32, 32, 3))), file, np.zeros((0, 32, 32, 3)))
    else:
        model.save(file)
    small(others, tmp_path / "child", dataset="named", weights=str(file))
    # Only an export tells its classes.
    first, theirs = load_step(tmp_path / "child" / "checkpoints", 0).variables, trained_weights(parent)
    same = [np.array_equal(a, b) for a, b in zip(first, theirs, strict=False)]
    assert same == [True] * (len(theirs) - 2) + ([False, True] if kind == "export" else [True, True])
    recorded = Run(tmp_path / "child").read_parent()
    assert recorded == Parent(classes=classes if kind == "export" else None)


def test_a_layer_that_does_not_fit_is_named(parent: Run, others: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the layer conv1 with kernel \(3, 3, 3, 8\)"):
        small(others, tmp_path / "child", dataset="grey", weights=parent.path)
    assert not (tmp_path / "child").exists() or not Run(tmp_path / "child").config.exists()
    with pytest.raises(UsageError, match=r"has the layer batch_norm.* but --recipe tutorial has logits"):
        small(others, tmp_path / "child", dataset="three", weights=parent.path, recipe="tutorial")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (TUTORIAL, r"layer dense with .*\(32, 32, 3\) there, \(40, 40, 3\) here.*resnet18"),
        (RESNET18, None),
    ],
)
def test_another_image_size_is_taken_where_the_network_allows_it(recipe: Recipe, message: str | None) -> None:
    trained, other = (recipe.build_model((size, size, 3), 4) for size in (32, 40))
    initial = InitialWeights("RUN", trained, "0" * 64, Parent(classes=tuple("abcd")))
    if message is None:
        initial.assign(other, recipe.name, tuple("abcd"))
        assert all(map(np.array_equal, trained.get_weights(), other.get_weights(), strict=True))
    else:
        with pytest.raises(UsageError, match=message):
            initial.assign(other, recipe.name, tuple("abcd"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist. Expected a finished run's folder, or a .keras file"),
        ("text.keras", "is a file of another format"),
        ("zip.keras", "is not a complete Keras model"),
        ("folder", "is a folder without a config.json"),
        ("unfinished", "has no model.keras"),
        ("changed", r"does not match its result.json"),
    ],
)
def test_what_is_not_a_parent_is_one_error_and_leaves_nothing(
    name: str, message: str, parent: Run, small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.keras").write_text("weights")
    shutil.make_archive(str(tmp_path / "zip"), "zip", parent.tensorboard)
    (tmp_path / "zip.zip").rename(tmp_path / "zip.keras")
    (tmp_path / "folder").mkdir()
    for copy in ("unfinished", "changed"):
        shutil.copytree(parent.path, tmp_path / copy, ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "unfinished" / "model.keras").unlink()
    result = json.loads(parent.result.read_text()) | {"weights_sha256": "0" * 64}
    (tmp_path / "changed" / "result.json").write_text(json.dumps(result))
    with pytest.raises(CifarTrainerError, match=message):
        small(small_data, tmp_path / "child", weights=tmp_path / name)
    assert not (tmp_path / "child").exists()


def test_weights_with_another_hash_than_the_one_given_are_refused(
    parent: Run, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f"{parent.read_result().weights_sha256}, expected {'1' * 64}"):
        small(small_data, tmp_path / "child", weights=parent.path, weights_sha256="1" * 64)
