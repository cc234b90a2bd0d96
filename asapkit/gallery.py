"""Executed notebooks as a website in a folder: an index of thumbnails, a page per notebook. No script, no request: pictures lie in the pages.

    make("build", out="build/gallery")

Open index.html, or copy the folder to any web server.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from asapkit import pages
from asapkit.types import Refused

THUMBNAIL = (640, 400)  # pixels, at most
LINK = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass
class Page:
    """One executed notebook. `path`: where its page lies in the site; `blocks`: its cells as HTML; `fault`: why it has no answer."""

    path: Path
    title: str
    group: str = ""
    answer: str = ""
    fault: str = ""
    note: str = ""
    picture: bytes | None = None
    blocks: list[str] = field(default_factory=list)


def make(folder: str | Path, *, out: str | Path, title: str = "asapkit: questions and answers") -> Path:
    """Writes the site of all executed notebooks below `folder` into `out` and returns its index.html; nothing else in `out` is touched.

    A notebook that failed or cannot be read has a card that says so. Raises: Refused where there is no notebook.
    """
    source, out = Path(folder), Path(out)
    files = sorted(p for p in source.rglob("*.ipynb") if not any(part.startswith(".") for part in p.relative_to(source).parts))
    if not files:
        raise Refused(f"{source}: no executed notebooks there; run make notebooks, or asapkit run NOTEBOOK --out {source}")
    made = [read(file, path=file.relative_to(source).with_suffix(".html")) for file in files]
    for number, page in enumerate(made):
        before, after = (made[n] if 0 <= n < len(made) else None for n in (number - 1, number + 1))
        _write(out / page.path, pages.notebook(page, up=os.path.relpath("index.html", page.path.parent), before=before, after=after))
    cards = [(page, thumbnail(page.picture) if page.picture else "") for page in made]
    return _write(out / "index.html", pages.index(cards, title=title))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def thumbnail(picture: bytes) -> str:
    """A small copy of a PNG as a data address; empty where it is no picture."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
    except OSError:
        return ""
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    small = io.BytesIO()
    image.save(small, format="JPEG", quality=85, optimize=True)
    return _data(small.getvalue(), "jpeg")


def _data(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


# --------------------------------------------------------------------------------------------------------------------- one notebook


def read(file: Path, *, path: Path) -> Page:
    """An executed notebook as a page; what cannot be read is a page that says so."""
    import nbformat

    group = "" if path.parent == Path() else path.parent.as_posix()
    try:
        cells = nbformat.read(file, as_version=4).cells
    except Exception as error:  # nbformat raises a dozen kinds for a file that is none of its own
        return Page(path, file.stem, group, fault=f"this notebook cannot be read ({type(error).__name__})")
    texts = [c.source for c in cells if c.cell_type == "markdown"]
    named = next((m.group(1) for t in texts if (m := re.search(r"^#\s+(.+)$", t, re.M))), file.stem.replace("_", " "))
    page = Page(path, named.strip(), group, note=_record(file.with_suffix(".json")))
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    page.picture = next(iter(_pngs(outputs)), None)
    broken = next((o for o in outputs if o.output_type == "error"), None)
    if broken is not None:
        page.fault = f"stopped by an error: {broken.ename}"
    elif not outputs:
        page.fault = "not executed yet"
    said = [o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    page.answer = "" if page.fault or not said else first_sentence(_joined(said[-1]))
    heading = page.title
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^##+\s+(.+)$", cell.source, re.M)), heading)
            page.blocks.append(_markdown(cell.source, beside=file.parent, figures=page.picture is None))
        elif cell.cell_type == "code":
            page.blocks.append(_code(cell, heading))
    return page


def _record(file: Path) -> str:
    """What the runner wrote beside a finished notebook: when, how long, which version."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return f"{said['finished']}, {said['seconds']:.0f} s, asapkit {said['asapkit']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence: a capital follows, and no number or initial stands before."""
    plain = " ".join(text.split())
    end = re.search(r"(?<![ (][A-Za-z])(?<!e\.g)(?<!i\.e)(?<!vs)[.!?](?=[)*\"”]*(?:\s+(?:\*\*|[\"“(]*[A-Z0-9])|$))[)*\"”]*", plain)
    return plain[: end.end()] if end else plain


def _joined(text) -> str:
    return "".join(text) if isinstance(text, list) else text


def _pngs(outputs) -> list[bytes]:
    found = []
    for output in outputs:
        if "image/png" in output.get("data", {}):
            try:
                found.append(base64.b64decode(_joined(output.data["image/png"]), validate=False))
            except ValueError:
                continue
    return found


def _markdown(text: str, *, beside: Path, figures: bool) -> str:
    """A text cell. Pictures that it links to are put into the page; those of ../figures only where the notebook has none of its own."""
    from nbconvert.filters import markdown2html

    def put(link: re.Match) -> str:
        words, target = link.groups()
        if re.match(r"[a-z]+:", target):
            return link.group(0) if target.startswith("data:") else f"[{words or 'picture'}]({target})"
        file = beside / target
        if not file.is_file() or ("figures/" in target and not figures):
            return ""
        return f"![{words or file.stem}]({_data(file.read_bytes(), 'png')})"

    return f'<section class="text">{without_requests(markdown2html(LINK.sub(put, text)))}</section>'


def _code(cell, heading: str) -> str:
    """A code cell: its outputs, and its source folded away."""
    from nbconvert.filters import Highlight2HTML

    tags = cell.metadata.get("tags", [])
    name = "parameters" if "parameters" in tags else "parameters of this run" if "injected-parameters" in tags else "code"
    source = Highlight2HTML()(cell.source, language="python") if cell.source.strip() else ""
    folded = f"<details><summary>{name}</summary>{source}</details>" if source else ""
    return folded + "".join(_output(o, heading) for o in cell.outputs)


def _output(output, heading: str) -> str:
    from nbconvert.filters import markdown2html

    if output.output_type == "error":
        return f'<p class="fault" role="alert"><b>{escape(output.ename)}</b>: {escape(output.evalue)}</p>'
    if output.output_type == "stream":
        return f"<pre>{escape(_joined(output.text))}</pre>" if output.name == "stdout" else ""  # progress bars go to the other one
    data = {kind: _joined(value) for kind, value in output.data.items() if kind.startswith(("text/", "image/"))}
    if WIDGET in output.data and "image/png" not in data:
        if re.search(r"\d%\|", data.get("text/plain", "")):
            return ""  # a progress bar
        return '<p class="aside">A widget: open the notebook in JupyterLab to use it.</p>'
    if "image/png" in data:
        return f'<figure><img src="data:image/png;base64,{"".join(data["image/png"].split())}" alt="{escape(heading)}"></figure>'
    if "text/markdown" in data:
        return f'<section class="answer">{without_requests(markdown2html(data["text/markdown"]))}</section>'
    if "text/html" in data:
        return f'<div class="wide" tabindex="0" role="region" aria-label="table">{without_requests(data["text/html"])}</div>'
    return f"<pre>{escape(data['text/plain'])}</pre>" if "text/plain" in data else ""


LOADING = re.compile(r"<(script|iframe|object|embed|link|video|audio|source)\b[^>]*>(?:.*?</\1\s*>)?", re.I | re.S)
ELSEWHERE = re.compile(r"<img\b(?![^>]*\bsrc\s*=\s*[\"']?\s*data:)[^>]*>", re.I)


def without_requests(html: str) -> str:
    """HTML without what would load or run something: scripts, frames, players, styles and pictures from elsewhere."""
    return ELSEWHERE.sub("", LOADING.sub("", html))
