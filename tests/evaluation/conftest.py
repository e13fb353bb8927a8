"""A small case whose figures can be counted by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.evaluation.report import Report, make_report
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Unfamiliar
from cifar_trainer.images import Preprocessing
from cifar_trainer.metrics import fit_thresholds
from cifar_trainer.recipes.document import DOCUMENT
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import Settings

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
        logits: np.ndarray,
        labels: np.ndarray,
        held_out: tuple[np.ndarray, np.ndarray] | None = None,
        images: np.ndarray | None = None,
        classes: tuple[str, ...] = CLASSES,
        **others: Any,
    ) -> Subject:
        pixels = np.zeros((len(labels), 32, 32, 3), np.uint8) if images is None else images
        split = Split(pixels, labels, "f" * 64, "b" * 64)
        values: dict[str, Any] = {
            "run": Run(tmp_path / "run"),
            "config": Settings("document", "synthetic", 1, 32, 0.001),
            "recipe": DOCUMENT,
            "dataset": Dataset(
                "synthetic", tmp_path, None, classes, split, split, "drawn images",
                Preprocessing(pixels.shape[1:]),
            ),
            "result": TrainResult(
                run_dir="run", recipe="document", dataset="synthetic", epochs=1, seed=0, parameters=10,
                device="cpu", precision="float32", train={}, validation={}, seconds=1.0,
                images_per_second=1.0, weights_sha256="a" * 64,
            ),
            "history": [],
            "model": None,
            "predict_logits": None,
            "split_name": "test",
            "split": split,
            "logits": logits,
            "held_out": held_out,
            "familiar": logits if held_out is None else held_out[0],
            "weights_sha256": "a" * 64,
        }  # fmt: skip
        return Subject(**{**values, **others})

    return make


@pytest.fixture
def report_on() -> Callable[[Subject], Report]:
    """The report on a subject, without what would need its model."""

    def make(subject: Subject) -> Report:
        unfamiliar = Unfamiliar(fit_thresholds(subject.logits), True, "train", len(subject.logits), 0.05, ())
        return make_report(subject, unfamiliar, None, test_looks=0)

    return make
