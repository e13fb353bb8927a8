"""Keras models that are none of this package's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from cifar_trainer.artefacts.keras import open_artefact
from cifar_trainer.errors import RunError


def test_a_keras_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    def saved(shape: tuple[int, ...], outputs: Callable[[Any], Any]) -> Path:
        images = keras.Input(shape, dtype="uint8")
        keras.Model(images, outputs(keras.layers.Flatten()(images))).save(tmp_path / "other.keras")
        return tmp_path / "other.keras"

    dense = keras.layers.Dense
    for outputs in (dense(20), lambda x: {"other": dense(10)(x)}, lambda x: [dense(10)(x), dense(10)(x)]):
        with pytest.raises(RunError, match=r"gives outputs of shape .* expected logits"):
            open_artefact(saved((32, 32, 3), outputs))
    with pytest.raises(RunError, match=r"takes an input of shape \(None, 28, 28\); expected"):
        open_artefact(saved((28, 28), dense(10)))
