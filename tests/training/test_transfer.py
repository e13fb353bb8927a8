"""`train --weights`: a run that starts from trained weights, and may freeze some layers."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.artefacts.keras import write
from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.store import load_dataset, write_dataset
from cifar_trainer.errors import CifarTrainerError, RunError, TrainingStopped, UsageError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import Network
from cifar_trainer.recipes import RECIPES, Recipe
from cifar_trainer.recipes.optimizers import Nesterov, reduce_rate
from cifar_trainer.recipes.regularized import REGULARIZED
from cifar_trainer.recipes.resnet18 import RESNET18
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training import api
from cifar_trainer.training.api import reproduce, resume, train
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.checkpoint import load_step
from cifar_trainer.training.jobs import Job, _with_weights
from cifar_trainer.training.loop import Phase, StepLoop
from cifar_trainer.training.transfer import InitialWeights, find_parent, frozen_layers, load_weights

pytestmark = pytest.mark.usefixtures("small_runs")

#: The number of weights of the last layer, and before it: a convolution (2) and a batch normalization (4),
#: whose last two are statistics.
BODY, HEAD = 6, 2
#: The parent's weights are frozen for the first of two epochs.
FINE_TUNING = {"dataset": "three", "epochs": 2, "ema": 0.9, "freeze": "all-but-head", "unfreeze_after": 1}


def small(data_dir: Path, run: Path, **options: Any) -> Any:
    settings = {"dataset": "synthetic", "epochs": 1, "limit": 64, "batch_size": 16, "device": "cpu"}
    return train(**{**settings, "recipe": "regularized", **options}, data_dir=data_dir, run_dir=run)


@pytest.fixture(scope="module")
def data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the synthetic set, and `three`, which has other images of three classes."""
    folder, ten = tmp_path_factory.mktemp("data"), load_dataset(small_data, "synthetic")
    shutil.copytree(small_data / "synthetic", folder / "synthetic")
    splits = {}
    for name, split in (("train", ten.train), ("test", ten.test)):
        few = np.flatnonzero(split.labels < 3)[:64]
        splits[name] = Split(split.images[few], split.labels[few])
    write_dataset(folder / "three", "three", ImageSet(("x", "y", "z"), splits), "drawn")
    return folder


@pytest.fixture(scope="module")
def parent(small_runs: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of ten classes. Read it; to change it, copy it first."""
    return Run(Path(small(data, tmp_path_factory.mktemp("parents") / "parent", seed=7).run_dir))


@pytest.fixture(scope="module")
def child(parent: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that started from its weights. Read it; to change it, copy it first."""
    folder = tmp_path_factory.mktemp("children") / "child"
    return Run(Path(small(data, folder, weights=parent.path, **FINE_TUNING).run_dir))


def trained_weights(run: Run) -> list[np.ndarray]:
    return [np.asarray(each) for each in keras.models.load_model(run.model, compile=False).get_weights()]


def weights_at(run: Run, step: int, of: str = "variables") -> list[np.ndarray]:
    """The weights after some steps, without the states of random layers."""
    values = getattr(load_step(run.checkpoints, step), of)
    return [value for value in values if value.dtype == np.float32]


def change_result(run: Run) -> None:
    """Record other weights than those of the model."""
    result = json.loads(run.result.read_text()) | {"weights_sha256": "0" * 64}
    run.result.write_text(json.dumps(result))


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> list[bool]:
    """Whether each two arrays are the same to the bit."""
    return [np.array_equal(one, other) for one, other in zip(some, others, strict=True)]


def loop_of(recipe: Recipe, **settings: Any) -> StepLoop:
    """The loop over 32 images in two steps."""
    config = Settings(recipe.name, "three", 2, 16, 0.01, **settings)
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (32, 32, 32, 3), np.uint8), draw.integers(0, 3, 32, np.uint8))
    loop = assemble(config, recipe, split, np.arange(32), classes=3, gpu=False)
    loop.set_order(np.arange(32))
    return loop


# Weights.


def test_the_record_of_a_run_has_its_parents_weights_data_and_recipe(parent: Run, child: Run) -> None:
    config, theirs = (json.loads(run.config.read_text()) for run in (child, parent))
    assert config["weights"] == str(parent.path)
    assert config["weights_sha256"] == parent.read_result().weights_sha256
    assert config["parent"] == theirs


@pytest.mark.parametrize(
    ("kind", "classes", "is_new"),
    [
        ("run", None, False), ("run", "abcdefghij", True),
        ("export", "abcdefghij", False), ("export", "abc", True),
        ("file", "abcdefghij", False), ("file", "abc", True),
    ],
)  # fmt: skip
def test_all_layers_have_the_parents_weights_and_the_last_one_is_new_if_the_classes_differ(
    kind: str, classes: str | None, is_new: bool, parent: Run, tmp_path: Path
) -> None:
    """The classes of a Keras file are not known."""
    file, known = parent.path, parent.read_data().classes
    model = keras.models.load_model(parent.model, compile=False)
    if kind == "export":
        file = tmp_path / "export.keras"
        write(Network(model, known, Preprocessing((32, 32, 3))), file, np.zeros(0))
    elif kind == "file":
        file = tmp_path / "some.keras"
        model.save(file)
    initial = load_weights(Settings("regularized", "x", 1, 1, 0.1, weights=str(file)), (32, 32, 3))
    names = known if classes is None else tuple(classes)
    network = RECIPES["regularized"].build_model((32, 32, 3), len(names))
    before = network.get_weights()
    assert ("The last layer, logits, is new" in initial.assign(network, "regularized", names)) == is_new
    expected = [*model.get_weights()[:BODY], *(before if is_new else model.get_weights())[BODY:]]
    assert all(equal(network.get_weights(), expected))


@pytest.mark.parametrize(
    ("theirs", "ours", "size", "message"),
    [
        (TUTORIAL, TUTORIAL, 40, r"of \(32, 32, 3\), .*layer dense; .* of \(40, 40, 3\), expects \[\("),
        (RESNET18, RESNET18, 40, None),
        (
            REGULARIZED,
            TUTORIAL,
            32,
            r"has \[\(3, 3, 3, 32\)\] for the layer conv1; .* expects \[\(3, 3, 3, 32\), \(32,\)\]",
        ),
    ],
    ids=["dense", "pooling", "recipe"],
)
def test_a_layer_that_does_not_fit_is_named(
    theirs: Recipe, ours: Recipe, size: int, message: str | None
) -> None:
    trained, network = theirs.build_model((32, 32, 3), 4), ours.build_model((size, size, 3), 4)
    initial = InitialWeights("RUN", trained, "0" * 64)
    if message is None:
        initial.assign(network, ours.name, tuple("abcd"))
        assert all(equal(trained.get_weights(), network.get_weights()))
    else:
        with pytest.raises(UsageError, match=message):
            initial.assign(network, ours.name, tuple("abcd"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("missing", {}, "does not exist. Expected a finished run's folder or a .keras file"),
        ("text.keras", {}, "text.keras is something else"),
        ("zip.keras", {}, "is not a complete Keras model"),
        ("folder", {}, "folder is something else"),
        ("unfinished", {}, "has no model.keras"),
        ("changed", {}, "does not match its result.json"),
        ("parent", {"recipe": "tutorial"}, "layer logits; --recipe tutorial, .* expects"),
        ("parent", {"freeze": "3"}, "--freeze 3 is invalid for this network"),
        ("parent", {"unfreeze_after": 1, "epochs": 2}, "--unfreeze-after 1 needs --freeze"),
        ("parent", {"freeze": "1", "unfreeze_after": 1}, "1 needs --freeze and more --epochs than 1"),
    ],
)
def test_what_cannot_be_is_one_error_and_leaves_no_run(
    name: str | None, settings: dict[str, Any], message: str, parent: Run, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.keras").write_text("weights")
    shutil.make_archive(str(tmp_path / "zip"), "zip", parent.tensorboard)
    (tmp_path / "zip.zip").rename(tmp_path / "zip.keras")
    (tmp_path / "folder").mkdir()
    for copy in ("parent", "unfinished", "changed"):
        shutil.copytree(parent.path, tmp_path / copy, ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "unfinished" / "model.keras").unlink()
    change_result(Run(tmp_path / "changed"))
    weights = None if name is None else tmp_path / name
    with pytest.raises(CifarTrainerError, match=message):
        small(data, tmp_path / "run", weights=weights, **settings)
    assert not Run(tmp_path / "run").config.exists()


def test_the_seeds_of_a_group_start_from_the_same_weights(parent: Run) -> None:
    config = Settings("regularized", "x", 1, 1, 0.1, weights=str(parent.path))
    started = dataclasses.replace(config, weights_sha256="0" * 64)
    with pytest.raises(RunError, match=f"SHA-256 {parent.read_result().weights_sha256}, expected {'0' * 64}"):
        _with_weights([Job(started, resumed=parent), Job(config)], (32, 32, 3))


# Frozen layers.


def test_layers_are_frozen_for_the_first_epochs_and_normalization_for_all(parent: Run, child: Run) -> None:
    theirs = trained_weights(parent)
    keras.utils.set_random_seed(0)
    network = RECIPES["regularized"].build_model((32, 32, 3), 3)
    assert all(equal(weights_at(child, 4)[:BODY], theirs[:BODY]))
    assert not any(equal(weights_at(child, 4)[BODY:], network.get_weights()[BODY:]))
    assert equal(weights_at(child, 8)[:BODY], theirs[:BODY]) == [False] * (BODY - 4) + [True] * 4
    # The layout is the same before and after, so that each can be resumed.
    assert len({len(weights_at(child, step, "optimizer")) for step in (4, 8)}) == 1


def test_the_statistics_of_frozen_layers_are_the_same_to_the_bit_if_weights_are_averaged() -> None:
    loop = loop_of(RECIPES["regularized"], freeze="all-but-head", ema=0.3)
    assert loop.statistics is not None
    # An average of 0 or 1, the initial statistics, would be exact.
    draw = np.random.default_rng(0)
    loop.model.set_weights([draw.uniform(0.5, 1.5, weight.shape) for weight in loop.model.get_weights()])
    before = loop.model.get_weights()
    for epoch in range(3):
        loop.run(0, 2, 2 * epoch)
    loop.statistics.finalize()
    assert equal(before, loop.model.get_weights()) == [True] * BODY + [False] * HEAD


def test_the_validated_weights_of_frozen_layers_are_the_parents(
    parent: Run, data: Path, tmp_path: Path
) -> None:
    """If the optimizer averages the weights, up to rounding."""
    options = {**FINE_TUNING, "validation": "holdout", "keep": "best", "end_after": 1, "limit": 32}
    small(data, tmp_path / "run", weights=parent.path, **options)
    for ours, theirs in zip(
        trained_weights(Run(tmp_path / "run"))[:BODY], trained_weights(parent), strict=False
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_gradients_of_frozen_layers_are_not_computed() -> None:
    loop = loop_of(RECIPES["tutorial"], freeze="conv1", unfreeze_after=1)

    def kernel_gradients(phase: Phase) -> int:
        numbers = [tf.constant(0)] * 3
        graph = loop._run.get_concrete_function(*numbers, phase).graph.as_graph_def()
        return str(graph).count('"Conv2DBackpropFilter"')

    # The kernel and the bias of the only convolution of the tests' small network, computed in two halves.
    assert loop.phases == (Phase(16, 1.0, (0, 1)), Phase(16, 1.0, ()))
    assert [kernel_gradients(phase) for phase in loop.phases] == [0, 2]


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, lambda rate: Nesterov(rate, 0.9)])
def test_unfrozen_layers_are_updated_as_by_an_optimizer_that_starts_then(optimizer: Any) -> None:
    early, late, *alone = (keras.Variable(np.ones(3)) for _ in range(4))
    both, first, second = optimizer(0.1), optimizer(0.1), optimizer(0.01)
    both.build([early, late])
    reduce_rate(both, [late], 0.1, 2)
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for step, gradient in enumerate(gradients):
        first.apply([gradient], alone[:1])
        both.apply([gradient] * (1 + (step >= 2)), [early, late][: 1 + (step >= 2)])
        if step >= 2:
            second.apply([gradient], alone[1:])
    np.testing.assert_allclose([early, late], alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("freeze", "frozen"), [("2", ["conv1", "norm1"]), ("conv1", ["conv1"]), ("all-but-head", 7), ("dense", 7)]
)
def test_layers_are_counted_by_their_order(freeze: str, frozen: list[str] | int) -> None:
    names = [layer.name for layer in frozen_layers(REGULARIZED.build_model((32, 32, 3), 10), freeze)]
    assert (len(names) if isinstance(frozen, int) else names) == frozen


# Resuming and reproducing.


def test_a_run_is_resumed_to_the_same_bits_without_its_parent(
    parent: Run, child: Run, data: Path, tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    shutil.copytree(parent.path, tmp_path / "parent")
    with pytest.raises(TrainingStopped):
        small(data, tmp_path / "run", weights=tmp_path / "parent", **FINE_TUNING, should_stop=stop_after(1))
    shutil.rmtree(tmp_path / "parent")
    again = resume(tmp_path / "run", weights=tmp_path / "parent")
    assert again.weights_sha256 == child.read_result().weights_sha256
    parents = [json.loads(run.config.read_text())["parent"] for run in (Run(tmp_path / "run"), child)]
    assert parents[0] == parents[1]
    with pytest.raises(UsageError, match="--weights was"):
        resume(tmp_path / "run", weights=parent.path)


def test_before_the_first_checkpoint_a_run_and_a_group_need_their_parent(child: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    config = json.loads(child.config.read_text()) | {"weights": str(tmp_path / "gone")}
    run.config.write_text(json.dumps(config))
    shutil.copy(child.environment, run.environment)
    with pytest.raises(UsageError, match=r"gone does not exist.* until its first checkpoint"):
        resume(run.path)
    (tmp_path / "group").mkdir()
    group = {"seeds": [0], "settings": {"recipe": "regularized", "weights": config["weights"]}}
    (tmp_path / "group" / "group.json").write_text(json.dumps(group))
    with pytest.raises(UsageError, match=r"gone does not exist.* until its first checkpoint"):
        resume(tmp_path / "group")


def test_reproduce_repeats_the_parent_first(parent: Run, child: Run, tmp_path: Path) -> None:
    again = reproduce(child, run_dir=tmp_path / "again")
    assert again.same
    beside = Run(tmp_path / "again-parent")
    assert beside.read_result().weights_sha256 == parent.read_result().weights_sha256
    assert Run(tmp_path / "again").read_config().weights == str(beside.path)


@pytest.fixture
def chain(parent: Run, tmp_path: Path) -> list[Run]:
    """Runs of which each claims to have started from the one before."""
    runs = [Run(tmp_path / name) for name in ("first", "second", "third")]
    sha256 = parent.read_result().weights_sha256
    for run in runs:
        shutil.copytree(parent.path, run.path, ignore=shutil.ignore_patterns("checkpoints"))
    for before, run in itertools.pairwise(runs):
        config = json.loads(run.config.read_text()) | {"weights": str(before.path), "weights_sha256": sha256}
        run.config.write_text(json.dumps(config))
    return runs


def test_reproduce_follows_the_chain_from_its_first_run_to_one_that_differs(
    chain: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, same = [], True

    def repeat(run_dir: Path, weights: Path | None, **settings: Any) -> None:
        trained.append((run_dir, weights))
        shutil.copytree(chain[0].path, run_dir)
        if not same:
            change_result(Run(run_dir))

    monkeypatch.setattr(api, "train", repeat)
    third, one, two = tmp_path / "x", tmp_path / "x-parent-parent", tmp_path / "x-parent"
    assert reproduce(chain[2], run_dir=third).same
    assert trained == [(one, None), (two, one), (third, two)]
    same = False
    trained.clear()
    assert reproduce(chain[2], run_dir=tmp_path / "y").run_dir == str(chain[0].path)
    assert len(trained) == 1


def test_a_parent_that_changed_or_is_missing_is_one_error(chain: list[Run]) -> None:
    first, second, third = chain
    assert (find_parent(third), find_parent(second), find_parent(first)) == (second, first, None)
    change_result(first)
    with pytest.raises(RunError, match=r"first has weights with the SHA-256 0000.*Restore the original"):
        reproduce(third)
    shutil.rmtree(first.path)
    with pytest.raises(RunError, match=r"second cannot be reproduced: .*first does not exist"):
        reproduce(third)
