"""`check training` names what is wrong with a recipe, and accuses no sound one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import run_here
from keras import layers

from cifar_trainer.checks.training import TrainingCheck, check_training, render_page
from cifar_trainer.checks.trials import Examination, examine, highest_rate, noise
from cifar_trainer.data.dataset import Split
from cifar_trainer.recipes import RECIPES, Batch, Recipe

#: One class is bright on the left, the other on the right.
CLASSES = 2


def draw(count: int) -> Split:
    """Noise of 8×8 pixels with a bright side; every tenth label is wrong, so that no loss can vanish."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 160, (count, 8, 8, 3), np.uint8)
    labels = (np.arange(count) % CLASSES).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 90
    labels[::10] = 1 - labels[::10]
    return Split(images, labels)


SPLIT = draw(320)


def network(
    *,
    scale: float = 1 / 255,
    activation: str | None = "relu",
    bias: str | float = "zeros",
    trainable: bool = True,
    last: str | None = None,
    more: Callable[[Any], Any] = lambda x: x,
) -> Callable[[tuple[int, int, int], int], keras.Model]:
    def build_model(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
        initializer = bias if isinstance(bias, str) else keras.initializers.Constant(bias)
        inputs = keras.Input(image_shape, dtype="uint8", name="images")
        x = layers.Rescaling(scale)(inputs)
        x = layers.Conv2D(
            8, 3, activation=activation, bias_initializer=initializer, trainable=trainable, name="conv"
        )(x)
        x = layers.Flatten()(x)
        x = layers.Dense(classes, dtype="float32", activation=last, name="logits")(x)
        return keras.Model(inputs, more(x))

    return build_model


def upside_down(batch: Batch) -> tf.Tensor:
    flip = tf.random.stateless_uniform(tf.shape(batch.labels), batch.seed, alg="philox") < 0.5
    return tf.where(flip[:, None, None, None], batch.images[:, ::-1], batch.images)


def left_to_right(batch: Batch) -> tf.Tensor:
    flip = tf.random.stateless_uniform(tf.shape(batch.labels), batch.seed, alg="philox") < 0.5
    return tf.where(flip[:, None, None, None], batch.images[:, :, ::-1], batch.images)


class FloatLabels(keras.losses.Loss):
    """Labels divided as if they were pixels: all of them become 0."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(tf.cast(y_true, tf.float32) / 255, tf.int32)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)


class StoppedGradient(keras.losses.Loss):
    """A loss whose gradient is that of half of it."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y_true, tf.int32), y_pred)
        return loss / 2 + tf.stop_gradient(loss / 2)


SOUND = Recipe(
    "sound", "", epochs=1, batch_size=32, learning_rate=0.005, build_model=network(), augment=upside_down
)


def examined(steps: int = 0, **changes: Any) -> Examination:
    return examine(dataclasses.replace(SOUND, **changes), SPLIT, CLASSES, steps=steps)


def failed(found: Examination) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


@pytest.fixture(scope="module")
def sound() -> Examination:
    return examined(60)


def test_a_sound_recipe_passes_every_check(sound: Examination) -> None:
    assert failed(sound) == []
    assert len(sound.checks) == 17
    assert all(check.source and check.expected for check in sound.checks)


def centred(x: Any) -> Any:
    return x - keras.ops.mean(x, axis=0, keepdims=True)


@pytest.mark.parametrize(
    ("fault", "changes", "named"),
    [
        ("labels shuffled", {"augment": lambda batch: batch.images[::-1]}, "augmentation keeps labels"),
        ("softmax twice", {"build_model": network(last="softmax")}, "output"),
        ("frozen layers", {"build_model": network(trainable=False)}, "frozen layers"),
        ("images zeroed", {"augment": lambda batch: batch.images * 0}, "input scale"),
        ("pixels scaled twice", {"augment": lambda batch: batch.images / 255}, "input scale"),
        ("pixels not scaled", {"build_model": network(scale=1.0)}, "input scale"),
        ("batch at inference", {"build_model": network(more=centred)}, "gradient of one image"),
        ("dead ReLUs", {"build_model": network(bias=-100.0)}, "dead ReLUs"),
        ("float labels", {"loss": FloatLabels}, "loss function"),
        ("a regression's loss", {"loss": lambda: keras.losses.MeanSquaredError()}, "loss function"),
        ("a loss of probabilities", {"loss": keras.losses.SparseCategoricalCrossentropy}, "loss function"),
        ("a one-hot loss", {"loss": keras.losses.CategoricalCrossentropy}, "loss function"),
        ("half a gradient", {"loss": StoppedGradient}, "numeric gradient"),
        ("no nonlinearity", {"build_model": network(activation=None)}, "nonlinearities"),
        ("dropout on the logits", {"build_model": network(more=layers.Dropout(0.5))}, "dropout"),
    ],
)  # fmt: skip
def test_a_fault_is_named_without_training(fault: str, changes: dict[str, Any], named: str) -> None:
    assert named in failed(examined(**changes)), fault


def test_a_rate_a_hundred_times_too_high_is_named() -> None:
    names = failed(examined(60, learning_rate=0.5))
    assert "learning-rate range" in names
    assert "update of each layer" in names


def test_a_flip_that_changes_labels_is_named() -> None:
    assert failed(examined(60, augment=left_to_right)) == ["accuracy under augmentation"]


def test_what_a_recipe_freezes_late_in_a_run_is_trained_in_all_short_runs() -> None:
    assert failed(examined(60, frozen={"kernel": 0.1})) == []


def test_labels_shuffled_in_the_data_are_named() -> None:
    labels = np.random.default_rng(1).permutation(SPLIT.labels)
    # Too small a network to learn the labels by heart.
    pooled = dataclasses.replace(SOUND, build_model=pooling)
    found = examine(pooled, dataclasses.replace(SPLIT, labels=labels), CLASSES, steps=60)
    assert "images against black images" in failed(found)


def pooling(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = keras.Input(image_shape, dtype="uint8", name="images")
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("name", ["tutorial", "regularized"])
def test_no_small_built_in_recipe_is_accused_before_training(name: str, data_dir: Path) -> None:
    images = np.load(data_dir / "synthetic" / "train_images.npy")[:256]
    labels = np.load(data_dir / "synthetic" / "train_labels.npy")[:256]
    assert failed(examine(RECIPES[name], Split(images, labels), 10, steps=0)) == []


def test_batch_normalization_in_training_is_reported_but_is_no_fault() -> None:
    found = examined(build_model=network(more=layers.BatchNormalization()))
    (check,) = (check for check in found.checks if check.name == "gradient of one image")
    assert check.passed
    assert check.measured == 0
    assert "batch normalization sends" in check.message


@pytest.mark.parametrize(
    ("losses", "highest"),
    [
        ([2.3, 2.2, 1.5, 1.0, 0.9, 0.8], 5.0),
        ([2.3, 2.2, 1.5, 1.0, 9.0, 9.0], 3.0),
        ([2.3, 2.2, 1.5, 1.0], 3.0),  # Then not finite.
        ([2.3, 2.2, 1.5, 1.0, 1.9, 2.3], 4.0),
        ([2.3, 2.2, 2.15, 2.3, 2.2, 2.15], 5.0),
    ],
)
def test_the_highest_rate_is_the_last_one_before_the_loss_diverges(
    losses: list[float], highest: float
) -> None:
    assert highest_rate(np.arange(6.0), np.array(losses)) == highest


def test_the_noise_of_small_batches_is_no_divergence() -> None:
    """A lucky batch, then ordinary ones."""
    losses = np.array([2.3, 2.0, 2.4, 2.3, 2.8, 2.3])
    assert [highest_rate(np.arange(6.0), losses, deviation) for deviation in (0.0, 0.2)] == [1.0, 5.0]
    assert noise([2.0, 3.0]) == pytest.approx(0.5 * 0.1**0.5 / 1.9**0.5)


def test_the_command_writes_a_page_and_exits_with_4_if_a_check_fails(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path, sound: Examination
) -> None:
    """With the measurements of `sound`, one of them changed."""
    broken = [dataclasses.replace(sound.checks[-1], passed=False, message="<too high>"), *sound.checks[:-1]]
    common = [
        "check",
        "training",
        "--dataset",
        "synthetic",
        "--data-dir",
        data_dir,
        "--output",
        tmp_path / "c.html",
    ]
    for checks, code in ((sound.checks, 0), (broken, 4)):
        found = dataclasses.replace(sound, checks=checks)
        monkeypatch.setattr("cifar_trainer.checks.trials.examine", lambda *_, found=found, **__: found)
        done = run_here([*common, "--json"])
        assert done.exit_code == code
        printed = json.loads(done.stdout)
        assert printed["passed"] == (code == 0)
        assert list(printed["checks"][0]) == ["name", "passed", "measured", "expected", "message", "source"]
    assert "learning-rate range: <too high>" in done.stderr
    page = (tmp_path / "c.html").read_text()
    assert "&lt;too high&gt;" in page
    assert "Learning-rate range test" in page


def test_a_network_that_cannot_be_built_is_a_failed_check(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\nfrom cifar_trainer.recipes import Recipe\n"
        "def build_model(image_shape, classes):\n"
        "    x = keras.Input(image_shape, dtype='uint8')\n"
        "    y = keras.layers.Dense(3)(keras.layers.Flatten()(x))\n"
        "    return keras.Model(x, [y, y])\n"
        "R = Recipe('mine', '', 1, 8, 0.1, build_model)\n"
    )
    result = check_training(path, dataset="synthetic", data_dir=data_dir, output=tmp_path / "p.html")
    assert [check.name for check in result.checks] == ["network"]
    assert "1 inputs and 2 outputs" in result.checks[0].message


def test_the_page_has_no_figure_without_a_range_test() -> None:
    result = TrainingCheck("r", "d", True, (), (), 0.1, 0, 0, (), "")
    assert "<figure" not in render_page(result)
