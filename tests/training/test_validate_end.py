"""`--validate end`: the same weights, validated once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training.api import resume, train

pytestmark = pytest.mark.usefixtures("small_runs")

Started = Callable[..., Any]


def small(data_dir: Path, run: Path, **options: Any) -> Any:
    settings = {"epochs": 3, "limit": 64, "device": "cpu", **options}
    return train(dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


def alone(data_dir: Path, run: Path, **options: Any) -> list[TrainResult]:
    return [small(data_dir, run, **options)]


def in_a_group(data_dir: Path, run: Path, **options: Any) -> list[TrainResult]:
    return list(small(data_dir, run, seeds="0,1", **options).runs)


def extended(data_dir: Path, run: Path, **options: Any) -> list[TrainResult]:
    small(data_dir, run, epochs=2, **options)
    return [resume(run, epochs=3)]


def ended_by_a_callback(data_dir: Path, run: Path, **options: Any) -> list[TrainResult]:
    def stop(epoch: int, logs: Any) -> None:
        callback.model.stop_training = epoch == 1

    callback = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    return [small(data_dir, run, callbacks=[callback], **options)]


@pytest.mark.parametrize(
    ("start", "validated"),
    [(alone, [3]), (in_a_group, [3]), (extended, [2, 3]), (ended_by_a_callback, [2])],
)
def test_only_the_last_epoch_is_validated_and_the_result_is_the_same(
    start: Started, validated: list[int], small_data: Path, tmp_path: Path
) -> None:
    expected = start(small_data, tmp_path / "each")
    results = start(small_data, tmp_path / "end", validate="end")
    for result, other in zip(results, expected, strict=True):
        run = Run(Path(result.run_dir))
        assert result.weights_sha256 == other.weights_sha256
        assert (result.validation, result.chosen_epoch) == (other.validation, other.chosen_epoch)
        rows = {row["epoch"]: row["val_accuracy"] for row in run.read_history()}
        assert [epoch for epoch, accuracy in rows.items() if accuracy is not None] == validated
        assert rows[validated[-1]] == result.validation["accuracy"]
        assert [look.epoch for look in run.read_looks()] == validated
