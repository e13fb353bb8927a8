"""Keras models that are none of this package's."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cifar_trainer.artefacts.formats import softmax
from cifar_trainer.artefacts.keras import open_artefact
from cifar_trainer.errors import RunError
from cifar_trainer.model import load_model
from cifar_trainer.run import Run


def test_a_keras_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    def saved(shape: tuple[int, ...], outputs: Callable[[Any], Any]) -> Path:
        images = keras.Input(shape, dtype="uint8")
        keras.Model(images, outputs(keras.layers.Flatten()(images))).save(tmp_path / "other.keras")
        return tmp_path / "other.keras"

    dense = keras.layers.Dense
    others = (
        lambda x: keras.layers.Reshape((2, 5))(dense(10)(x)),
        lambda x: {"other": dense(10)(x)},
        lambda x: [dense(10)(x), dense(10)(x)],
    )
    for outputs in others:
        with pytest.raises(RunError, match=r"returns outputs of shape .* expected logits"):
            open_artefact(saved((32, 32, 3), outputs))
    with pytest.raises(RunError, match=r"takes an input of shape \(None, 28, 28\); expected images"):
        open_artefact(saved((28, 28), dense(10)))


def test_a_keras_model_without_names_has_those_of_its_run(learned_run: Path) -> None:
    assert open_artefact(learned_run / "model.keras").classes == Run(learned_run).read_data().classes


def test_a_runs_model_by_its_path_has_the_runs_temperature(
    learned_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict --run R` and `predict --model R/model.keras` give the same probabilities."""
    monkeypatch.setattr(Run, "read_temperature", lambda run, weights: 2.0)
    predictions = open_artefact(learned_run / "model.keras").predict(np.zeros((1, 32, 32, 3), np.uint8))
    np.testing.assert_allclose(predictions.probabilities, softmax(predictions.logits / 2), atol=1e-6)


def test_a_runs_model_of_another_shape_than_its_data_is_named(
    learned_run: Path, tmp_path: Path, replace_model: Callable[..., None]
) -> None:
    run = Path(shutil.copytree(learned_run, tmp_path / "run"))
    images = keras.Input((28, 28, 1), dtype="uint8")
    replace_model(run, keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(images))))
    with pytest.raises(RunError, match=r"takes images of \(28, 28, 1\), but .* says \(32, 32, 3\)"):
        open_artefact(run / "model.keras")


def test_a_keras_model_of_nowhere_numbers_its_classes(tmp_path: Path) -> None:
    images = keras.Input((28, 28, 1), dtype="uint8")
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(images))
    keras.Model(images, logits).save(tmp_path / "other.keras")
    assert open_artefact(tmp_path / "other.keras").classes == ("0", "1", "2")


def test_a_truncated_model_below_a_folder_named_lambda_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "lambda").mkdir()
    path = tmp_path / "lambda" / "model.keras"
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(RunError, match="is not a complete Keras model"):
        load_model(path)


def test_a_keras_file_with_a_lambda_layer_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    source = f"lambda x: (__import__('pathlib').Path({str(trace)!r}).touch(), x)[1]"
    images = keras.Input((32, 32, 3), dtype="uint8")
    hostile = keras.layers.Lambda(eval(source), output_shape=(32, 32, 3))(images)
    keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(hostile))).save(tmp_path / "x.keras")
    trace.unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"x\.keras contains Python code \(a Lambda layer\)"):
        open_artefact(tmp_path / "x.keras")
    assert not trace.exists()
