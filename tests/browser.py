"""A headless Chromium for the tests of pages, and the accessibility check that they share."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

#: Nothing in a test may call home.
_OFFLINE = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: A large screen and a phone, in CSS pixels.
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")


_started: list[Any] = []


@contextlib.contextmanager
def open_browser(width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """Use Chromium with a viewport of this width and colour scheme; skip the test without Chromium.

    The tests of a process share one Chromium, each in a tab of its own; `quit_browser` ends it.

    Args:
        width: of the viewport in CSS pixels; up to 760 it is a phone with a touch screen.
        scheme: `light` or `dark`, what `prefers-color-scheme` answers.

    Yields:
        The selenium driver.
    """
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver_path is None or importlib.util.find_spec("selenium") is None:
        pytest.skip("Chromium, its driver or selenium is not installed")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = browser
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *_OFFLINE):
        options.add_argument(word)
    if not _started:
        _started.append(Chrome(options=options, service=ChromeService(driver_path)))
    (driver,) = _started
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        use_screen(driver, width, scheme)
        yield driver
    finally:
        driver.close()
        driver.switch_to.window(before)


def quit_browser() -> None:
    """End Chromium, if a test has started it."""
    while _started:
        _started.pop().quit()


def use_screen(driver: Any, width: int, scheme: str) -> None:
    """Change the viewport's width and the colour scheme of a running browser."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width <= 760}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preference = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})


def accessibility_violations(driver: Any) -> list[str]:
    """Check the page that is open with axe-core; skip the test if axe-core is not installed.

    Returns:
        A line for each violation: the rule and the first element that breaks it.
    """
    if importlib.util.find_spec("selenium_axe_python") is None:
        pytest.skip("selenium-axe-python is not installed")
    from selenium_axe_python import Axe

    axe = Axe(driver)
    axe.inject()
    found = axe.run()["violations"]
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found]


def problems_on_screens(url: str) -> list[str]:
    """Open a page at each of `WIDTHS` in each of `SCHEMES`.

    Returns:
        The violations that axe-core finds, and a line if the page as a whole scrolls sideways.
    """
    found = []
    with open_browser() as driver:
        for width in WIDTHS:
            for scheme in SCHEMES:
                use_screen(driver, width, scheme)
                driver.get(url)
                found += [f"{width} {scheme}: {line}" for line in accessibility_violations(driver)]
                across = driver.execute_script("return document.documentElement.scrollWidth")
                if across > width:
                    found.append(f"{width} {scheme}: the page is {across} pixels wide")
    return found
