"""What settings change of a recipe, against computations by hand."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import TrainingStopped
from cifar_trainer.recipes import RECIPES
from cifar_trainer.recipes.optimizers import (
    Schedule,
    SmoothedCrossEntropy,
    exclude_from_decay,
    last_rate,
    plateau,
)
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import SCHEDULES, Settings
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training import trainer as trainer_module
from cifar_trainer.training.api import reproduce, resume, train
from cifar_trainer.training.assembly import assemble, overridden
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.history import best_epoch
from cifar_trainer.training.loop import StepLoop

pytestmark = pytest.mark.usefixtures("small_runs")
PLAIN = Settings("tutorial", "synthetic", 2, 16, 0.1)
RATE = 0.1


def rates(kind: str, total: int, warmup: int = 0) -> list[float]:
    schedule = Schedule(kind, RATE, total, warmup)
    return [float(schedule(step)) for step in range(total + 3)]


def test_a_triangle_has_its_corners_at_the_start_at_23_percent_and_at_the_end() -> None:
    found = rates("triangular", 100)
    assert [found[0], found[23], found[100], found[102]] == pytest.approx([0, RATE, 0, 0], abs=1e-7)


def test_convolutions_take_the_form_that_was_asked_for(small_data: Path, tmp_path: Path) -> None:
    plain, products = (small(small_data, tmp_path / conv, epochs=1, conv=conv) for conv in ("auto", "matmul"))
    assert products.weights_sha256 != plain.weights_sha256
    assert products.train["loss"] == pytest.approx(plain.train["loss"], abs=1e-4)


def test_a_triangle_is_straight_between_its_corners() -> None:
    expected = np.interp(range(101), [0, 23, 100], [0, RATE, 0])
    assert rates("triangular", 100)[:101] == pytest.approx(expected, abs=1e-7)


def test_the_warmup_moves_a_triangles_peak() -> None:
    assert np.argmax(rates("triangular", 100, 40)) == 40


def test_half_a_cosine_follows_the_warmup() -> None:
    cosine = [RATE * (1 + math.cos(math.pi * step / 90)) / 2 for step in range(91)]
    warming = [RATE * (step + 1) / 10 for step in range(10)]
    assert rates("cosine", 100, 10)[:101] == pytest.approx([*warming, *cosine], abs=1e-7)


def test_a_constant_rate_stays_at_its_peak_after_the_warmup() -> None:
    assert rates("constant", 8, 4)[:8] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_a_warmup_alone_comes_before_the_recipes_own_schedule() -> None:
    config = dataclasses.replace(PLAIN, warmup=1.0)
    own = RECIPES["regularized"].build_optimizer(RATE, 20)._learning_rate
    warmed = overridden(RECIPES["regularized"], config, 10).build_optimizer(RATE, 20)._learning_rate
    expected = [float(own(step)) * min(1, (step + 1) / 10) for step in range(20)]
    assert [float(warmed(step)) for step in range(20)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("losses", "factor"),
    [([], 1), ([3, 2, 1], 1), ([1, 2, 2, 0.9], 1), ([1, 2, 2, 1], 0.5), ([1, 2, 2, 2, 2, 2, 2], 0.25)],
)
def test_three_epochs_without_a_lower_loss_halve_the_rate_on_a_plateau(
    losses: list[float], factor: float
) -> None:
    assert plateau(losses) == factor


SOME_CONTROL = [
    *({"schedule": schedule, "validation": "holdout"} for schedule in SCHEDULES),
    {"warmup": 0.5}, {"weight_decay": 0.01}, {"ema": 0.9},
]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("control", SOME_CONTROL, ids=str)
def test_a_control_leaves_what_else_a_recipes_optimizer_has(name: str, control: dict[str, Any]) -> None:
    changed = {
        "name", "learning_rate", "weight_decay", "decay",
        "use_ema", "ema_momentum", "ema_overwrite_frequency",
    }  # fmt: skip
    config = dataclasses.replace(PLAIN, recipe=name, **control)
    own = RECIPES[name].build_optimizer(RATE, 20)
    controlled = overridden(RECIPES[name], config, 10).build_optimizer(RATE, 20)
    before, after = own.get_config(), controlled.get_config()
    assert {k: v for k, v in after.items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }


def test_rates_that_end_early_know_the_steps_of_the_run_under_any_schedule() -> None:
    config = dataclasses.replace(PLAIN, schedule="plateau", validation="holdout")
    assert overridden(RECIPES["cpu90"], config, 10).build_optimizer(RATE, 20).total_steps == 20


def test_weight_decay_takes_the_place_of_a_recipes_own() -> None:
    config = dataclasses.replace(PLAIN, weight_decay=0.01)
    optimizer = overridden(RECIPES["resnet18"], config, 10).build_optimizer(RATE, 20)
    assert (optimizer.decay, optimizer.weight_decay) == (0.0, 0.01)


def test_a_recipe_without_overrides_is_itself() -> None:
    assert overridden(RECIPES["tutorial"], PLAIN, 10) is RECIPES["tutorial"]


def test_smoothing_gives_each_class_its_share_of_the_target() -> None:
    logits = np.array([[2.0, -1.0, 0.5, 0.0]], np.float32)
    log_softmax = logits[0] - math.log(sum(math.exp(z) for z in logits[0]))
    by_hand = -(0.925 * log_softmax[2] + 0.025 * (log_softmax[0] + log_softmax[1] + log_softmax[3]))
    loss = SmoothedCrossEntropy(0.1)(np.array([2], np.uint8), logits)
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)


def test_smoothing_is_that_of_keras_on_one_hot_labels() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(20, 10)).astype(np.float32), draw.integers(0, 10, 20)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    theirs = keras_loss(keras.ops.one_hot(labels, 10), logits)
    assert float(SmoothedCrossEntropy(0.2)(labels, logits)) == pytest.approx(float(theirs), rel=1e-6)


def loop_of(recipe: str, config: Settings, count: int = 64) -> StepLoop:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
    split = Split(images, draw.integers(0, 10, count).astype(np.uint8), "")
    config = dataclasses.replace(config, recipe=recipe)
    loop = assemble(config, RECIPES[recipe], split, np.arange(count), classes=10, gpu=False)
    loop.set_order(np.arange(count))
    return loop


def test_weight_decay_shrinks_kernels_beside_the_gradient_and_leaves_biases_alone() -> None:
    plain = loop_of("tutorial", PLAIN)
    decayed = loop_of("tutorial", dataclasses.replace(PLAIN, weight_decay=0.5))
    before = [weight.numpy() for weight in plain.model.trainable_weights]
    plain.run(0, 1, 0)
    decayed.run(0, 1, 0)
    expected = [
        weight.numpy() - (RATE * 0.5 * old if old.ndim > 1 else 0)
        for weight, old in zip(plain.model.trainable_weights, before, strict=True)
    ]
    for weight, value in zip(decayed.model.trainable_weights, expected, strict=True):
        np.testing.assert_allclose(weight.numpy(), value, atol=1e-6)


@pytest.mark.parametrize("name", ["regularized", "vit"])
def test_weight_decay_is_for_kernels_only(name: str) -> None:
    """The biases of attention and of the positional embedding have two axes."""
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    variables = RECIPES[name].build_model((32, 32, 3), 10).trainable_variables
    exclude_from_decay(optimizer, variables)
    optimizer.build(variables)
    decayed = {variable.name for variable in variables if optimizer._use_weight_decay(variable)}
    assert decayed == {"kernel"}


def test_the_learning_rate_of_the_last_step_is_the_one_that_it_used() -> None:
    """Not the next step's, which at the end of a cosine is 0."""
    loop = loop_of("tutorial", dataclasses.replace(PLAIN, schedule="cosine"), count=32)
    loop.run(0, 2, 0)
    assert last_rate(loop.optimizer) == pytest.approx(RATE * 0.5 * (1 + math.cos(math.pi / 4)))


def test_averaged_weights_and_statistics_are_those_computed_by_hand() -> None:
    loop = loop_of("regularized", dataclasses.replace(PLAIN, ema=0.8))
    model = loop.model
    averages: list[np.ndarray] = []
    for step in range(4):
        loop.run(step, 1, step)
        now = [weight.numpy() for weight in model.weights]
        averages = now if not averages else [0.8 * a + 0.2 * n for a, n in zip(averages, now, strict=True)]
    loop.optimizer.finalize_variable_values(model.trainable_variables)
    assert loop.statistics is not None
    loop.statistics.finalize()
    for weight, average in zip(model.weights, averages, strict=True):
        np.testing.assert_allclose(weight.numpy(), average, rtol=1e-5, atol=1e-6)


#: All of them at once, by a recipe with dropout, augmentation and statistics.
EVERYTHING = {
    "recipe": "regularized", "schedule": "cosine", "warmup": 0.5, "weight_decay": 0.01,
    "label_smoothing": 0.1, "ema": 0.9, "patience": 5, "keep": "best", "validation": "holdout",
    "augment": "crop:4,flip,randaugment:2:9,erase:0.25,mixup:0.2,cutmix:1",
}  # fmt: skip


def small(data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 3, "limit": 192, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kill within each epoch of `whole` would leave, by the number of complete epochs."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def whole(
    small_runs: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory, copies: Path
) -> TrainResult:
    run = tmp_path_factory.mktemp("runs") / "whole"

    def never_but_copy() -> bool:
        newest = max(map(checkpoint_step, list_checkpoints(run / "checkpoints")), default=0)
        epoch, step = divmod(newest, 3)
        if step == 2:
            shutil.copytree(run, copies / str(epoch))
        return False

    with pytest.MonkeyPatch.context() as patch:
        # A step at a time, with a checkpoint after each.
        patch.setattr(trainer_module, "FIRST_CHUNK", 1)
        patch.setattr(trainer_module, "CHUNK_SECONDS", 0.0)
        return small(small_data, run, checkpoint_every=1e-6, should_stop=never_but_copy, **EVERYTHING)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_with_every_control_goes_on_to_the_same_bits(
    copies: Path, whole: TrainResult, epoch: int
) -> None:
    assert resume(copies / str(epoch)).weights_sha256 == whole.weights_sha256


def test_the_model_of_such_a_run_loads_in_plain_keras(whole: TrainResult) -> None:
    model = keras.models.load_model(Path(whole.run_dir) / "model.keras")
    assert model.count_params() == whole.parameters


def test_a_run_with_every_control_is_reproduced(small_data: Path, tmp_path: Path, whole: TrainResult) -> None:
    assert reproduce(whole.run_dir, run_dir=tmp_path / "again", data_dir=small_data).same


class Scripted:
    """Stands in for the validation's accuracy, epoch by epoch."""

    def __init__(self, *accuracies: float) -> None:
        self.accuracies = list(accuracies)

    def __call__(self, logits: np.ndarray, labels: np.ndarray) -> float:
        return self.accuracies.pop(0)


def test_training_ends_when_patience_epochs_have_brought_nothing_better(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.metrics, "accuracy", Scripted(0.2, 0.5, 0.4, 0.5, 0.9))
    result = small(small_data, tmp_path / "run", epochs=6, patience=2, validation="holdout")
    assert (result.epochs, result.planned_epochs, result.ended_by) == (4, 6, "patience")


def test_the_model_has_the_weights_of_the_best_epoch_where_that_is_kept(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"validation": "holdout", "schedule": "constant"}
    two = small(small_data, tmp_path / "two", epochs=2, **options)
    monkeypatch.setattr(trainer_module.metrics, "accuracy", Scripted(0.2, 0.5, 0.4))
    best = small(small_data, tmp_path / "best", epochs=3, keep="best", **options)
    assert (best.chosen_epoch, best.chosen_by) == (2, "best validation accuracy")
    assert best.weights_sha256 == two.weights_sha256


def test_of_equal_epochs_the_first_is_the_best() -> None:
    assert best_epoch([{"val_accuracy": accuracy} for accuracy in (0.1, 0.3, 0.2, 0.3)]) == 2


def test_the_rate_is_halved_on_a_plateau_of_the_validation_loss(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.metrics, "cross_entropy", lambda logits, labels: 1.0)
    small(small_data, tmp_path / "run", epochs=5, schedule="plateau", validation="holdout", learning_rate=0.5)
    found = [row["learning_rate"] for row in Run(tmp_path / "run").read_history()]
    assert found == [0.5, 0.5, 0.5, 0.5, 0.25]


def test_a_time_limit_ends_training_after_a_whole_epoch(small_data: Path, tmp_path: Path) -> None:
    result = small(small_data, tmp_path / "run", epochs=50, time_limit=0.001)
    assert (result.epochs, result.planned_epochs, result.ended_by) == (1, 50, "time limit")


def test_a_run_that_a_time_limit_ended_is_reproduced(small_data: Path, tmp_path: Path) -> None:
    small(small_data, tmp_path / "run", epochs=50, time_limit=0.001, schedule="cosine")
    assert reproduce(tmp_path / "run", run_dir=tmp_path / "again", data_dir=small_data).same


def test_a_run_that_was_begun_before_there_were_these_settings_goes_on(
    small_data: Path, tmp_path: Path, stop_after: Callable[[int], Callable[[], bool]]
) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        small(small_data, run.path, should_stop=stop_after(1))
    later = {
        "class_weights", "recipe_sha256", "schedule", "warmup", "weight_decay", "label_smoothing", "ema",
        "patience", "keep", "conv", "weights", "weights_sha256",
        "freeze", "unfreeze_after", "augment",
    }  # fmt: skip
    config = json.loads(run.config.read_text())
    run.config.write_text(json.dumps({k: v for k, v in config.items() if k not in later}))
    saved = checkpoints.load_newest(run.checkpoints, print)
    identity = {k: v for k, v in saved.identity.items() if k not in later}
    assert len(saved.identity) == len(identity) + len(later)
    checkpoints.save(run.checkpoints, dataclasses.replace(saved, identity=identity))
    assert resume(run.path).epochs == 3
