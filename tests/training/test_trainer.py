"""The training loop around the steps: what it asks, records and raises."""

import traceback
from pathlib import Path
from typing import Any

import keras
import pytest

import cifar_trainer
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training.api import train

pytestmark = pytest.mark.usefixtures("small_runs")


def small(data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 2, "limit": 64, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


class Opens(keras.callbacks.Callback):
    """Opens a file that does not exist."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        (Path("nowhere") / "a file").read_bytes()


def test_an_error_of_a_callback_stays_itself_and_its_traceback_has_at_most_eight_frames_of_the_package(
    small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        small(small_data, tmp_path / "run", callbacks=[Opens()])
    package = str(Path(cifar_trainer.__file__).parent)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert len([frame for frame in frames if frame.filename.startswith(package)]) <= 8


class Spoils(keras.callbacks.Callback):
    """Changes the weights once training is over, so that they are validated again."""

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights([0.5 * weight for weight in self.model.get_weights()])


def test_each_validation_on_the_test_set_is_recorded_also_that_of_weights_that_a_callback_set(
    small_data: Path, tmp_path: Path
) -> None:
    result = small(small_data, tmp_path / "run", callbacks=[Spoils()])
    assert [look.epoch for look in Run(tmp_path / "run").read_looks()] == [1, 2, 2]
    assert result.test_looks == 3
