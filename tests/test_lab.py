"""JupyterLab and the HTML pages in a real browser: notebook 32 is opened, run, a slice moved, a sentence clicked; nothing breaks, nothing leaves.

`--screenshots DIR` keeps the pictures there; otherwise they stay in pytest's own folder.
"""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from datetime import datetime
from pathlib import Path

import browser
import pytest
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from asapkit import evidence, workflow

pytestmark = pytest.mark.slow
NAME, SPECTRA = "32_sentence_to_patches", "31_effective_rank"
SENTENCE, SLICE, PATCHES = ".asapkit-sentence", ".asapkit-slice", ".asapkit-patches"
RUN_SECONDS, CHANGE_SECONDS = 120, 15  # waited for at most, on a machine that does other things as well

STATE = """
const panel = window.jupyterapp?.shell.currentWidget, cells = panel?.content?.model?.cells;
if (!cells?.length) return null;
const code = [...cells].map(c => c.toJSON()).filter(c => c.cell_type === "code");
return {path: panel.context.path, kernel: panel.sessionContext?.session?.kernel?.status, code};
"""
SCROLL = """
const content = window.jupyterapp.shell.currentWidget.content;
content.scrollToItem([...content.widgets].findIndex(c => c.model.sharedModel.source.includes(arguments[0])), "start");
"""  # a cell out of sight is not on the page
DIRTY = "return window.jupyterapp.shell.currentWidget.context.model.dirty"
WATCH_FIRST = """
const seen = new MutationObserver(async () => {
  const picture = document.querySelector(".jp-OutputArea-output img");
  if (picture?.src) { seen.disconnect(); await picture.decode(); window.firstPicture = Date.now(); }
});
seen.observe(document.body, {subtree: true, childList: true, attributeFilter: ["src"]});
"""
WATCH_CHANGE = """
const picture = arguments[0]; let from = null; window.tookMs = null;
for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => { from ??= performance.now(); }, {capture: true, once: true});
const seen = new MutationObserver(async () => { seen.disconnect(); await picture.decode(); window.tookMs = performance.now() - from; });
seen.observe(picture, {attributeFilter: ["src"]});
"""
BYTES = """
const [picture, done] = arguments, reader = new FileReader();
reader.onload = () => done(reader.result.split(",")[1]);
fetch(picture.src).then(answer => answer.blob()).then(blob => reader.readAsDataURL(blob));
"""


@pytest.fixture(scope="module")
def pictures(request, tmp_path_factory) -> Path:
    """Where screenshots are kept."""
    given = request.config.getoption("--screenshots")
    return Path(given).resolve() if given else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def work(root, tmp_path_factory) -> Path:
    """A folder as a user has it: notebooks/ and figures/, with a toy store and runs where notebook 32 looks for them."""
    browser.installed("chromium"), browser.installed("chromedriver")  # before the minutes that follow
    folder = tmp_path_factory.mktemp("work")
    for name in ("notebooks", "figures"):
        shutil.copytree(root / name, folder / name)
    for path in (folder / "notebooks" / f"{name}.ipynb" for name in (NAME, SPECTRA)):
        write_ipynb(parameterize_notebook(load_notebook_node(str(path)), {"scale": "toy"}), str(path))
    evidence.ready_runs(folder / "notebooks" / "build", scale="toy")
    return folder


def click_menu(driver, *, menu: str, item: str) -> None:
    """What a hand does with JupyterLab's menu bar."""
    bar = browser.until(lambda: named(driver, ".lm-MenuBar-itemLabel", menu), seconds=20, what=f"menu {menu}")
    bar.click()
    browser.until(lambda: named(driver, ".lm-Menu-itemLabel", item), seconds=20, what=f"menu {menu}, {item}").click()


def named(driver, css: str, text: str):
    return next((e for e in driver.find_elements(By.CSS_SELECTOR, css) if e.is_displayed() and e.text == text), None)


def open_notebook(driver, address: str, name: str) -> None:
    """And waits until it is in front: a page first shows again what was open before."""
    driver.get(address.format(f"notebooks/{name}.ipynb"))

    def in_front() -> bool:
        return (driver.execute_script(STATE) or {}).get("path", "").endswith(f"{name}.ipynb")

    browser.until(in_front, seconds=60, what=f"notebook {name} is open")


def run_all(driver) -> dict:
    """Run > Run All Cells, and the notebook's code cells once all have run. Raises: AssertionError if one of them failed."""
    browser.until(lambda: (driver.execute_script(STATE) or {}).get("kernel") == "idle", seconds=60, what="the kernel is ready")
    driver.execute_script(WATCH_FIRST)
    click_menu(driver, menu="Run", item="Run All Cells")

    def finished() -> list[dict] | None:
        state = driver.execute_script(STATE)
        failed = [o for c in state["code"] for o in c["outputs"] if o["output_type"] == "error"]
        assert not failed, f"{failed[0]['ename']}: {failed[0]['evalue']}"
        ran = all(c["execution_count"] for c in state["code"] if "".join(c["source"]).strip())
        return state["code"] if ran and state["kernel"] == "idle" else None

    return browser.until(finished, seconds=RUN_SECONDS, what="every cell has run", every=0.2)


def first_picture_ms(driver, code: list[dict]) -> float:
    """Milliseconds between the start of the first cell that shows a picture and the picture on the screen."""
    cell = next(c for c in code if any("image/png" in o.get("data", {}) for o in c["outputs"]))
    begun = datetime.fromisoformat(cell["metadata"]["execution"]["iopub.execute_input"])
    return driver.execute_script("return window.firstPicture") - begun.timestamp() * 1000


class Explorer:
    """The widget of notebook 32 as it stands on the page."""

    def __init__(self, driver):
        self.driver = driver
        first = browser.until(lambda: driver.find_elements(By.CSS_SELECTOR, SENTENCE), seconds=20, what="sentences to click")[0]
        self.output = first.find_element(By.XPATH, "ancestor::div[contains(@class, 'jp-OutputArea-output')]")
        driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", self.output)

    def all(self, css: str) -> list:
        return [e for e in self.output.find_elements(By.CSS_SELECTOR, css) if e.is_displayed()]

    @property
    def picture(self):
        return self.all("img")[0]

    def png(self) -> bytes:
        return b64decode(self.driver.execute_async_script(BYTES, self.picture))

    def slices(self) -> list[str]:
        """What the sliders read."""
        return [e.text for e in self.all(f"{SLICE} .widget-readout")]

    def press(self, key: str) -> None:
        """A key on the handle of the first slider."""
        handle = self.all(f"{SLICE} .noUi-handle")[0]
        ActionChains(self.driver).click(handle).send_keys(key).perform()

    def say(self, sentence: str) -> None:
        field = self.all(".asapkit-typed input")[0]
        field.clear()
        field.send_keys(sentence, Keys.ENTER)

    def patches(self) -> list[str]:
        """Where the listed patches lie, without how similar they are."""
        return re.findall(r"x +-?\d+ +y +-?\d+ +z +-?\d+ mm", self.all(PATCHES)[0].text)

    def after(self, act) -> float:
        """Milliseconds between a hand's `act` and another picture on the screen."""
        before = self.png()
        self.driver.execute_script(WATCH_CHANGE, self.picture)
        act()
        took = browser.until(lambda: self.driver.execute_script("return window.tookMs"), seconds=CHANGE_SECONDS, what="another picture")
        assert self.png() != before
        return took


@pytest.fixture(scope="module")
def lab(work, tmp_path_factory):
    """Notebook 32 open in JupyterLab, run and saved: the browser, the server's address, the code cells as they ran."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.jupyterlab(folder, root=work) as address, browser.chromium(folder, width=1500, height=1100, requests=True) as driver:
        open_notebook(driver, address, NAME)
        code = run_all(driver)
        click_menu(driver, menu="File", item="Save Notebook")
        browser.until(lambda: not driver.execute_script(DIRTY), seconds=20, what="the notebook is saved")
        yield driver, address, code


def test_a_sentence_moves_the_patches_and_a_slider_the_slice(lab, pictures):
    driver, address, code = lab
    assert not [o for c in code for o in c["outputs"] if o.get("name") == "stderr" and "Warning" in o["text"]]
    times = {"first_picture_ms": first_picture_ms(driver, code)}
    explorer = Explorer(driver)
    browser.screenshot(driver, pictures / "lab_1_first.png")
    patches, sentences = explorer.patches(), explorer.all(SENTENCE)
    assert patches
    assert len(sentences) > 1

    times["slice_ms"] = explorer.after(lambda: explorer.press(Keys.ARROW_RIGHT))
    assert explorer.patches() == patches, "another slice, the same patches"
    browser.screenshot(driver, pictures / "lab_2_slice.png")

    for sentence in reversed(sentences):  # two sentences may take the same patches, at this size and after four steps
        times["sentence_ms"] = explorer.after(sentence.click)
        if explorer.patches() != patches:
            break
    assert explorer.patches() != patches, "no other sentence takes other patches"
    (pictures / "lab_times.json").write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    browser.screenshot(driver, pictures / "lab_3_sentence.png")

    at = explorer.slices()
    explorer.after(lambda: explorer.press(Keys.END))
    assert explorer.slices() != at
    explorer.after(explorer.all(f"{PATCHES} option")[0].click)
    assert explorer.slices() == at, "a row of the list jumps back to its patch"
    explorer.after(lambda: ActionChains(driver).move_to_element_with_offset(explorer.picture, -200, 20).click().perform())
    browser.screenshot(driver, pictures / "lab_4_clicked.png")

    explorer.say("of the and")
    browser.until(lambda: "only stop words" in explorer.output.text, seconds=CHANGE_SECONDS, what="why nothing is found")
    browser.screenshot(driver, pictures / "lab_5_refused.png")
    assert not browser.errors(driver)
    assert not browser.leaving(browser.requested(driver), server=address)


def test_the_charts_of_spectra_say_their_values_under_the_pointer(lab, pictures):
    driver, address, _ = lab
    open_notebook(driver, address, SPECTRA)
    run_all(driver)
    driver.execute_script(SCROLL, "explore.ranks(")
    dots = ".js-plotly-plot .scatterlayer .trace .point"
    browser.until(lambda: driver.find_elements(By.CSS_SELECTOR, dots), seconds=CHANGE_SECONDS, what="a chart with dots")

    def under_the_pointer() -> str:
        ActionChains(driver).move_to_element(driver.find_element(By.CSS_SELECTOR, dots)).perform()
        return " ".join(e.text for e in driver.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))

    told = browser.until(under_the_pointer, seconds=CHANGE_SECONDS, what="values under the pointer")
    assert re.search(r"layer \d", told) and re.search(r"0\.\d+", told), told
    driver.execute_script("arguments[0].scrollIntoView({block: 'end'})", driver.find_element(By.CSS_SELECTOR, ".js-plotly-plot"))
    browser.screenshot(driver, pictures / "lab_6_ranks.png")
    driver.execute_script(SCROLL, "explore.spectra(")
    curves = ".js-plotly-plot .scatterlayer .js-line"
    browser.until(lambda: len(driver.find_elements(By.CSS_SELECTOR, curves)) >= 6, seconds=CHANGE_SECONDS, what="curves of three encoders")
    browser.screenshot(driver, pictures / "lab_7_spectra.png")
    assert not browser.errors(driver)
    assert not browser.leaving(browser.requested(driver), server=address)


def test_an_executed_page_needs_no_network(lab, work, root, pictures, tmp_path):
    """The HTML of an executed notebook, opened as a file: no error in the console, and nothing asked for beyond the file itself."""
    notebook = shutil.copy(work / "notebooks" / f"{NAME}.ipynb", tmp_path)
    page = workflow.export_html(Path(notebook), pictures_from=root / "notebooks")
    with browser.chromium(tmp_path, requests=True) as driver:
        driver.get(page.as_uri())
        shown = "return [...document.images].map(i => i.complete && i.naturalWidth > 0)"
        browser.until(lambda: all(driver.execute_script(shown)), seconds=30, what="every picture is shown")
        assert len(driver.execute_script(shown)) >= 4, "the figure of the first cell and those of the notebook"
        browser.screenshot(driver, pictures / "page.png", whole_page=True)
        assert not browser.errors(driver)
        urls = browser.requested(driver)
        assert urls, "the log of requests holds the page itself"
        assert not browser.leaving(urls)
