"""Seeds that are trained side by side in one program are the runs that they would be alone."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import run_python

from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import TrainingError, TrainingStopped
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import Run
from cifar_trainer.settings import Settings
from cifar_trainer.training import api
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.api import GroupResult, resume
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.loop import StepLoop, epoch_order
from cifar_trainer.training.reporter import TrainingReporter
from cifar_trainer.training.stacked import StackedLoop

SEEDS = (3, 5)
#: What rounding explains in a loss. Another mask, image or order shows in the first decimals.
ROUNDING = 1e-5
#: The steps that are compared with a run whose convolutions are computed in another form.
EARLY = 5
#: Low enough that a max-pool which takes the other one of two all but equal values does not show.
LEARNING_RATE = 1e-4


class Notes(TrainingReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def loop_of(seed: int, recipe: str, count: int, *, stacked: bool, **settings: Any) -> StepLoop:
    """The loop over `count` images, a pattern for each class under noise, in batches of 16."""
    config = Settings(recipe, "cifar10", 2, 16, LEARNING_RATE, seed, device="cpu", **settings)
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 160, (10, 8, 8, 3)), np.ones((1, 4, 4, 1)))
    labels = draw.integers(0, 10, count)
    images = draw.integers(0, 96, (count, 32, 32, 3)) + patterns[labels]
    split = Split(images.astype(np.uint8), labels.astype(np.uint8), fingerprint="")
    loop = assemble(config, RECIPES[recipe], split, np.arange(count), classes=10, gpu=False, stacked=stacked)
    loop.set_order(epoch_order(seed, 0, count))
    return loop


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(
    ("recipe", "count", "settings"),
    [
        (
            "tutorial",
            88,
            {
                "ema": 0.9,
                "class_weights": "balanced",
                "label_smoothing": 0.1,
                "augment": "flip,mixup:1,cutmix:1",
            },
        ),
        ("regularized", 80, {"weight_decay": 0.01, "schedule": "cosine", "warmup": 0.5}),
    ],
)
def test_losses_and_hits_are_those_of_each_seed_alone_within_rounding(
    recipe: str, count: int, settings: dict[str, Any]
) -> None:
    """A whole epoch, with a smaller last batch; batch normalization, dropout and augmentation."""
    loops = [loop_of(seed, recipe, count, stacked=True, **settings) for seed in SEEDS]
    steps = loops[0].steps
    found = StackedLoop(loops, 2).run(0, steps, 0, [0, 1])
    for seed, chunk in zip(SEEDS, found, strict=True):
        same_forms = loop_of(seed, recipe, count, stacked=True, **settings).run(0, steps, 0)[0]
        np.testing.assert_allclose(chunk.losses, same_forms.losses, atol=ROUNDING)
        assert np.abs(chunk.correct - same_forms.correct).max() <= 1
    usual = loop_of(SEEDS[0], recipe, count, stacked=False, **settings).run(0, EARLY, 0)[0]
    np.testing.assert_allclose(found[0].losses[:EARLY], usual.losses, atol=ROUNDING)


def train(data_dir: Path, folder: Path, **options: Any) -> GroupResult:
    """A group that starts from trained weights, and freezes a layer for one of two epochs."""
    parent = folder.parent / "parent.keras"
    keras.utils.set_random_seed(0)
    RECIPES["tutorial"].build_model((32, 32, 3), 10).save(parent)
    transfer = {"weights": parent, "freeze": "conv1", "unfreeze_after": 1} if "recipe" not in options else {}
    settings: dict[str, Any] = {"epochs": 2, "device": "cpu", "stack": "on", **transfer, **options}
    return api.train(seeds=SEEDS, dataset="synthetic", data_dir=data_dir, run_dir=folder, **settings)


def hashes(group: GroupResult) -> list[str]:
    return [run.weights_sha256 for run in group.runs]


class StopAfter:
    """Asks to stop from the given question on."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.fixture(scope="module")
def group(small_runs: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> GroupResult:
    """A group of two seeds, trained side by side without a stop."""
    return train(small_data, tmp_path_factory.mktemp("groups") / "whole")


@pytest.fixture(scope="module")
def stopped(small_runs: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same group, stopped after eight of an epoch's ten steps."""
    folder = tmp_path_factory.mktemp("groups") / "half"
    with pytest.raises(TrainingStopped, match="half"):
        train(small_data, folder, should_stop=StopAfter(1))
    return folder


def test_each_seed_has_the_validation_loss_of_its_own_run_within_rounding(
    group: GroupResult, small_data: Path, tmp_path: Path
) -> None:
    in_turn = train(small_data, tmp_path / "in-turn", stack="off")
    for together, alone in zip(group.runs, in_turn.runs, strict=True):
        assert together.validation["loss"] == pytest.approx(alone.validation["loss"], abs=1e-3)


def test_each_seed_is_a_whole_run_that_says_how_it_was_trained(group: GroupResult) -> None:
    run = Run(Path(group.runs[1].run_dir))
    assert run.read_environment()["side_by_side"] == 2
    assert [row["epoch"] for row in run.read_history()] == [1, 2]
    assert run.model.is_file()


def test_a_groups_checkpoints_are_looked_at_without_tensorflow(group: GroupResult) -> None:
    """It is not started yet then: its messages and its choice of a device would be the default ones."""
    runs = [run.run_dir for run in group.runs]
    code = (
        "import sys; from pathlib import Path; from cifar_trainer.run import Run\n"
        "from cifar_trainer.training.jobs import truncate_to_common_step\n"
        f"truncate_to_common_step([Run(Path(run)) for run in {runs}])\n"
        "print('tensorflow' in sys.modules)"
    )
    assert run_python(["-c", code], own_process=True).stdout == "False\n"


def test_a_group_that_was_stopped_in_an_epoch_goes_on_to_the_same_bits(
    group: GroupResult, stopped: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "half")
    steps = {checkpoint_step(list_checkpoints(run / "checkpoints")[0]) for run in folder.glob("seed-*")}
    assert steps == {8}
    assert hashes(resume(folder)) == hashes(group)


def test_a_group_that_was_killed_between_two_saves_goes_on_to_the_same_bits(
    group: GroupResult, stopped: Path, tmp_path: Path
) -> None:
    """One seed is a checkpoint ahead; it goes back to the newest step that both have."""
    folder = shutil.copytree(stopped, tmp_path / "killed")
    other = shutil.copytree(stopped, tmp_path / "other")
    with contextlib.suppress(TrainingStopped):
        resume(other, should_stop=StopAfter(1))
    shutil.rmtree(folder / "seed-3")
    shutil.copytree(other / "seed-3", folder / "seed-3")
    assert hashes(resume(folder)) == hashes(group)


def test_an_extended_group_that_was_killed_between_two_saves_goes_on_to_the_same_bits(
    group: GroupResult, tmp_path: Path
) -> None:
    """The results of the shorter runs are still there."""
    whole, killed = (shutil.copytree(group.group_dir, tmp_path / name) for name in ("whole", "killed"))
    extended = resume(whole, epochs=4)
    with pytest.raises(TrainingStopped):
        resume(killed, epochs=4, should_stop=StopAfter(3))
    shutil.rmtree(list_checkpoints(killed / "seed-5" / "checkpoints")[0])
    assert hashes(resume(killed)) == hashes(extended)


def test_seeds_without_a_common_checkpoint_are_asked_to_stop_and_go_on_to_the_same_bits(
    group: GroupResult, stopped: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "apart")
    # One seed keeps its first checkpoint only, the other its newest.
    shutil.rmtree(list_checkpoints(folder / "seed-3" / "checkpoints")[0])
    shutil.rmtree(list_checkpoints(folder / "seed-5" / "checkpoints")[-1])
    with pytest.raises(TrainingStopped):
        resume(folder, should_stop=StopAfter(1))
    assert not (folder / "seed-5" / "result.json").exists()
    assert hashes(resume(folder)) == hashes(group)


def test_a_seed_whose_run_has_ended_early_leaves_the_others_bits(
    group: GroupResult, stopped: Path, tmp_path: Path
) -> None:
    """A loss that is not finite ends one run; the other is trained to its end, and the error is told then."""
    folder = shutil.copytree(stopped, tmp_path / "one")
    spoil(Run(folder / "seed-3"))
    with pytest.raises(TrainingError, match="not finite"):
        resume(folder)
    assert Run(folder / "seed-5").read_result().weights_sha256 == hashes(group)[1]
    assert Run(folder / "seed-3").failure.is_file()


def spoil(run: Run) -> None:
    """Make a weight of the newest checkpoint not a number."""
    path = list_checkpoints(run.checkpoints)[0]
    found = checkpoints.load(path)
    found.variables[0][0] = np.nan
    shutil.rmtree(path)
    checkpoints.save(run.checkpoints, found)


def test_too_many_seeds_for_the_devices_memory_are_named(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(StackedLoop, "compile", exhaust)
    with pytest.raises(TrainingError, match=r"2 seeds at once.* Try fewer --seeds, or --stack off"):
        train(small_data, tmp_path / "group")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"recipe": "vit"}, "the recipe vit cannot be stacked"),
        ({"validation": "holdout"}, "--validation holdout"),
        ({"precision": "float16"}, "--precision float16"),
    ],
)
def test_what_cannot_be_stacked_is_trained_in_turn_and_it_is_said_why(
    options: dict[str, Any], reason: str, small_data: Path, tmp_path: Path
) -> None:
    told = Notes()
    with pytest.raises(TrainingStopped):
        train(small_data, tmp_path / "group", reporter=told, should_stop=lambda: True, **options)
    assert any("one by one" in text and reason in text for text in told.texts)


def test_on_a_cpu_seeds_are_trained_in_turn_unless_asked_otherwise(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        train(small_data, tmp_path / "group", stack="auto", should_stop=lambda: True)
    assert not (tmp_path / "group" / "seed-5").exists()
