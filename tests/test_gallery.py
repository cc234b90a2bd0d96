"""Executed notebooks as a website: nothing is loaded from anywhere, every picture is described, what failed says so."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
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
        if tag == "a" and "href" in told:
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


def test_a_picture_brings_its_words_or_is_called_by_the_heading_above_it(tmp_path):
    told = ({"image/png": {"alt": "Ranks <of> two"}}, {}, {"image/png": 7}, {"image/png": {"alt": ["a"]}})
    outputs = [new_output("display_data", data={"image/png": png()}, metadata=one) for one in told]
    notebook(tmp_path / "build", "10_a", new_markdown_cell("# A?"), new_markdown_cell("## Ranks"), new_code_cell("w", outputs=outputs))
    page = (gallery.make(tmp_path / "build", out=tmp_path / "site").parent / "10_a.html").read_text(encoding="utf-8")
    assert Reader(page).alts == ["Ranks <of> two", "Ranks", "Ranks", "Ranks"]


def test_a_chart_of_lines_stands_on_the_index_too(tmp_path):
    chart = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>'
    notebook(tmp_path / "build", "10_a", new_markdown_cell("# A?"), new_code_cell("w", outputs=[shown(**{"image_svg+xml": chart})]))
    index = gallery.make(tmp_path / "build", out=tmp_path / "site").read_text(encoding="utf-8")
    assert base64.b64encode(chart.encode()).decode() in index and "no picture" not in index


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


# ------------------------------------------------------------------------------------------------------- what others have put into a notebook


def built(tmp_path: Path, *cells, name: str = "10_a") -> str:
    """The page of a notebook of these cells."""
    notebook(tmp_path / "build", name, new_markdown_cell("# A?"), *cells)
    return (gallery.make(tmp_path / "build", out=tmp_path / "site").parent / f"{name}.html").read_text(encoding="utf-8")


def ran(*outputs):
    return new_code_cell("x = 1", outputs=list(outputs))


PIXEL = f"data:image/png;base64,{png()}"
HOSTILE = [
    '<meta http-equiv=refresh content="0;url=https://evil.example/">',
    "<scr<script></script>ipt>alert(2)</scr<script></script>ipt>",
    f'<img src="{PIXEL}" onload="alert(3)" onerror=alert(3)>',
    '<b onmouseover="alert(4)">b</b><table onclick=alert(4)><tr><td>1</td></tr></table>',
    '<a href="javascript:alert(5)">go</a><a href="java&#9;script:alert(5)">go</a><a href="data&#58;text/html,<b>x">go</a><a href="\x01file:///x">go</a>',
    '<form action="https://evil.example/"><button>send</button><input type=image src="https://evil.example/a.png"></form>',
    '<base href="https://evil.example/">',
    '<style>@import url(https://evil.example/a.css); #T_a { background: url(https://evil.example/) } body { color: red }</style>',
    '<style>#T_a td { color: red; } </style/><script>alert(9)</script>',
    '<p style="background:url(https://evil.example/a)">p</p><p style="color:\\75rl(//evil.example)">p</p><p style="position:fixed;inset:0">p</p>',
    f'<img src="{PIXEL}" srcset="https://evil.example/a.png 2x"><picture><source srcset="https://evil.example/b.png"></picture>',
    '<svg onload=alert(6)><script>alert(6)</script><use href="https://evil.example/a.svg#b"/></svg><math><mtext><style><img src=x onerror=alert(6)>',
    '<object data="https://evil.example/"></object><iframe srcdoc="<script>alert(7)</script>"></iframe><link rel=stylesheet href=//evil.example>',
    '<video poster="https://evil.example/a.png"></video><body background="https://evil.example/b.png"><td background="//evil.example/c">',
    '</article></main></div><main id="main"><h1>other</h1>',
    "<!--[if IE]><script>alert(8)</script><![endif]--><noscript><p title=\"</noscript><img src=x onerror=alert(8)>\"></noscript>",
]  # fmt: skip
TAGS = set(gallery.pages.TAGS) | {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "article", "section", "footer"}


class Strict(HTMLParser):
    """Fails on a tag, an attribute or an address that the pages do not need."""

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        assert tag in TAGS, tag
        assert not [name for name in told if name.startswith("on") or name in {"srcset", "action", "background", "poster", "srcdoc", "formaction"}]
        assert told.get("http-equiv", "Content-Security-Policy") == "Content-Security-Policy"
        assert tag != "img" or (told["src"].startswith("data:image/") and told["alt"].strip())
        assert tag != "a" or "href" not in told or re.match(r"(https?://|#|[^:]+$)", told["href"]), told
        assert not re.search(r"position|url|\\|expression", told.get("style", "")), told

    def handle_data(self, data):
        assert self.cdata_elem != "script"
        assert not (self.cdata_elem == "style" and re.search(r"evil|@import|url\(|body \{ color: red", data)), data


@pytest.mark.parametrize("way", ["output", "answer", "text", "card"])
@pytest.mark.parametrize("html", HOSTILE)
def test_what_runs_or_loads_or_leads_away_is_dropped(html, way, tmp_path):
    cell = {
        "output": lambda: ran(shown(text_html=html)), "answer": lambda: ran(shown(text_markdown=f"One.\n\n{html}")),
        "text": lambda: new_markdown_cell(html), "card": lambda: ran(shown(text_markdown=html)),
    }[way]()  # fmt: skip
    page = built(tmp_path, cell, ran(shown(text_plain="1")))
    for text in (page, (tmp_path / "site" / "index.html").read_text(encoding="utf-8")):
        Strict().feed(text)
        assert text.count('<main id="main">') == text.count("</main>") == 1


def test_tables_keep_their_look(tmp_path):
    table = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "<y>"]})
    styled = (
        table.style.background_gradient(subset="a", cmap="viridis").set_caption("Cap").set_table_styles([{"selector": "th", "props": "color: red"}])
    )
    html = styled.set_uuid("one").to_html()
    page = built(
        tmp_path, ran(shown(text_html=table._repr_html_())), ran(shown(text_html=html)), ran(shown(text_html='<p style="color: #123456">p</p>'))
    )
    for kept in ('class="dataframe"', "vertical-align: top", "text-align: right", "&lt;y&gt;", '<td class="data row0 col0" id="T_one_row0_col0">'):
        assert kept in page or kept.replace('class="data row0 col0" id="T_one_row0_col0"', 'id="T_one_row0_col0" class="data row0 col0"') in page, (
            kept
        )
    rules = "".join(re.findall(r"<style>(.*?)</style>", page, re.S)[1:])
    assert re.search(r"#T_one_row0_col0\s*\{[^}]*background-color: #440154", rules) and re.search(r"#T_one th\s*\{[^}]*color: red", rules)
    assert '<p style="color: #123456;' in page and "<caption>Cap</caption>" in page


@pytest.mark.parametrize("said", ['AAAA"><b id=out>', "not base64 at all!", "", base64.b64encode(b"root:x:0:0").decode()])
def test_a_picture_that_is_none_is_not_embedded(said, tmp_path):
    page = built(tmp_path, ran(shown(image_png=said)))
    assert "<img" not in page and "id=out" not in page and "a picture that cannot be read" in page


def test_every_kind_of_picture_is_embedded_with_its_own_type(tmp_path):
    raw = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(raw, "JPEG")
    svg = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    jpeg = base64.encodebytes(raw.getvalue()).decode()
    page = built(tmp_path, ran(shown(**{"image_jpeg": jpeg})), ran(shown(**{"image_svg+xml": svg})), ran(shown(**{"image_svg+xml": "<p>no</p>"})))
    kinds = dict(re.findall(r'<img src="data:image/([\w+]+);base64,([^"]+)" alt="A\?"', page))
    assert base64.b64decode(kinds["jpeg"]) == raw.getvalue() and base64.b64decode(kinds["svg+xml"]).decode() == svg
    assert page.count("<img") == 2 and "alert(1)" not in page and "a picture that cannot be read" in page
    assert 'src="data:image/jpeg' in (tmp_path / "site" / "index.html").read_text(encoding="utf-8"), "the card shows it"


def test_a_link_embeds_pictures_only_and_only_from_nearby(tmp_path):
    far, near = tmp_path / "far.png", tmp_path / "home" / "figures" / "a b.jpg"
    near.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(near)
    Image.new("RGB", (8, 8), "red").save(far)
    (near.parent / "secret.png").write_text("root:x:0:0:secret")
    (near.parent / "leads.png").symlink_to(far)
    links = [
        f"![x]({far})",
        "![x](../../far.png)",
        "![x](../figures/secret.png)",
        "![x](../figures/leads.png)",
        "![x](../figures)",
        "![x](../\x00.png)",
    ]
    page = built(tmp_path / "home", new_markdown_cell("\n\n".join([*links, "![kept](../figures/a%20b.jpg)", "![x](attachment:a.png)"])))
    assert Reader(page).alts == ["kept"] and base64.b64encode(near.read_bytes()).decode() in page and "data:image/jpeg" in page


ALTERED = [
    (lambda c: c[1].pop("outputs"), "cell 2: no outputs"),
    (lambda c: c[0].pop("source"), "cell 1: no source"),
    (lambda c: c[0].update(source=None), "cell 1: its source is no text"),
    (lambda c: c[1]["outputs"][0].pop("data"), "cell 2: its display_data has no data"),
    (lambda c: c[1]["outputs"][1].pop("ename"), "cell 2: its error has no ename"),
    (lambda c: c[1]["outputs"][2].pop("name"), "cell 2: its stream has no name"),
    (lambda c: c[1]["outputs"][2].update(text={}), "cell 2: the text of its stream is no text"),
    (lambda c: c[1]["outputs"][0]["data"].update({"text/html": {"a": 1}}), "cell 2: its text/html is no text"),
    (lambda c: c[1]["outputs"][0].update(data=[1]), "cell 2: the data of its display_data are no table"),
    (lambda c: c[1].update(outputs=None), "cell 2: its outputs are no list"),
    (lambda c: c.__setitem__(1, "cell"), "cell 2: no cell"),
    (lambda c: c[1]["outputs"].__setitem__(0, None), "cell 2: an output is no table"),
    (lambda c: c[1]["metadata"].update(tags=3), "TypeError"),
]  # fmt: skip


@pytest.mark.parametrize(("alter", "why"), ALTERED)
def test_a_malformed_notebook_is_a_card_and_the_rest_go_on(alter, why, tmp_path):
    outputs = [shown(text_plain="1"), new_output("error", ename="E", evalue="v", traceback=[]), new_output("stream", name="stdout", text="t")]
    file = notebook(tmp_path / "build", "10_a", new_markdown_cell("# A?"), ran(*outputs))
    notebook(tmp_path / "build", "20_b", new_markdown_cell("# B?"), ran(shown(text_plain="well")))
    raw = json.loads(file.read_text(encoding="utf-8"))
    alter(raw["cells"])
    file.write_text(json.dumps(raw), encoding="utf-8")
    index = gallery.make(tmp_path / "build", out=tmp_path / "site").read_text(encoding="utf-8")
    assert f"this notebook cannot be read: {why}" in index and "2 notebooks, 1 without an answer" in index
    assert "well" in (tmp_path / "site" / "20_b.html").read_text(encoding="utf-8")
    assert why in (tmp_path / "site" / "10_a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"nbformat": 4}', '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": {}}', "[" * 100_000, "\x00"]
)
def test_a_file_that_is_no_notebook_is_a_card(text, tmp_path):
    (tmp_path / "10_a.ipynb").write_text(text)
    assert "this notebook cannot be read: " in gallery.make(tmp_path, out=tmp_path / "site").read_text(encoding="utf-8")


def test_half_a_character_does_not_stop_the_site(tmp_path):
    file = notebook(tmp_path / "build", "10_a", new_markdown_cell("# HERE?"), ran(shown(text_plain="1")))
    file.write_text(file.read_text(encoding="utf-8").replace("HERE", "\\ud800"), encoding="utf-8")
    assert gallery.make(tmp_path / "build", out=tmp_path / "site").is_file()


def test_a_notebook_called_index_has_a_page_of_its_own(tmp_path):
    for name in ("index", "index_notebook", "Index"):
        notebook(tmp_path / "build", name, new_markdown_cell(f"# Who is {name}?"), ran(shown(text_plain=f"I am {name}.")))
    index = gallery.make(tmp_path / "build", out=tmp_path / "site").read_text(encoding="utf-8")
    links = Reader(index).links[1:]
    assert len(set(map(str.lower, links))) == 3 and "index.html" not in [link.lower() for link in links]
    assert {re.search(r"I am (\w+)\.", (tmp_path / "site" / link).read_text(encoding="utf-8"))[1] for link in links} == {
        "index",
        "index_notebook",
        "Index",
    }


def test_links_are_quoted(tmp_path):
    names = ["t_hash#1?x%41", "a:b", "ümlaut & more"]
    for name in names:
        notebook(tmp_path / "build" / "lr=1#", name, new_markdown_cell("# A?"), ran(shown(text_plain="1")))
    gallery.make(tmp_path / "build", out=tmp_path / "site")
    for path in (tmp_path / "site").rglob("*.html"):
        for link in Reader(path.read_text(encoding="utf-8")).links:
            parts = urlsplit(link)
            assert not parts.scheme and not parts.query, link
            assert not parts.path or (path.parent / unquote(parts.path)).is_file(), link
    assert "lr=1%23/t_hash%231%3Fx%2541.html" in Reader((tmp_path / "site" / "index.html").read_text(encoding="utf-8")).links
