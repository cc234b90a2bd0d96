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
from urllib.parse import unquote

from asapkit import pages
from asapkit.pages import data_address, picture_kind, rendered, sanitised
from asapkit.types import Refused

THUMBNAIL = (640, 400)  # pixels, at most
LINK = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")  # the first that an output has is shown
NEEDED = {"error": ("ename", "evalue"), "stream": ("name", "text"), "display_data": ("data",), "execute_result": ("data",)}
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
    files = sorted(p for p in source.rglob("*.ipynb") if p.is_file() and not _hidden(p.relative_to(source)))
    if not files:
        raise Refused(f"{source}: no executed notebooks there; run make notebooks, or asapkit run NOTEBOOK --out {source}")
    made = [read(file, path=place) for file, place in zip(files, _places([file.relative_to(source) for file in files]), strict=True)]
    for number, page in enumerate(made):
        before, after = (made[n] if 0 <= n < len(made) else None for n in (number - 1, number + 1))
        _write(out / page.path, pages.notebook(page, up=os.path.relpath("index.html", page.path.parent), before=before, after=after))
    cards = [(page, thumbnail(page.picture) if page.picture else "") for page in made]
    return _write(out / "index.html", pages.index(cards, title=title))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _places(notebooks: list[Path]) -> list[Path]:
    """Where each notebook's page lies: beside its name, but never on the index."""
    wanted = [path.with_suffix(".html") for path in notebooks]
    taken = {path.as_posix().lower() for path in wanted} | {"index.html"}
    placed = []
    for path in wanted:
        if path.as_posix().lower() == "index.html":
            while path.as_posix().lower() in taken:
                path = path.with_stem(f"{path.stem}_notebook")
            taken.add(path.as_posix().lower())
        placed.append(path)
    return placed


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="replace")
    part.replace(path)
    return path


def thumbnail(picture: bytes) -> str:
    """A small copy of a picture as a data address, one of lines as it is; empty where it is none."""
    from PIL import Image

    if picture_kind(picture) == "svg+xml":
        return data_address(picture)
    try:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    small = io.BytesIO()
    image.save(small, format="JPEG", quality=85, optimize=True)
    return data_address(small.getvalue())


# --------------------------------------------------------------------------------------------------------------------- one notebook


def read(file: Path, *, path: Path) -> Page:
    """An executed notebook as a page; what cannot be read is a page that says so, and why."""
    group = "" if path.parent == Path() else path.parent.as_posix()
    try:
        return _page(file, Page(path, file.stem.replace("_", " "), group, note=_record(file.with_suffix(".json"))))
    except Refused as error:
        why = str(error)
    except json.JSONDecodeError as error:
        why = f"it is no JSON ({error})"
    except Exception as error:  # nbformat raises a dozen kinds for a file that is none of its own
        why = type(error).__name__
    return Page(path, file.stem, group, fault=f"this notebook cannot be read: {why}")


def _page(file: Path, page: Page) -> Page:
    import nbformat

    text = file.read_text(encoding="utf-8")
    _check(json.loads(text))
    cells = nbformat.reads(text, as_version=4).cells
    named = (re.search(r"^#\s+(.+)$", c.source, re.M) for c in cells if c.cell_type == "markdown")
    page.title = next((m.group(1).strip() for m in named if m), page.title)
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    page.picture = next(filter(None, (_picture(o.get("data", {}))[1] for o in outputs)), None)
    broken = next((o for o in outputs if o.output_type == "error"), None)
    if broken is not None:
        page.fault = f"stopped by an error: {broken.ename}"
    elif not outputs:
        page.fault = "not executed yet"
    said = [o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    page.answer = "" if page.fault or not said else first_sentence(_joined(said[-1]))
    for cell, heading in pages.headed(cells):
        if cell.cell_type == "markdown":
            page.blocks.append(_markdown(cell.source, beside=file.parent, figures=page.picture is None))
        elif cell.cell_type == "code":
            page.blocks.append(_code(cell, heading))
    return page


def _check(raw) -> None:
    """Raises: Refused where a notebook of today's format lacks what its page needs; nbformat itself lets that pass, and converts older ones."""
    if not isinstance(raw, dict) or "nbformat" not in raw:
        raise Refused("it is no notebook")
    if raw["nbformat"] != 4:
        return
    if not isinstance(raw.get("cells"), list):
        raise Refused("it has no list of cells")
    for number, cell in enumerate(raw["cells"], 1):
        if fault := _fault(cell):
            raise Refused(f"cell {number}: {fault}")


def _fault(cell) -> str:
    """What is wrong with a cell, in words; empty where nothing is."""
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return "no cell"
    for name in ("source", "outputs") if cell["cell_type"] == "code" else ("source",):
        if name not in cell:
            return f"no {name}"
    if not _is_text(cell["source"]):
        return "its source is no text"
    if cell["cell_type"] != "code":
        return ""
    if not isinstance(cell["outputs"], list):
        return "its outputs are no list"
    return next(filter(None, map(_output_fault, cell["outputs"])), "")


def _output_fault(output) -> str:
    if not isinstance(output, dict) or not isinstance(output.get("output_type"), str):
        return "an output is no table"
    kind = output["output_type"]
    for name in NEEDED.get(kind, ()):
        if name not in output:
            return f"its {kind} has no {name}"
        if name != "data" and not _is_text(output[name]):
            return f"the {name} of its {kind} is no text"
    if not isinstance(output.get("data", {}), dict):
        return f"the data of its {kind} are no table"
    return next((f"its {mime} is no text" for mime, value in output.get("data", {}).items() if _readable(mime) and not _is_text(value)), "")


def _readable(mime: str) -> bool:
    return mime.startswith(("text/", "image/")) and not mime.endswith("+json")


def _is_text(value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


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


def _told(output, mime: str) -> str:
    """The words that a picture brings for those who do not see it."""
    for key in ("metadata", mime, "alt"):
        output = output.get(key) if isinstance(output, dict) else None
    return output if isinstance(output, str) else ""


def _picture(data) -> tuple[str, bytes | None]:
    """The kind of picture that an output offers, and its bytes where they are one."""
    mime = next((kind for kind in SHOWN if kind in data), "")
    text = _joined(data.get(mime, ""))
    try:
        picture = text.encode() if mime == "image/svg+xml" else base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return mime, None
    return mime, picture if picture_kind(picture) else None


def _markdown(text: str, *, beside: Path, figures: bool) -> str:
    """A text cell. Pictures that it links to are put into the page; those of ../figures only where the notebook has none of its own."""

    def put(link: re.Match) -> str:
        words, target = link.groups()
        if re.match(r"[a-z]+:", target, re.I):
            return link.group(0) if target.lower().startswith("data:") else f"[{words or 'picture'}]({target})"
        file = beside / unquote(target)
        picture = b"" if "figures/" in target and not figures else _nearby(file, beside.resolve().parent)
        return f"![{words or file.stem}]({data_address(picture)})" if picture else ""

    return f'<section class="text">{rendered(LINK.sub(put, text))}</section>'


def _nearby(file: Path, below: Path) -> bytes:
    """A picture that lies, links followed, in the folder `below` or deeper; nothing where it does not, or is no picture."""
    try:
        found = file.resolve()
        picture = found.read_bytes() if found.is_relative_to(below) and found.is_file() else b""
    except (OSError, ValueError, RuntimeError):  # no right to read, a character that no name has, links in a circle
        return b""
    return picture if picture_kind(picture) else b""


def _code(cell, heading: str) -> str:
    """A code cell: its outputs, and its source folded away."""
    from nbconvert.filters import Highlight2HTML

    tags = cell.metadata.get("tags", [])
    name = "parameters" if "parameters" in tags else "parameters of this run" if "injected-parameters" in tags else "code"
    source = Highlight2HTML()(cell.source, language="python") if cell.source.strip() else ""
    folded = f"<details><summary>{name}</summary>{source}</details>" if source else ""
    return folded + "".join(_output(o, heading) for o in cell.outputs)


def _output(output, heading: str) -> str:
    if output.output_type == "error":
        return f'<p class="fault" role="alert"><b>{escape(_joined(output.ename))}</b>: {escape(_joined(output.evalue))}</p>'
    if output.output_type == "stream":
        return f"<pre>{escape(_joined(output.text))}</pre>" if output.name == "stdout" else ""  # progress bars go to the other one
    data = {kind: _joined(value) for kind, value in output.get("data", {}).items() if _readable(kind)}
    mime, picture = _picture(data)
    if WIDGET in output.get("data", {}) and not mime:
        if re.search(r"\d%\|", data.get("text/plain", "")):
            return ""  # a progress bar
        return '<p class="aside">A widget: open the notebook in JupyterLab to use it.</p>'
    if picture:
        return f'<figure><img src="{data_address(picture)}" alt="{escape(_told(output, mime) or heading)}"></figure>'
    if mime:
        return f'<p class="fault">Here was a picture that cannot be read ({mime}).</p>'
    if "text/markdown" in data:
        return f'<section class="answer">{rendered(data["text/markdown"])}</section>'
    if "text/html" in data:
        return f'<div class="wide" tabindex="0" role="region" aria-label="table">{sanitised(data["text/html"])}</div>'
    return f"<pre>{escape(data['text/plain'])}</pre>" if "text/plain" in data else ""
