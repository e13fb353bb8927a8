"""Drift: an alarm if there is some, and none otherwise; and which images are stored."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from serving_server import CLASSES, SHAPE, ColourModel, Running, images_of, running, served, until, web

from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.images import Preprocessing, encode_png
from cifar_trainer.serving import service
from cifar_trainer.serving.monitoring import (
    LEAST,
    SIGNIFICANCE,
    WINDOW,
    DriftMonitor,
    DriftReport,
)


def report_on(images: np.ndarray) -> DriftReport:
    model = ColourModel()
    monitor = served(model).monitor
    predictions = model.predict(images)
    monitor.add(images, predictions.class_id, predictions.probabilities.max(axis=1))
    return monitor.report()


def test_drift_is_found_and_told_in_words() -> None:
    images = images_of(900, seed=1)
    red = images[images.mean(axis=(1, 2)).argmax(axis=1) == 0][:200]
    found = [
        {test.measure: test.change for test in report_on(shown).tests if test.drifted}
        for shown in (images[:500], images[:500] // 2, red)
    ]
    assert found[0] == {}
    assert found[1]["brightness"] == "the images are darker"
    assert found[2]["classes"] == "more images are classified as red"


@pytest.mark.parametrize("classes", [20, 1000])
def test_images_without_drift_raise_no_alarm_however_rare_their_classes(classes: int) -> None:
    draw = np.random.default_rng(0)
    shares = 1 / np.arange(1, classes + 1)
    shares /= shares.sum()
    names = tuple(map(str, range(classes)))
    counts = tuple(np.bincount(draw.choice(classes, 5000, p=shares), minlength=classes).tolist())
    confidence = tuple(draw.uniform(size=500).tolist())
    images = np.zeros((LEAST, *SHAPE), np.uint8)
    baseline = Baseline(counts, {"confidence": confidence}, ())
    alarms = []
    for _ in range(30):
        monitor = DriftMonitor(baseline, names)
        monitor.add(images, draw.choice(classes, LEAST, p=shares), draw.uniform(size=LEAST))
        alarms.append(monitor.report().drifted)
    assert sum(alarms) == 0


def test_a_small_change_of_the_classes_is_no_drift_and_a_large_one_is() -> None:
    p_values = []
    for counts in ([500, 300, 200], [520, 290, 190], [600, 250, 150], [900, 60, 40]):
        monitor = DriftMonitor(Baseline((500, 300, 200), {}, ()), CLASSES)
        monitor.add(np.zeros((1000, *SHAPE), np.uint8), np.repeat(range(3), counts), np.ones(1000))
        p_values.append(monitor.report().tests[0].p_value)
    assert p_values[0] == 1
    assert p_values[1] > 0.1
    assert p_values[2] < 0.001
    assert p_values[3] < SIGNIFICANCE
    assert p_values == sorted(p_values, reverse=True)


def test_few_images_are_not_compared_and_the_window_holds_the_newest() -> None:
    assert report_on(images_of(LEAST - 1)).tests == ()
    assert report_on(images_of(WINDOW + 7)).images == WINDOW
    assert DriftMonitor(None, CLASSES).report().reason == "the model's manifest has no baseline"


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server's address, and the JSON bodies that were sent to it."""
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/alerts", told
        server.shutdown()
        thread.join(10)


def ask_about(server: Running, images: np.ndarray) -> None:
    body = {"instances": images.tolist()}
    web.post(f"{server.url}/v1/models/colours:predict", json=body).raise_for_status()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for drift all the time."""
    monkeypatch.setattr(service, "_DRIFT_SECONDS", 0.03)


@pytest.mark.usefixtures("quick")
def test_the_webhook_is_told_once_when_drift_begins_and_not_before() -> None:
    with listening() as (address, told), running(alert_webhook=address) as server:
        ask_about(server, images_of(500, seed=1))
        assert not until(lambda: told, 0.3)
        ask_about(server, images_of(WINDOW, seed=1) // 2)
        assert until(lambda: told)
        assert not until(lambda: len(told) > 1, 0.3)
    assert told[0]["model"] == "colours"
    drifted = {test["measure"] for test in told[0]["monitoring"]["tests"] if test["drifted"]}
    assert "brightness" in drifted


@pytest.mark.usefixtures("quick")
def test_a_webhook_that_cannot_be_reached_is_counted_and_its_address_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(alert_webhook="http://127.0.0.1:9/services/s3cret") as server:
        ask_about(server, images_of(200, seed=1) // 2)
        assert until(lambda: server.counted("alert_webhook_failures_total") == 1)
        ask_about(server, images_of(1))
    assert "127.0.0.1 cannot be reached" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.usefixtures("quick")
def test_drift_is_still_looked_for_after_a_look_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    report = DriftMonitor.report

    def fail_once(self: DriftMonitor) -> DriftReport:
        looks.append(1)
        return report(self) if len(looks) > 1 else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(DriftMonitor, "report", fail_once)
    with running():
        assert until(lambda: len(looks) > 2)


def test_a_model_is_looked_for_after_a_look_has_failed() -> None:
    looks = []

    def fail_once() -> bool:
        looks.append(1)
        return len(looks) < 2 and bool(1 / 0)

    holder = SimpleNamespace(current=served(ColourModel()), failure=None, refresh=fail_once)
    with running(holder, watch=True, watch_seconds=0.02):
        assert until(lambda: len(looks) > 2)


def test_a_new_model_has_a_window_of_its_own() -> None:
    holder = SimpleNamespace(current=served(ColourModel()), failure=None)
    with running(holder) as server:
        ask_about(server, images_of(200, seed=1) // 2)
        assert web.get(f"{server.url}/monitoring").json()["drifted"]
        # One with fewer classes and another baseline.
        holder.current = served(
            ColourModel(), monitor=DriftMonitor(Baseline((1, 1), {"confidence": (0.5,)}, ()), ("a", "b"))
        )
        report = web.get(f"{server.url}/monitoring")
        metrics = web.get(f"{server.url}/metrics")
    assert (report.status_code, metrics.status_code) == (200, 200)
    assert (report.json()["images"], report.json()["class_counts"]) == (0, {"a": 0, "b": 0})
    assert "cifar_trainer_drifted 0.0" in metrics.text
    assert "drift_p_value{" not in metrics.text


def test_no_image_is_stored_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running() as server:
        web.post(f"{server.url}/predict", content=encode_png(np.zeros(SHAPE, np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_unfamiliar_images_are_stored_up_to_the_limit(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    images = np.stack([np.full(SHAPE, value, np.uint8) for value in range(5)])
    with running(keep_unfamiliar=folder, keep_limit=3) as server:
        for image in images:
            web.post(f"{server.url}/predict", content=encode_png(image))
    # The server has ended, and with it all that it was still to store.
    kept = [Preprocessing(SHAPE).decode(path.read_bytes()).pixels for path in folder.glob("*.png")]
    assert len(kept) == 3
