"""A real browser for the tests: Debian's Chromium, headless, driven by Selenium."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver (apt-get install)"
)

# --no-sandbox: containers have none to offer. The rest: nothing but the page is asked for.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Browser:
    """A window of Chromium."""

    def __init__(self, driver: webdriver.Chrome):
        self._driver = driver

    def show(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Open a file in a window of some CSS pixels, light or dark."""
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self._driver.get(path.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Return what a script returns in the page."""
        return self._driver.execute_script(script)

    def messages(self) -> list[str]:
        """Return what the pages have written to the console since the last call."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self) -> set[str]:
        """Return what the files opened since the last call have asked for, themselves among it."""
        events = [json.loads(e["message"])["message"] for e in self._driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {p["request"]["url"] for p in sent if p["documentURL"].startswith("file:")}


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a fresh profile in a folder, and end it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
