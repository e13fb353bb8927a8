"""A small case whose numbers can be computed by hand, and its page."""

import base64
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.conformal import Coverage
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.evaluation.report import Report, make_report
from cifar_trainer.evaluation.report_page import render_page
from cifar_trainer.evaluation.robustness import Robustness
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.evaluation.unfamiliar import Detection, OtherKind, Unfamiliar
from cifar_trainer.images import Preprocessing
from cifar_trainer.metrics import fit_thresholds
from cifar_trainer.pages import PageFigure
from cifar_trainer.recipes import EXPECTED_ON
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.settings import Settings

CLASSES = ("ant", "bee", "cow")
#: A PNG of one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


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
        files: tuple[str, ...] = (),
        **others: Any,
    ) -> Subject:
        if images is None:
            images = np.broadcast_to(np.uint8(0), (len(labels), 32, 32, 3))
        split = Split(images, labels, "f" * 64, "b" * 64, files)
        preprocessing = Preprocessing(images.shape[1:])
        values: dict[str, Any] = {
            "run": Run(tmp_path / "run"),
            "config": Settings("tutorial", "synthetic", 1, 32, 0.001),
            "recipe": TUTORIAL,
            "dataset": Dataset("own", tmp_path, None, classes, split, split, "own", preprocessing),
            "result": TrainResult(
                run_dir="run", recipe="tutorial", dataset="synthetic", epochs=1, seed=0, parameters=10,
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


def scores(subject: Subject, noise_auroc: float = 0.9) -> Unfamiliar:
    """Measurements of unfamiliar images that no model was asked for."""
    noise = OtherKind("noise", 100, 0.5, Detection(noise_auroc, 0.3), Detection(noise_auroc, 0.3))
    thresholds = fit_thresholds(subject.logits)
    return Unfamiliar(thresholds, noise_auroc >= 0.5, "train", len(subject.logits), 0.05, (noise,))


@pytest.fixture
def report_on() -> Callable[[Subject], Report]:
    """The report on a subject, without what would need its model."""
    return lambda subject: make_report(subject, scores(subject), None, test_looks=0)


@pytest.fixture
def render(
    make_subject: Callable[..., Subject], small_logits: tuple[np.ndarray, np.ndarray]
) -> Callable[..., str]:
    """The page about a subject: `own`, `synthetic`, or `verified` data; `logits` with their labels."""

    def make(
        *,
        logits: tuple[np.ndarray, np.ndarray] = small_logits,
        environment: Mapping[str, Any] | None = None,
        robustness: Robustness | None = None,
        dataset: str = "own",
        verified: bool = False,
        epochs: int = 1,
        noise_auroc: float = 0.9,
        coverage: Coverage | None = None,
        **others: Any,
    ) -> str:
        plain = make_subject(*logits, **others)
        proof = "content" if verified else None
        name = EXPECTED_ON if verified else dataset
        subject = dataclasses.replace(
            plain,
            dataset=dataclasses.replace(plain.dataset, name=name, verified_by=proof),
            result=dataclasses.replace(plain.result, epochs=epochs),
        )
        subject.run.path.mkdir()
        subject.run.environment.write_text(json.dumps(environment or {}))
        for command in ("train", "train", "train", "evaluate"):
            subject.run.record_look(command, 1)
        report = make_report(subject, scores(subject, noise_auroc), robustness, 4)
        report = dataclasses.replace(report, coverage=coverage)
        names = (
            "per_class", "precision_recall", "confusion_matrix", "confusion_matrix_by_row", "mistakes",
            "reliability", "grad_cam", "unfamiliar", "robustness", "learning_curves",
        )  # fmt: skip
        return render_page(subject, report, dict.fromkeys(names, PageFigure(PIXEL, PIXEL)))

    return make
