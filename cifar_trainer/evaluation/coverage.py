"""Fits the thresholds of class sets on held-out images, and measures the sets on test images."""

import dataclasses
from typing import Any

import numpy as np

from cifar_trainer.conformal import Coverage, fit_coverage
from cifar_trainer.data.splits import evaluated_split
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.metrics import wilson_interval
from cifar_trainer.model import LogitsFunction, is_float32, to_float32

#: The coverages to measure, in per cent.
MEASURED = (80, 90, 95, 99)


def measure_coverage(subject: Subject) -> Coverage | None:
    """The thresholds of a run, measured unless the split is `validation`; None without held-out images.

    They are for the model in float32 without test-time augmentation, which predict, serve and exports use.
    """
    if subject.held_out is None:
        return None
    (held_out, labels), logits = subject.held_out, subject.logits
    if subject.recipe.predict is not None or not is_float32(subject.model):
        predict_logits = LogitsFunction(to_float32(subject.model))
        held_out = predict_logits(evaluated_split(subject.dataset, subject.config, "validation").images)
        logits = predict_logits(subject.split.images)
    coverage = fit_coverage(held_out, labels)
    if subject.split_name == "validation":
        return coverage
    measured = [
        measure_sets(coverage, percent, logits, subject.split.labels)
        for percent in MEASURED
        if str(percent) in coverage.thresholds
    ]
    return dataclasses.replace(coverage, measured=tuple(measured))


def measure_sets(coverage: Coverage, percent: int, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """An entry of `Coverage.measured`, from images that the thresholds were not fitted on."""
    contained = coverage.at(percent).contain(logits)
    right, sizes = contained[np.arange(len(labels)), labels], contained.sum(axis=1)
    return {
        "coverage": percent / 100,
        "measured": float(right.mean()),
        "interval": wilson_interval(int(right.sum()), len(right)),
        "mean_size": float(sizes.mean()),
        "unknown": float((sizes == 0).mean()),
    }
