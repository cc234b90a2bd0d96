"""Executed notebooks as a website: nothing is loaded from anywhere, every picture is described, what failed says so."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from asapkit import gallery
from asapkit.types import Refused

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data", "embed": "src", "video": "src"}


class Reader(HTMLParser):
    """What a page loads, its pictures' words, its links, headings and language."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded, self.alts, self.links, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.tags.append(tag)
        if tag in LOADED:
            self.loaded.append((tag, told.get(LOADED[tag]) or told.get("srcset") or ""))
        if tag == "img":
            self.alts.append(told.get("alt", ""))
        if tag == "a":
            self.links.append(told["href"])


def png(colour: int = 90) -> str:
    raw = io.BytesIO()
    Image.fromarray(np.full((60, 90, 3), colour, np.uint8)).save(raw, "PNG")
    return base64.b64encode(raw.getvalue()).decode()


def shown(*, kind: str = "display_data", **data):
    return new_output(kind, data={key.replace("_", "/", 1): value for key, value in data.items()})


def notebook(folder: Path, name: str, *cells, record: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), folder / f"{name}.ipynb")
    if record:
        (folder / f"{name}.json").write_text(json.dumps(record))
    return folder / f"{name}.ipynb"


@pytest.fixture
def executed(tmp_path) -> Path:
    folder = tmp_path / "build"
    answer = "K is **0.1** (-0.03 to 0.23), e.g. no larger. It is <small>."
    notebook(
        folder, "10_first",
        new_markdown_cell("# Is one & one two?\n\n![](../figures/10_first.png)\n\n![logo](https://example.org/logo.png)"),
        new_code_cell("scale = 'toy'", metadata={"tags": ["parameters"]}),
        new_code_cell("figure", outputs=[shown(image_png=png(), text_plain="<Picture>"), new_output("stream", name="stderr", text="50%|##")]),
        new_markdown_cell("## Rows <script src='https://example.org/x.js'></script>"),
        new_code_cell("table", outputs=[
            shown(text_html="<table><tr><td>1</td></tr></table><script>alert(1)</script><img src='http://example.org/a.png'>", text_plain="1"),
            shown(text_html="<iframe src=//example.org></iframe><p>kept</p>", text_plain="x"),
        ]),
        new_code_cell("answer", outputs=[shown(text_markdown=answer, text_plain="Markdown")]),
        record={"finished": "2030-01-01 10:00:00", "seconds": 12.4, "asapkit": "0.1.0"},
    )  # fmt: skip
    failed = new_output("error", ename="ValueError", evalue="no <patch>", traceback=["\x1b[31mlong"])
    notebook(folder / "lr=1", "20_second", new_markdown_cell("# Why?"), new_code_cell("1 / 0", outputs=[failed]))
    notebook(folder / "lr=1", "30_third", new_markdown_cell("# When?"), new_code_cell("1"))
    (folder / "40_fourth.ipynb").write_text('{"cells": [')
    notebook(folder / ".ipynb_checkpoints", "50_hidden", new_markdown_cell("# Never?"))
    return folder


@pytest.fixture
def site(executed, tmp_path) -> Path:
    return gallery.make(executed, out=tmp_path / "site").parent


def test_nothing_is_loaded_from_anywhere(site):
    written = sorted(site.rglob("*.html"))
    assert [p.relative_to(site).as_posix() for p in written] == [
        "10_first.html", "40_fourth.html", "index.html", "lr=1/20_second.html", "lr=1/30_third.html",
    ]  # fmt: skip
    for path in written:
        text = path.read_text(encoding="utf-8")
        read = Reader(text)
        assert all(tag == "img" and target.startswith("data:image/") for tag, target in read.loaded), read.loaded
        assert "default-src 'none'" in text and "script" not in read.tags
        assert not re.search(r"url\(|@import", text)


def test_every_picture_is_described_and_every_link_leads_somewhere(site):
    for path in site.rglob("*.html"):
        read = Reader(path.read_text(encoding="utf-8"))
        assert all(alt.strip() for alt in read.alts)
        assert read.tags.count("h1") == 1 and read.tags.count("main") == 1
        for link in read.links:
            assert link.startswith(("#", "https://example.org")) or (path.parent / link).is_file(), link


def test_a_card_holds_the_first_picture_the_title_and_the_answers_first_sentence(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "Is one &amp; one two?" in index
    assert "<p>K is <strong>0.1</strong> (-0.03 to 0.23), e.g. no larger.</p>" in index and "It is" not in index
    assert "2030-01-01 10:00:00, 12 s, asapkit 0.1.0" in index
    (small,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="First picture of: Is one &amp; one two\?"', index)
    assert Image.open(io.BytesIO(base64.b64decode(small))).size == (90, 60)


def test_what_failed_or_never_ran_or_is_damaged_says_so(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "4 notebooks, 3 without an answer" in index
    for said in ("stopped by an error: ValueError", "not executed yet", "this notebook cannot be read", "<h2>lr=1</h2>"):
        assert said in index
    page = (site / "lr=1" / "20_second.html").read_text(encoding="utf-8")
    assert "<b>ValueError</b>: no &lt;patch&gt;" in page and "\x1b" not in page
    assert 'href="../index.html"' in page and 'href="../10_first.html"' not in page, "order is by folder and name"


def test_code_is_folded_and_progress_and_repeated_figures_are_left_out(site):
    page = (site / "10_first.html").read_text(encoding="utf-8")
    assert "<summary>parameters</summary>" in page and "<summary>code</summary>" in page
    assert "50%|" not in page and "alert(1)" not in page and "<p>kept</p>" in page
    assert page.count("<img") == 1


def test_a_widget_is_named_and_its_static_twin_preferred(tmp_path):
    view = {gallery.WIDGET: {"model_id": "a"}, "text/plain": "VBox()"}
    bar = {gallery.WIDGET: {"model_id": "b"}, "text/plain": "reading:  40%|####"}
    outputs = [new_output("display_data", data=d) for d in (view, bar, {"application/vnd.plotly.v1+json": {"data": []}, "image/png": png()})]
    notebook(tmp_path / "build", "10_a", new_markdown_cell("# A?"), new_code_cell("w", outputs=outputs))
    page = (gallery.make(tmp_path / "build", out=tmp_path / "site").parent / "10_a.html").read_text(encoding="utf-8")
    assert page.count("open the notebook in JupyterLab") == 1 and page.count("<img") == 1 and "plotly" not in page


def test_the_committed_figure_stands_in_where_a_notebook_has_no_picture(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "10_a.png").write_bytes(base64.b64decode(png()))
    notebook(tmp_path / "build", "10_a", new_markdown_cell("# A?\n\n![](../figures/10_a.png)"), new_code_cell("1", outputs=[shown(text_plain="1")]))
    page = (gallery.make(tmp_path / "build", out=tmp_path / "site").parent / "10_a.html").read_text(encoding="utf-8")
    assert Reader(page).alts == ["10_a"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The AUROC is .65 (.60 to .70). Second.", "The AUROC is .65 (.60 to .70)."),
        ("Of 4 runs **3 finished**. **asap** leads.", "Of 4 runs **3 finished**."),
        ("It takes 1.5 s a step, e.g. here", "It takes 1.5 s a step, e.g. here"),
        ("Patient A. Smith has none. Next.", "Patient A. Smith has none."),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_where_a_sentence_does(text, first):
    assert gallery.first_sentence(text) == first


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(Refused, match="no executed notebooks there; run make notebooks"):
        gallery.make(tmp_path, out=tmp_path / "site")
    assert not (tmp_path / "site").exists()
