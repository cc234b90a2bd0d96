"""Debian's Chromium, headless and with a profile of its own, and a JupyterLab server to point it at: for tests that look at pages as people do.

Nothing here downloads a browser or a driver, and the browser resolves no name but this machine's, so that a page that needs the network fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver

FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--disable-default-apps", "--hide-scrollbars", "--force-device-scale-factor=1",
    "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-sandbox",  # root and many containers have none; only our own pages are opened
)  # fmt: skip
HERE = {"file", "data", "blob", "about", "chrome", "devtools"}
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # neither news nor updates are asked for
    "@jupyterlab/apputils-extension/themes": {"theme": "JupyterLab Light"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/notebook-extension/tracker": {"recordTiming": True},  # when each cell began and ended
}


def installed(name: str) -> str:
    """Path of a program of tests/apt.txt; the test skips, with the reason, where it is not there."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (tests/apt.txt)")
    return path


@contextmanager
def chromium(profile: Path, *, width: int = 1300, height: int = 1000, requests: bool = False) -> Iterator[WebDriver]:
    """A window of `width` x `height` pixels; `requests` keeps the log that `requested` reads."""
    binary, driver_path = installed("chromium"), installed("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile / 'chromium'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"} | ({"performance": "ALL"} if requests else {}))
    # a home of its own: crash reports and certificates are kept there
    service = webdriver.ChromeService(driver_path, env=os.environ | {"HOME": str(profile)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost,127.0.0.1")  # the driver is on this machine, whatever proxy others go through
        driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def errors(driver: WebDriver) -> list[str]:
    """What the console called severe since the last call: uncaught exceptions, console.error, requests that failed."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def requested(driver: WebDriver) -> list[str]:
    """Addresses that the page asked for since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def leaving(urls: list[str], *, server: str = "") -> list[str]:
    """Those that leave this machine; `server` is the address of one that runs on it."""
    return [u for u in urls if urlsplit(u).scheme not in HERE and not (server and urlsplit(u).netloc == urlsplit(server).netloc)]


def until(ready: Callable[[], Any], *, seconds: float, what: str, every: float = 0.05) -> Any:
    """What `ready` returns once it is true. Raises: AssertionError, saying what was waited for."""
    end = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(every)
    return value


def screenshot(driver: WebDriver, path: Path, *, whole_page: bool = False) -> Path:
    """The window as PNG, or the page from top to bottom."""
    if whole_page:
        size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        told = {"width": int(size["width"]), "height": int(size["height"]), "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", told)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert driver.save_screenshot(str(path))
    if whole_page:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return path


@contextmanager
def jupyterlab(folder: Path, *, root: Path) -> Iterator[str]:
    """Address (with its token) of a JupyterLab of this very interpreter on the files of `root`; its settings and logs lie in `folder`."""
    for name, values in SETTINGS.items():
        file = folder / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
           "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
    environment = os.environ | {key: str(folder / name) for key, name in own.items()}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.allow_root=True", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
        f"--ServerApp.root_dir={root}", "--ServerApp.terminals_enabled=False", "--LanguageServerManager.autodetect=False",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = folder / "jupyterlab.log"
    with log.open("w", encoding="utf-8") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)

    def address() -> str:
        assert server.poll() is None, f"JupyterLab stopped: {log.read_text(encoding='utf-8')[-2000:]}"
        for file in (folder / "runtime").glob("jpserver-*.json"):
            told = json.loads(file.read_text(encoding="utf-8") or "{}")
            return f"{told['url']}lab/tree/{{}}?token={told['token']}" if told else ""
        return ""

    try:
        yield until(address, seconds=60, what="JupyterLab answers")
    finally:
        server.terminate()  # it ends its kernels itself
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
