"""A small case whose figures can be counted by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.evaluation.subject import HeldOut, Subject
from cifar_trainer.run import Run

CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def small_logits() -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [60, 3] that are right about as often as not, and labels uint8 [60]."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 3, 60).astype(np.uint8)
    logits = draw.normal(0, 1.5, (60, 3)).astype(np.float32)
    logits[np.arange(60), labels] += 1.0
    return logits, labels


@pytest.fixture
def make_subject(tmp_path: Path) -> Callable[..., Subject]:
    """A subject from logits and labels; its model is never called unless given."""

    def make(
        logits: np.ndarray, labels: np.ndarray, held_out: HeldOut | None = None, **others: Any
    ) -> Subject:
        images = np.zeros((len(labels), 32, 32, 3), np.uint8)
        split = Split(images, labels, "f" * 64)
        values: dict[str, Any] = {
            "run": Run(tmp_path / "run"),
            "config": TrainConfig("document", "synthetic", 1, 32, 0.001),
            "dataset": Dataset("synthetic", tmp_path, False, CLASSES, split, split),
            "model": None,
            "predictor": None,
            "split_name": "test",
            "images": images,
            "labels": labels,
            "split_sha256": "b" * 64,
            "logits": logits,
            "held_out": held_out,
            "weights_sha256": "a" * 64,
            "result": {"epochs": 1},
        }
        return Subject(**{**values, **others})

    return make
