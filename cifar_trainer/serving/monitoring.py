"""Metrics for Prometheus, and drift from the validation images."""

import collections
import dataclasses
import functools
import threading
import time
from typing import Any

import numpy as np
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from scipy import stats

from cifar_trainer.artefacts.baseline import Baseline, measure_images

#: Number of newest images that are compared with the validation images.
WINDOW = 1000
#: Minimum number of images for a test.
LEAST = 100
#: Probability of a false alarm per comparison, over all tests (Bonferroni). With a comparison every 15 s and
#: all images new each time, that is one false alarm in 17 days.
SIGNIFICANCE = 1e-5
#: Seconds over which rates and latencies are computed.
RECENT_SECONDS = 60.0

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_CONFIDENCE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

# Otherwise each counter has a second series with the time of its creation.
prometheus_client.disable_created_metrics()


class Metrics:
    """The server's metrics, in a registry of their own: a process may run several servers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)

        shared: Any = {"namespace": "cifar_trainer", "registry": registry}
        counter = functools.partial(Counter, **shared)
        gauge = functools.partial(Gauge, **shared)
        histogram = functools.partial(Histogram, **shared)

        self.requests = counter("requests", "Requests.", ("route", "method", "status"))
        self.seconds = histogram(
            "request_duration_seconds",
            "Time from the headers to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
        )
        self.errors = counter("errors", "Requests refused or failed.", ["cause"])
        self.batch_size = histogram("batch_size", "Images in a batch.", buckets=_SIZES)
        self.model_seconds = histogram(
            "model_inference_duration_seconds", "The model's time for a batch.", buckets=_SECONDS
        )
        self.queued = gauge("queued_images", "Waiting images.")
        self.connections = gauge("connections", "Open connections.")
        self.predictions = counter("predictions", "Images classified.", ["class_name"])
        self.confidence = histogram("confidence", "Confidence of predictions.", buckets=_CONFIDENCE)
        self.unfamiliar = counter("unfamiliar", "Images unlike the validation images.")
        self.version = gauge("model_version", "Model version in service.")
        self.model = gauge("model_info", "1 for the weights in service.", ("name", "version", "sha256"))
        self.loads = counter("model_loads", "Versions loaded or refused.", ["outcome"])
        self.ready = gauge("ready", "1 while the server accepts requests.")
        self.drift_statistic = gauge("drift_statistic", "0 is identical, 1 is disjoint.", ["measure"])
        self.drift_p_value = gauge(
            "drift_p_value", "p-value of the comparison with validation images.", ["measure"]
        )
        self.drifted = gauge("drifted", "1 if a measure has drifted.")
        self.webhook_failures = counter("alert_webhook_failures", "Alerts that could not be delivered.")
        #: End, seconds and status of the newest POST requests.
        self._recent: collections.deque[tuple[float, float, int]] = collections.deque(maxlen=10_000)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        if method == "POST":
            self._recent.append((time.monotonic(), seconds, status))

    def recent(self) -> dict[str, float]:
        """Rate, latency and errors of the POST requests of the last minute."""
        since = time.monotonic() - RECENT_SECONDS
        newest = [(seconds, status) for at, seconds, status in list(self._recent) if at >= since]
        p50, p99 = np.percentile([seconds for seconds, _ in newest] or [0.0], (50, 99)) * 1000
        return {
            "requests": len(newest),
            "requests_per_second": len(newest) / RECENT_SECONDS,
            "errors": sum(status >= 400 for _, status in newest),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }

    def show_model(self, name: str, version: int, sha256: str | None) -> None:
        """Set the metrics of the model in service."""
        self.version.set(version)
        self.model.clear()
        self.model.labels(name, str(version), sha256 or "unknown").set(1)

    def show_drift(self, report: "DriftReport") -> None:
        """Set the metrics of a comparison; without tests, the previous values are cleared."""
        self.drift_statistic.clear()
        self.drift_p_value.clear()
        for test in report.tests:
            self.drift_statistic.labels(test.measure).set(test.statistic)
            self.drift_p_value.labels(test.measure).set(test.p_value)
        self.drifted.set(report.drifted)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return bytes(generate_latest(self.registry))


@dataclasses.dataclass(frozen=True)
class DriftTest:
    """Comparison of one measure between the newest images and the validation images.

    Attributes:
        measure: `classes`, `confidence`, or one of `measure_images`.
        test: `Fisher` or `Kolmogorov-Smirnov`.
        statistic: from 0 (identical) to 1 (disjoint): the largest difference between the shares of a class,
            or the largest distance between the two cumulative distributions.
        p_value: the probability of such a difference, or a larger one, without drift.
        drifted: whether the p-value is significant.
        change: the difference in words, such as `the images are darker`.
    """

    measure: str
    test: str
    statistic: float
    p_value: float
    drifted: bool
    change: str


@dataclasses.dataclass(frozen=True)
class DriftReport:
    """Comparison of the newest images with the validation images.

    Attributes:
        images: images in the window.
        window: maximum number of images in it.
        least: number of images needed for a test.
        tests: one for each measure; empty if `reason` is set.
        class_counts: images in the window by predicted class.
        reason: why nothing was tested.
    """

    images: int
    tests: tuple[DriftTest, ...]
    class_counts: dict[str, int]
    reason: str | None
    window: int = WINDOW
    least: int = LEAST

    @property
    def drifted(self) -> bool:
        """Whether any measure has drifted."""
        return any(test.drifted for test in self.tests)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**dataclasses.asdict(self), "drifted": self.drifted}


class DriftMonitor:
    """Keeps a few numbers about the newest images of one model, never their pixels.

    Args:
        baseline: the same numbers for the validation images; None without a manifest.
        classes: the model's class names.
    """

    def __init__(self, baseline: Baseline | None, classes: tuple[str, ...]) -> None:
        self.baseline = baseline
        self._classes = classes
        self._rows: collections.deque[dict[str, float]] = collections.deque(maxlen=WINDOW)
        # Images are added in the model's thread, and compared in others.
        self._lock = threading.Lock()

    def add(self, images: np.ndarray, class_ids: np.ndarray, confidence: np.ndarray) -> None:
        """Record classified images.

        Args:
            images: uint8 [N, H, W, C].
            class_ids: int [N].
            confidence: float [N].
        """
        measures = {"classes": class_ids, "confidence": confidence, **measure_images(images)}
        columns = [values.tolist() for values in measures.values()]
        with self._lock:
            self._rows.extend(dict(zip(measures, row, strict=True)) for row in zip(*columns, strict=True))

    def report(self) -> DriftReport:
        """Compare the window with the baseline: Fisher's exact test for classes, else Kolmogorov–Smirnov."""
        with self._lock:
            rows = list(self._rows)
        ids = np.array([row["classes"] for row in rows], np.int64)
        counts = np.bincount(ids, minlength=len(self._classes))
        reason, tests = None, []
        if self.baseline is None:
            reason = "the model's manifest has no baseline"
        elif len(rows) < LEAST:
            reason = f"{len(rows)} images were seen, {LEAST} are needed"
        else:
            level = SIGNIFICANCE / (1 + len(self.baseline.measures))
            tests = [_compare_classes(np.array(self.baseline.class_counts), counts, self._classes, level)]
            for name, sample in self.baseline.measures.items():
                tests.append(
                    _compare_values(name, np.array(sample), np.array([r[name] for r in rows]), level)
                )
        names = dict(zip(self._classes, counts.tolist(), strict=True))
        return DriftReport(len(rows), tuple(tests), names, reason)


def _compare_classes(
    expected: np.ndarray, counts: np.ndarray, classes: tuple[str, ...], level: float
) -> DriftTest:
    """Fisher's exact test of each class against the rest, times the number of classes (Bonferroni).

    A chi-square test would raise false alarms when classes are rare.
    """
    before, now = expected.sum(), counts.sum()
    table = before + now, expected + counts, now
    either = np.minimum(stats.hypergeom.cdf(counts, *table), stats.hypergeom.sf(counts - 1, *table))
    p_value = min(1.0, 2 * float(either.min()) * len(classes))
    shares = counts / now - expected / before
    largest = int(np.argmax(np.abs(shares)))
    change = f"{'more' if shares[largest] > 0 else 'fewer'} images are classified as {classes[largest]}"
    return DriftTest("classes", "Fisher", float(np.abs(shares).max()), p_value, p_value < level, change)


def _compare_values(name: str, expected: np.ndarray, values: np.ndarray, level: float) -> DriftTest:
    """The two-sample Kolmogorov–Smirnov test of a measure."""
    result = stats.ks_2samp(expected, values)
    difference = float(np.median(values) - np.median(expected))
    more, less = {
        "brightness": ("the images are brighter", "the images are darker"),
        "contrast": ("the images have more contrast", "the images have less contrast"),
        "confidence": ("the model is more confident", "the model is less confident"),
    }.get(name, (f"the images have more {name}", f"the images have less {name}"))
    change = (
        more if difference > 0 else less if difference < 0 else f"the values of {name} spread differently"
    )
    statistic, p_value = float(result.statistic), float(result.pvalue)
    return DriftTest(name, "Kolmogorov-Smirnov", statistic, p_value, p_value < level, change)
