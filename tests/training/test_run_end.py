"""How a run ends: by a callback, or without having learned; and what it says of itself."""

import shutil
from pathlib import Path
from typing import Any

import keras
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cifar_trainer.model import load_model, weights_sha256
from cifar_trainer.run import Run, TrainResult, list_runs
from cifar_trainer.training.api import resume, train
from cifar_trainer.training.history import METRICS

pytestmark = pytest.mark.usefixtures("small_runs")


def small(data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 3, "limit": 96, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


class StopAfterOne(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = True


@pytest.fixture(scope="module")
def ended_early(
    small_runs: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult]:
    run = tmp_path_factory.mktemp("runs") / "early"
    return run, small(small_data, run, callbacks=[StopAfterOne()])


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


def test_a_finished_run_that_was_copied_is_reported_where_it_is_now(
    ended_early: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    folder = shutil.copytree(ended_early[0], tmp_path / "copy")
    assert resume(folder).run_dir == str(folder)


def test_a_run_that_a_callback_has_ended_stays_ended_after_a_crash(
    ended_early: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    run, result = ended_early
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    again = resume(tmp_path / "run")
    assert (again.epochs, again.ended_by) == (1, "callback")
    assert again.weights_sha256 == result.weights_sha256


def test_weights_of_an_epoch_of_an_earlier_process_are_recognized(
    ended_early: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    run, _ = ended_early
    shutil.copytree(run, tmp_path / "run")
    weights = load_model(run / "model.keras").get_weights()
    back = keras.callbacks.LambdaCallback(on_train_end=lambda _: back.model.set_weights(weights))
    result = resume(tmp_path / "run", epochs=4, callbacks=[back])
    assert (result.epochs, result.chosen_epoch, result.chosen_by) == (4, 1, "callback")


def test_weights_that_a_callback_puts_back_are_those_of_the_result(small_data: Path, tmp_path: Path) -> None:
    """EarlyStopping puts the weights of the best epoch back: here of the first."""
    early = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", baseline=1.1, patience=1, restore_best_weights=True, start_from_epoch=0
    )
    result = small(small_data, tmp_path / "run", callbacks=[early])
    digest = weights_sha256(load_model(tmp_path / "run" / "model.keras"))
    row = Run(tmp_path / "run").read_history()[(result.chosen_epoch or 0) - 1]
    assert digest == result.weights_sha256
    assert result.validation["accuracy"] == row["val_accuracy"]


def test_compiling_is_in_no_epochs_seconds(ended_early: tuple[Path, TrainResult]) -> None:
    run, result = ended_early
    (row,) = Run(run).read_history()
    assert row["compile_seconds"] == pytest.approx(result.compile_seconds)
    assert result.compile_seconds > 0


def test_tensorboard_shows_a_finished_run_as_finished(ended_early: tuple[Path, TrainResult]) -> None:
    run, _ = ended_early
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")


def test_tensorboard_names_the_run_and_shows_what_a_sweep_varies(
    ended_early: tuple[Path, TrainResult],
) -> None:
    run, _ = ended_early
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == f"{run.parent.name}/{run.name}"
    assert {"label_smoothing", "schedule", "warmup", "ema", "weight_decay", "seed"} <= set(start.hparams)
    tags = {metric.tag.partition("/")[0] for metric in METRICS}
    assert min(tags) == "epoch", "the first cards are loss and accuracy"
