"""What `/metrics` shows, in Prometheus's text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cifar_trainer.serving.drift import DriftReport

_PREFIX = "cifar_trainer_"
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_CONFIDENCE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Telemetry:
    """The server's counters. Each server has its own, so that two in a process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def name(text: str) -> str:
            return _PREFIX + text

        self.requests = Counter(
            name("requests"), "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            name("request_seconds"), "From the headers of a request to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.problems = Counter(
            name("errors"), "Requests refused or failed.", ("cause",), registry=self.registry
        )
        self.batch_size = Histogram(
            name("batch_size"), "Images in a batch.", buckets=_SIZES, registry=self.registry
        )
        self.model_seconds = Histogram(
            name("model_seconds"), "The model's own time for a batch.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.queued = Gauge(name("queued_images"), "Images waiting.", registry=self.registry)
        self.connections = Gauge(name("connections"), "Open connections.", registry=self.registry)
        self.predictions = Counter(
            name("predictions"), "Images answered.", ("class_name",), registry=self.registry
        )
        self.confidence = Histogram(
            name("confidence"), "Confidence of the answers.", buckets=_CONFIDENCE, registry=self.registry
        )
        self.unfamiliar = Counter(
            name("unfamiliar"), "Images unlike the training data.", registry=self.registry
        )
        self.version = Gauge(name("model_version"), "Version in service.", registry=self.registry)
        self.loads = Counter(
            name("model_loads"), "Versions loaded or refused.", ("outcome",), registry=self.registry
        )
        self.ready = Gauge(name("ready"), "1 once the server takes requests.", registry=self.registry)
        self.drift_statistic = Gauge(
            name("drift_statistic"), "0 is alike, 1 entirely different.", ("measure",), registry=self.registry
        )
        self.drift_p_value = Gauge(
            name("drift_p_value"), "Of the comparison with the validation images.", ("measure",),
            registry=self.registry,
        )  # fmt: skip
        self.drifted = Gauge(name("drifted"), "1 where a measure has drifted.", registry=self.registry)
        self.webhook_failures = Counter(
            name("alert_webhook_failures"), "Alerts that could not be delivered.", registry=self.registry
        )

    def show_drift(self, report: DriftReport) -> None:
        """Take over what a comparison has found."""
        for test in report.tests:
            self.drift_statistic.labels(test.measure).set(test.statistic)
            self.drift_p_value.labels(test.measure).set(test.p_value)
        self.drifted.set(report.drifted)

    def render(self) -> bytes:
        """All of it as text."""
        text: bytes = generate_latest(self.registry)
        return text
