"""Keras callbacks around the loop, and what training shows in TensorBoard after each epoch."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_trainer import plots
from cifar_trainer.data.cifar10 import CLASSES as CIFAR10_CLASSES
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.store import load_dataset
from cifar_trainer.recipes import RECIPES
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training.api import train
from cifar_trainer.training.loop import StepLoop
from cifar_trainer.training.reporter import TrainingReporter
from cifar_trainer.training.tensorboard import THRESHOLDS, EpochImages, precision_recall

pytestmark = pytest.mark.usefixtures("small_runs")
#: What `small_runs` leaves out.
DRAW = EpochImages._draw


def run_with(data_dir: Path, run: Path, *callbacks: keras.callbacks.Callback, **options: Any) -> TrainResult:
    settings = {"epochs": 3, "limit": 96, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, callbacks=callbacks, **settings)


class Seen(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        self.logs: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("begin", epoch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(("batch", batch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("end", epoch))
        self.logs.append(logs)


def test_any_keras_callback_is_called_at_epochs_and_between_chunks_with_keras_logs(
    small_data: Path, tmp_path: Path
) -> None:
    seen = Seen()
    saved = keras.callbacks.ModelCheckpoint(tmp_path / "epoch-{epoch}.keras")
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    run_with(small_data, tmp_path / "run", seen, saved, logger)
    assert [call for call in seen.calls if call[0] != "batch"] == [
        (what, epoch) for epoch in range(3) for what in ("begin", "end")
    ]
    assert seen.calls[1][0] == "batch", "between the beginning and the end of an epoch there are chunks"
    assert max(number for what, number in seen.calls if what == "batch") == 2
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(seen.logs[0])
    assert {path.name for path in tmp_path.glob("*.keras")} == {f"epoch-{i}.keras" for i in (1, 2, 3)}
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_a_callback_may_end_the_training_and_change_the_learning_rate(
    small_data: Path, tmp_path: Path
) -> None:
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", baseline=-1.0, patience=0)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    result = run_with(small_data, tmp_path / "run", stop, schedule)
    assert result.epochs == 2, "Keras does not ask after the first epoch"
    assert (tmp_path / "run" / "model.keras").is_file()
    row = (tmp_path / "run" / "history.csv").read_text().splitlines()[1].split(",")
    assert float(row[5]) == 0.0
    assert result.train["accuracy"] < 0.25, "at a rate of 0 nothing is learned"


def test_tensorboard_shows_pictures_curves_and_on_request_histograms(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpochImages, "_draw", DRAW)
    run_with(small_data, tmp_path / "run", histograms=True)
    train_events, validation = (
        EventAccumulator(str(tmp_path / "run" / "tensorboard" / split), {"tensors": 0}).Reload()
        for split in ("train", "validation")
    )
    curve = f"precision_recall/{load_dataset(small_data, 'synthetic').classes[3]}"
    for tag in ("figures/confusion_matrix", "figures/most_confident_errors"):
        assert validation.Tensors(tag)[-1].step == 3
        width, height, png = validation.Tensors(tag)[-1].tensor_proto.string_val
        assert png.startswith(b"\x89PNG")
        assert min(int(width), int(height)) > 300
    assert validation.summary_metadata[curve].plugin_data.plugin_name == "pr_curves"
    assert [event.step for event in validation.Tensors(curve)] == [1, 2, 3]
    assert [event.step for event in train_events.Tensors("gradient_norm")] == [1, 2, 3]
    kernels = [
        tag for tag in train_events.Tags()["tensors"] if tag.startswith("weights/") and "kernel" in tag
    ]
    assert len(kernels) == 2
    assert all(len(train_events.Tensors(tag)) == 3 for tag in kernels)


def test_histograms_change_nothing_that_is_computed(small_data: Path, tmp_path: Path) -> None:
    plain, watched = (
        run_with(small_data, tmp_path / str(wanted), histograms=wanted) for wanted in (False, True)
    )
    assert plain.weights_sha256 == watched.weights_sha256


def test_precision_and_recall_at_each_threshold() -> None:
    draw = np.random.default_rng(0)
    scores, positive = draw.random(200), draw.random(200) < 0.3
    found = precision_recall(scores, positive)
    assert found.shape == (6, THRESHOLDS)
    for column in (0, 37, 99, 100):
        taken = scores >= column / 100
        tp, fp = (taken & positive).sum(), (taken & ~positive).sum()
        expected = [tp, fp, (~taken & ~positive).sum(), (~taken & positive).sum(), tp / max(tp + fp, 1),
                    tp / positive.sum()]  # fmt: skip
        assert found[:, column] == pytest.approx(expected, rel=1e-6)


class Kept:
    """Receives the events; `drawn` are the epochs with figures."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def write(self, split: str, write: Any) -> None: ...

    def write_figure(self, name: str, image: np.ndarray, step: int) -> None:
        if name == "confusion_matrix":
            self.drawn.append(step)


def test_pictures_take_no_more_than_their_share_of_the_time_but_for_the_first_and_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drawing takes 1 s by this clock: of epochs of 10 s the tenth can pay for it, of 100 s each can."""
    monkeypatch.setattr(EpochImages, "_draw", DRAW)
    for name in ("confusion_figure", "gallery_figure", "pixels"):
        monkeypatch.setattr(plots, name, lambda *arguments: None)
    draw = np.random.default_rng(0)
    watched = Split(np.zeros((30, 32, 32, 3), np.uint8), draw.integers(0, 10, 30).astype(np.uint8), "")
    logits = draw.normal(size=(30, 10)).astype(np.float32)
    for seconds, expected in ((10, [1, 10, 12]), (100, list(range(1, 13)))):
        now, kept = [0.0], Kept()
        pictures = EpochImages(kept, lambda: logits, watched, CIFAR10_CLASSES, clock=lambda: now[0])  # noqa: B023
        pictures.set_params({"epochs": 12})
        paint = pictures._draw
        pictures._draw = lambda *arguments: (now.__setitem__(0, now[0] + 1), paint(*arguments))  # noqa: B023
        pictures.on_train_begin()
        for epoch in range(12):
            now[0] += seconds
            pictures.on_epoch_end(epoch)
        assert kept.drawn == expected


class Restoring(keras.callbacks.Callback):
    """Ends training after two of three epochs and puts back the first epoch's weights, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            self.weights = [self.factor * weight for weight in self.model.get_weights()]
        self.model.stop_training = epoch == 1

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights(self.weights)


def validation_accuracy(data_dir: Path, run: Path) -> float:
    """Of the model in the run's folder, on the test set."""
    test = load_dataset(data_dir, "synthetic").test
    logits = keras.models.load_model(run / "model.keras", compile=False).predict(test.images, verbose=0)
    return float((logits.argmax(axis=1) == test.labels).mean())


def test_the_result_of_a_run_that_a_callback_ended_is_that_of_the_weights_it_put_back(
    small_data: Path, tmp_path: Path
) -> None:
    result = run_with(small_data, tmp_path / "run", Restoring())
    first = Run(tmp_path / "run").read_history()[0]
    assert (result.epochs, result.chosen_epoch, result.chosen_by) == (2, 1, "callback")
    assert result.train == {"loss": first["loss"], "accuracy": first["accuracy"]}
    assert result.validation["accuracy"] == pytest.approx(validation_accuracy(small_data, tmp_path / "run"))


def test_weights_of_no_epoch_are_validated_anew(small_data: Path, tmp_path: Path) -> None:
    result = run_with(small_data, tmp_path / "run", Restoring(0.5))
    assert (result.chosen_epoch, result.chosen_by) == (None, "callback")
    assert result.validation["accuracy"] == pytest.approx(validation_accuracy(small_data, tmp_path / "run"))


def averaging(learning_rate: float, total_steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(learning_rate, use_ema=True, ema_momentum=0.9)


def test_a_run_keeps_and_validates_the_averages_of_an_optimizer_that_averages_weights(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(RECIPES["tutorial"], build_optimizer=averaging)
    monkeypatch.setitem(RECIPES, "tutorial", recipe)
    seen = keras.callbacks.Callback()
    result = run_with(small_data, tmp_path / "run", seen)
    model = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    averages = seen.model.optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())
    assert result.validation["accuracy"] == pytest.approx(validation_accuracy(small_data, tmp_path / "run"))


def test_averaged_weights_are_those_of_keras_train_on_batch() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (48, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 10, 48).astype(np.uint8)
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = RECIPES["tutorial"].build_model((32, 32, 3), 10)
        model.compile(averaging(0.01, 3), RECIPES["tutorial"].loss(), jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        models.append(model)
    plain, ours = models
    for at in range(0, 48, 16):
        plain.train_on_batch(images[at : at + 16], labels[at : at + 16])
    loop = StepLoop(RECIPES["tutorial"], ours, ours.optimizer, images, labels, batch_size=16, seed=0)
    loop.set_order(np.arange(48))
    loop.run(0, 3, 0)
    for model in models:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    for mine, theirs in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6)


class Listening(TrainingReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_run_that_learned_nothing_says_so_at_the_epoch_and_at_the_end(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this rate, its units die; a small network might learn by chance.
    monkeypatch.setitem(RECIPES, "tutorial", TUTORIAL)
    listening = Listening()
    run_with(small_data, tmp_path / "run", reporter=listening, learning_rate=100.0)
    assert len(listening.warnings) == 2
    assert "learned nothing by the end of epoch 1" in listening.warnings[0]
    assert "learned nothing by the end of epoch 3" in listening.warnings[1]
    assert "Try a lower --learning-rate: it is 100, the recipe's is 0.001" in listening.warnings[1]
