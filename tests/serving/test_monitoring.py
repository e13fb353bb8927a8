"""Drift: noticed where there is some, and not where there is none; and what is kept of images."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_server import CLASSES, SHAPE, ColourModel, images_of, running, served

from cifar_trainer.images import decode_image, encode_png
from cifar_trainer.serving.drift import LEAST, WINDOW, DriftMonitor, DriftReport


def report_on(images: np.ndarray) -> DriftReport:
    model = ColourModel()
    monitor = DriftMonitor()
    predictions = model.predict(images)
    monitor.add(images, predictions.class_id, predictions.probabilities.max(axis=1))
    return monitor.report(served(model).baseline, CLASSES)


def test_ordinary_images_have_not_drifted() -> None:
    assert not report_on(images_of(500, seed=1)).drifted


def test_darker_images_have_drifted_in_brightness() -> None:
    report = report_on(images_of(500, seed=1) // 2)
    assert "brightness" in {test.measure for test in report.tests if test.drifted}


def test_images_of_one_class_have_drifted_in_classes() -> None:
    images = images_of(900, seed=1)
    red = images[images.mean(axis=(1, 2)).argmax(axis=1) == 0][:200]
    report = report_on(red)
    assert "classes" in {test.measure for test in report.tests if test.drifted}


def test_few_images_are_not_compared() -> None:
    report = report_on(images_of(LEAST - 1))
    assert report.tests == ()


def test_the_window_holds_the_newest_images() -> None:
    assert report_on(images_of(WINDOW + 7)).images == WINDOW


def test_without_a_baseline_nothing_is_compared() -> None:
    report = DriftMonitor().report(None, CLASSES)
    assert report.reason == "the model's manifest holds no baseline"


def test_monitoring_is_json_for_programs() -> None:
    with running() as server:
        body = {"instances": (images_of(200) // 2).tolist()}
        httpx.post(f"{server.url}/v1/models/colours:predict", json=body).raise_for_status()
        report = httpx.get(f"{server.url}/monitoring").json()
        metrics = httpx.get(f"{server.url}/metrics").text
    assert report["drifted"]
    assert "cifar_trainer_drifted 1.0" in metrics


def test_monitoring_is_a_page_with_a_plot_for_people() -> None:
    with running() as server:
        body = {"instances": images_of(200).tolist()}
        httpx.post(f"{server.url}/v1/models/colours:predict", json=body).raise_for_status()
        page = httpx.get(f"{server.url}/monitoring", headers={"Accept": "text/html"}).text
    assert "<svg" in page


def test_no_image_is_stored_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running() as server:
        httpx.post(f"{server.url}/predict", content=encode_png(np.zeros(SHAPE, np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_unfamiliar_images_are_stored_up_to_the_limit(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    images = np.stack([np.full(SHAPE, value, np.uint8) for value in range(5)])
    with running(keep_unfamiliar=folder, keep_limit=3) as server:
        for image in images:
            httpx.post(f"{server.url}/predict", content=encode_png(image))
    # The server has ended, and with it all that it was still to store.
    kept = [decode_image(path.read_bytes(), SHAPE).pixels for path in folder.glob("*.png")]
    assert len(kept) == 3
