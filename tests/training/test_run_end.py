"""How a run ends: by a callback, or without having learned; and what it says of itself."""

from pathlib import Path
from typing import Any

import keras
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_trainer.model import load_model, weights_sha256
from cifar_trainer.run import Run, TrainResult, list_runs
from cifar_trainer.training.api import resume, train
from cifar_trainer.training.reporter import TrainingReporter


class Warnings(TrainingReporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def small(data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 3, "limit": 320, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


class StopAfterOne(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = True


@pytest.fixture(scope="module")
def ended_early(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    run = tmp_path_factory.mktemp("runs") / "early"
    return run, small(data_dir, run, callbacks=[StopAfterOne()])


def test_a_run_that_a_callback_has_ended_is_finished(ended_early: tuple[Path, TrainResult]) -> None:
    run, _ = ended_early
    assert [each.state for each in list_runs(run.parent).runs] == ["finished"]


def test_the_model_of_a_run_that_a_callback_has_ended_is_the_one_of_its_result(
    ended_early: tuple[Path, TrainResult],
) -> None:
    run, result = ended_early
    assert weights_sha256(load_model(run / "model.keras")) == result.weights_sha256


def test_a_run_that_a_callback_has_ended_is_not_resumed_by_itself(
    ended_early: tuple[Path, TrainResult],
) -> None:
    run, result = ended_early
    assert resume(run) == result


def test_weights_that_a_callback_puts_back_are_those_of_the_result(data_dir: Path, tmp_path: Path) -> None:
    """EarlyStopping puts the weights of the best epoch back: here of the first."""
    early = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", baseline=1.1, patience=1, restore_best_weights=True, start_from_epoch=0
    )
    result = small(data_dir, tmp_path / "run", callbacks=[early])
    digest = weights_sha256(load_model(tmp_path / "run" / "model.keras"))
    row = Run(tmp_path / "run").read_history()[(result.chosen_epoch or 0) - 1]
    assert digest == result.weights_sha256
    assert result.validation["accuracy"] == row["val_accuracy"]


def test_compiling_is_in_no_epochs_seconds(ended_early: tuple[Path, TrainResult]) -> None:
    run, result = ended_early
    (row,) = Run(run).read_history()
    assert row["compile_seconds"] == pytest.approx(result.compile_seconds)
    assert result.compile_seconds > 0


def test_a_run_that_learned_nothing_says_so_with_what_to_try(data_dir: Path, tmp_path: Path) -> None:
    said = Warnings()
    small(data_dir, tmp_path / "run", epochs=1, learning_rate=100.0, reporter=said)
    (text,) = [text for text in said.texts if "learned nothing" in text]
    assert "lower --learning-rate" in text


def test_a_run_that_learns_says_nothing(trained_run: Path, data_dir: Path, tmp_path: Path) -> None:
    said = Warnings()
    small(data_dir, tmp_path / "run", epochs=2, limit=4000, batch_size=16, reporter=said)
    assert said.texts == []


def test_tensorboard_shows_a_finished_run_as_finished(ended_early: tuple[Path, TrainResult]) -> None:
    run, _ = ended_early
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")
