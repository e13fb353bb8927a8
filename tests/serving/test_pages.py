"""The pages for people: what they show, what they may load, and that everybody can use them."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import SCHEMES, WIDTHS, accessibility_violations, open_browser, use_screen
from serving_server import SHAPE, ColourModel, Running, images_of, running, served, web

from cifar_trainer.conformal import Coverage
from cifar_trainer.images import Preprocessing, encode_png

HTML = {"Accept": "text/html"}
PREDICT = "/v1/models/colours:predict"


def classify(server: Running, images: np.ndarray, **options: Any) -> None:
    web.post(server.url + PREDICT, json={"instances": images.tolist()}, **options).raise_for_status()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server that has seen 200 dark images."""
    with running() as started:
        classify(started, images_of(200) // 2)
        yield started


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser, shared by the tests of this file."""
    with open_browser() as opened:
        yield opened


def wait_for(driver: Any, name: str) -> str:
    """The text of an element once it is shown."""
    from selenium.webdriver.support.wait import WebDriverWait

    def text_of(driver: Any) -> str | bool:
        elements = driver.find_elements("id", name)
        return bool(elements) and elements[0].is_displayed() and elements[0].text

    return str(WebDriverWait(driver, 30, 0.05).until(text_of))


@pytest.mark.parametrize("path", ["/", "/monitoring"])
def test_a_page_runs_its_own_script_and_nothing_else(server: Running, path: str) -> None:
    answer = web.get(server.url + path, headers=HTML)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[source].split()
        assert all(each.startswith("'sha256-") for each in policy[source].split())
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"


def test_the_monitoring_page_draws_the_shares_of_the_classes() -> None:
    with running() as server:
        images = images_of(200, seed=3)
        classify(server, images)
        page = web.get(f"{server.url}/monitoring", headers=HTML).text
        baseline = server.service.model.monitor.baseline
    assert baseline is not None
    now = np.bincount(images.mean(axis=(1, 2)).argmax(axis=1)) / 200
    before = np.array(baseline.class_counts) / sum(baseline.class_counts)
    largest = max(*now, *before)
    for name, shares in (("now", now), ("before", before)):
        widths = re.findall(rf'<svg class="bar {name}"><rect width="([\d.]+)%"', page)
        assert [float(width) for width in widths] == pytest.approx(100 * shares / largest, abs=0.06)
    texts = re.findall(r'<span class="share">([\d.]+) %<small>([\d.]+) %', page)
    assert np.array(texts, float) == pytest.approx(100 * np.stack([now, before], axis=1), abs=0.06)


def test_the_monitoring_page_tells_drift_in_words_and_without_drift_that_there_is_none(
    server: Running,
) -> None:
    dark = web.get(f"{server.url}/monitoring", headers=HTML).text
    with running() as other:
        classify(other, images_of(500, seed=1))
        ordinary = web.get(f"{other.url}/monitoring", headers=HTML).text
    assert "the images are darker" in dark
    assert "No drift from the validation images." in ordinary


def test_the_monitoring_page_shows_requests_errors_version_and_weights(server: Running) -> None:
    web.post(f"{server.url}/predict", content=b"not an image")
    page = web.get(f"{server.url}/monitoring", headers=HTML).text
    state = web.get(f"{server.url}/monitoring").json()["server"]
    assert state["last_minute"]["errors"] >= 1
    assert state["last_minute"]["requests"] >= 2
    assert 0 < state["last_minute"]["p50_ms"] <= state["last_minute"]["p99_ms"]
    for label in ("Requests", "Answered in", "Errors", "Waiting", "Version", "Weights", "Time"):
        assert f"<dt>{label}</dt>" in page


def test_names_cannot_put_markup_into_a_page() -> None:
    model = ColourModel()
    model.classes = ("<img src=x onerror=alert(1)>", "green", "blue")
    holder = SimpleNamespace(current=served(model), failure=None)
    with running(holder, name="<b>x") as server:
        web.post(f"{server.url}/v1/models/<b>x:predict", json={"instances": images_of(5).tolist()})
        pages = [web.get(server.url + path, headers=HTML).text for path in ("/", "/monitoring")]
    for page in pages:
        assert "<b>" not in page
        assert "<img src=x" not in page


@pytest.mark.parametrize("path", ["/monitoring", "/metrics"])
def test_without_the_key_a_browser_gets_a_page_that_asks_for_it_and_shows_nothing(path: str) -> None:
    with running(api_key="secret") as server:
        answer = web.get(server.url + path, headers=HTML)
        page = web.get(server.url, headers=HTML)
    assert answer.status_code == 401
    assert 'type="password"' in answer.text
    assert "script-src" in answer.headers["Content-Security-Policy"]
    assert "red" not in answer.text.partition("<main>")[2].partition("</main>")[0]
    # The page at / is open, so it holds no validation images.
    assert 'class="sample"' not in page.text


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["/", "/monitoring"])
def test_a_page_is_accessible_fits_its_screen_and_loads_nothing_from_elsewhere(
    server: Running, driver: Any, path: str, width: int, scheme: str
) -> None:
    use_screen(driver, width, scheme)
    driver.get(server.url + path)
    if path == "/":
        driver.find_element("css selector", ".sample").click()
        wait_for(driver, "verdict")
    assert accessibility_violations(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith((server.url, "data:", "blob:"))] == []
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_file_is_classified_in_the_browser(
    server: Running, driver: Any, png: bytes, tmp_path: Path
) -> None:
    (tmp_path / "green.png").write_bytes(png)
    driver.get(server.url)
    driver.find_element("id", "file").send_keys(str(tmp_path / "green.png"))
    assert wait_for(driver, "verdict").startswith("green")
    names = [each.text for each in driver.find_elements("css selector", "#classes .name")]
    assert names == ["green", "red", "blue"]
    assert not driver.find_element("id", "set").is_displayed()


@pytest.mark.parametrize(("least", "shown"), [(0.3, "green"), (1.1, "unknown (no class is likely enough)")])
def test_the_page_shows_the_set_of_the_servers_coverage(
    driver: Any, png: bytes, tmp_path: Path, least: float, shown: str
) -> None:
    sets = Coverage(100, False, {"90": (least,)}).at(90)
    (tmp_path / "green.png").write_bytes(png)
    with running(SimpleNamespace(current=served(ColourModel(), sets=sets), failure=None)) as server:
        driver.get(server.url)
        driver.find_element("id", "file").send_keys(str(tmp_path / "green.png"))
        assert wait_for(driver, "set") == f"90 % coverage: {shown}"


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (encode_png(np.zeros((30, 40, 3), np.uint8)), "resized", "stretched"),
        (b"no image", "problem", "not an image"),
    ],
)
def test_the_page_says_that_a_photo_is_stretched_or_a_file_is_not_an_image(
    server: Running, driver: Any, tmp_path: Path, content: bytes, place: str, message: str
) -> None:
    (tmp_path / "file.png").write_bytes(content)
    driver.get(server.url)
    driver.find_element("id", "file").send_keys(str(tmp_path / "file.png"))
    assert message in wait_for(driver, place)


@pytest.mark.parametrize("height", [30, 60])
def test_a_photo_of_the_models_proportions_is_not_called_stretched(
    driver: Any, tmp_path: Path, height: int
) -> None:
    model = ColourModel()
    model.preprocessing = Preprocessing((8, 16, 3))
    (tmp_path / "photo.png").write_bytes(encode_png(np.zeros((height, 60, 3), np.uint8)))
    with running(SimpleNamespace(current=served(model), failure=None)) as server:
        driver.get(server.url)
        driver.find_element("id", "file").send_keys(str(tmp_path / "photo.png"))
        assert wait_for(driver, "verdict")
        assert driver.find_element("id", "resized").is_displayed() == (height == 60)


@pytest.mark.parametrize(
    ("resize", "said"), [("crop", ", cropped to its shape"), ("fit", ", with white borders")]
)
def test_the_page_does_not_call_a_photo_stretched_that_is_cropped_or_fitted(
    driver: Any, tmp_path: Path, resize: str, said: str
) -> None:
    model = ColourModel()
    model.preprocessing = Preprocessing(SHAPE, resize)
    (tmp_path / "wide.png").write_bytes(encode_png(np.zeros((30, 40, 3), np.uint8)))
    with running(SimpleNamespace(current=served(model), failure=None)) as server:
        driver.get(server.url)
        driver.find_element("id", "file").send_keys(str(tmp_path / "wide.png"))
        assert wait_for(driver, "resized") == said


def test_the_page_can_be_used_by_keyboard(server: Running, driver: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    driver.get(server.url)
    reached = []
    for _ in range(6):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        reached.append(driver.switch_to.active_element)
    assert [each.tag_name for each in reached[:3]] == ["a", "a", "a"]
    assert reached[3].get_attribute("id") == "file"
    sample = next(each for each in reached if each.get_attribute("class") == "sample")
    sample.send_keys(Keys.ENTER)
    assert wait_for(driver, "verdict")


def test_with_a_key_every_link_works_after_it_was_entered_once(driver: Any, png: bytes) -> None:
    with running(api_key="secret") as server:
        headers = {"X-API-Key": "secret"}
        web.post(f"{server.url}/predict", content=png, headers=headers).raise_for_status()
        driver.get(server.url)
        driver.find_element("link text", "Monitoring").click()
        driver.find_element("id", "secret").send_keys("wrong\n")
        assert wait_for(driver, "problem") == "Wrong API key."
        driver.find_element("id", "secret").clear()
        driver.find_element("id", "secret").send_keys("secret\n")
        assert "Classes of the newest images" in wait_for(driver, "live")
        driver.find_element("link text", "Metrics").click()
        assert "cifar_trainer_requests_total" in wait_for(driver, "text")
