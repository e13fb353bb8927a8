"""Whether what is asked now still looks like what the model was validated on."""

import collections
import dataclasses
import threading
from typing import Any

import numpy as np
from scipy import stats

from cifar_trainer.artefacts.baseline import Baseline, measure_images

#: Images of the newest requests that are compared.
WINDOW = 1000
#: Fewer say too little.
LEAST = 100
#: An alert's probability where nothing has drifted, over all tests together (Bonferroni).
SIGNIFICANCE = 0.001


@dataclasses.dataclass(frozen=True)
class Test:
    """One comparison of the window with the baseline.

    Attributes:
        measure: `classes`, `confidence`, or one of `measure_images`.
        test: `chi-square` or `Kolmogorov-Smirnov`.
        statistic: from 0, alike, to 1: Cramér's V for the classes, the largest distance of the two
            distributions for the others.
        p_value: the probability of such a difference or a larger one where nothing has drifted.
        drifted: whether that is below the significance.
    """

    measure: str
    test: str
    statistic: float
    p_value: float
    drifted: bool


@dataclasses.dataclass(frozen=True)
class DriftReport:
    """The window against the baseline.

    Attributes:
        images: in the window.
        window: how many it holds at most.
        least: how many are needed before anything is tested.
        tests: one a measure; none where there are too few images, or no baseline.
        class_counts: how many images of the window got each class.
        reason: why nothing was tested; None where it was.
    """

    images: int
    window: int
    least: int
    tests: tuple[Test, ...]
    class_counts: dict[str, int]
    reason: str | None

    @property
    def drifted(self) -> bool:
        """Whether any measure has drifted."""
        return any(test.drifted for test in self.tests)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**dataclasses.asdict(self), "drifted": self.drifted}


class DriftMonitor:
    """Keeps a few numbers, never the pixels, of the newest images. Safe to use from several threads."""

    def __init__(self) -> None:
        self._rows: collections.deque[dict[str, float]] = collections.deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def add(self, images: np.ndarray, class_ids: np.ndarray, confidence: np.ndarray) -> None:
        """Take note of answered images.

        Args:
            images: uint8 [N, H, W, C].
            class_ids: int [N].
            confidence: float [N].
        """
        measures = {**measure_images(images), "confidence": confidence, "classes": class_ids}
        with self._lock:
            for row in zip(*(values.tolist() for values in measures.values()), strict=True):
                self._rows.append(dict(zip(measures, row, strict=True)))

    def clear(self) -> None:
        """Forget what was noted: another model answers from here on."""
        with self._lock:
            self._rows.clear()

    def report(self, baseline: Baseline | None, classes: tuple[str, ...]) -> DriftReport:
        """Compare the window with the baseline: chi-square for the classes, Kolmogorov–Smirnov else."""
        with self._lock:
            rows = list(self._rows)
        ids = np.array([row["classes"] for row in rows], np.int64)
        counts = np.bincount(ids, minlength=len(classes))
        reason = None
        tests: list[tuple[str, str, float, float]] = []
        if baseline is None:
            reason = "the model's manifest holds no baseline"
        elif len(rows) < LEAST:
            reason = f"{len(rows)} images were seen; {LEAST} are needed"
        else:
            tests.append(_compare_classes(np.array(baseline.class_counts), counts))
            for name, sample in baseline.measures.items():
                found = stats.ks_2samp(sample, [row[name] for row in rows])
                tests.append((name, "Kolmogorov-Smirnov", float(found.statistic), float(found.pvalue)))
        return DriftReport(
            images=len(rows),
            window=WINDOW,
            least=LEAST,
            tests=tuple(Test(*test, drifted=test[3] < SIGNIFICANCE / len(tests)) for test in tests),
            class_counts=dict(zip(classes, counts.tolist(), strict=True)),
            reason=reason,
        )


def _compare_classes(expected: np.ndarray, counts: np.ndarray) -> tuple[str, str, float, float]:
    table = np.stack([expected, counts])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return "classes", "chi-square", 0.0, 1.0
    found = stats.chi2_contingency(table)
    # Cramér's V of a table with two rows.
    return "classes", "chi-square", float(np.sqrt(found.statistic / table.sum())), float(found.pvalue)
