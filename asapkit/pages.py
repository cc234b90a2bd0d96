"""The two kinds of page of a gallery, how they look (one style sheet, light and dark, no script) and what of a notebook may stand in them."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape, unescape
from itertools import groupby
from urllib.parse import quote

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may load for these pages: nothing but what lies in them."""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #ffffff; --ink: #1d2023; --soft: #5c636a; --rule: #dcdfe2; --accent: #00568a;
  --fault: #a83a00; --code: #f3f4f5; --name: #00568a; --string: #8a4b00; --note: #5c636a; --number: #00694a; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e8eaec; --soft: #a5adb5; --rule: #343a40;
  --accent: #7cc4f2; --fault: #ff9a66; --code: #191d20; --name: #7cc4f2; --string: #f0b866; --note: #a5adb5; --number: #5fd1a5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 2; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2rem); }
header { padding-top: 2rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2rem 0 .6rem; }
footer { color: var(--soft); font-size: .875rem; padding-block: 2rem; }
.lead, .aside, .meta { color: var(--soft); }
.fault { color: var(--fault); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.4rem; padding: 0; margin: 1.2rem 0 0;
  list-style: none; }
.card { position: relative; display: flex; flex-direction: column; height: 100%; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; overflow: hidden; transition: border-color .15s, box-shadow .15s; }
.card:hover, .card:focus-within { border-color: var(--accent); box-shadow: 0 3px 14px rgb(0 0 0 / .14); }
.card .plate { background: #ffffff; height: 13rem; display: flex; align-items: center; justify-content: center;
  border-bottom: 1px solid var(--rule); padding: .6rem; }
.card .plate img { max-width: 100%; max-height: 100%; object-fit: contain; }
.card .plate span { color: #5c636a; }
.card h3 { font-size: 1.06rem; line-height: 1.3; margin: .9rem 1rem .3rem; }
.card h3 a { color: inherit; text-decoration: none; }
.card h3 a::after { content: ""; position: absolute; inset: 0; }
.card:hover h3 a { text-decoration: underline; }
.card p { margin: 0 1rem .7rem; font-size: .92rem; }
.card .meta { margin-top: auto; font-size: .8rem; }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-size: .92rem; margin-bottom: 1.2rem; }
article { max-width: 62rem; }
figure { margin: 1.2rem 0; }
figure img, .text img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; padding: .5rem; border: 1px solid var(--rule); }
.answer { border-left: 4px solid var(--accent); padding: .1rem 1.1rem; background: var(--card); border-radius: 0 8px 8px 0; font-size: 1.08rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; width: max-content; }
pre { background: var(--code); border: 1px solid var(--rule); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.anchor-link { display: none; }
.highlight .k, .highlight .kn, .highlight .kc, .highlight .ow, .highlight .nb { color: var(--name); }
.highlight .s1, .highlight .s2, .highlight .sa, .highlight .si { color: var(--string); }
.highlight .c1 { color: var(--note); font-style: italic; }
.highlight .mi, .highlight .mf { color: var(--number); }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
@media print { nav, details { display: none; } }
"""


# ---------------------------------------------------------------------------------------------------- what of a notebook may stand in a page

WORDS = re.compile(r"[\w-]+")
TAGS = frozenset(WORDS.findall(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p "
    "pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr tt u ul var"
))  # fmt: skip
ATTRIBUTES = frozenset(WORDS.findall("abbr alt border class colspan dir height id lang open rowspan scope span start style title width"))
PROPERTIES = frozenset(WORDS.findall(
    "background background-color border border-bottom border-collapse border-color border-left border-right border-spacing border-style border-top "
    "border-width caption-side color font-family font-size font-style font-variant-numeric font-weight height line-height max-width min-width "
    "opacity padding padding-bottom padding-left padding-right padding-top text-align text-decoration vertical-align white-space width"
))  # fmt: skip
TABLE = re.compile(r"(?:#T_|\.dataframe\b)[\w\s.#>:()-]*")  # where a rule of pandas may reach: its own table
DECLARATION = re.compile(r"\s*([a-z-]+)\s*:\s*((?:[\w\s#.,%!/-]|(?:(?<=rgb)|(?<=rgba)|(?<=hsl)|(?<=linear-gradient))\(|\))+)", re.I)
PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/\s]+={0,2}\s*")
SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE\s+svg[^>\[]*>\s*)*<svg[\s>]", re.S)
BEGINNINGS = {"png": rb"\x89PNG\r\n\x1a\n", "jpeg": rb"\xff\xd8\xff", "gif": rb"GIF8[79]a", "webp": rb"RIFF....WEBP"}


def picture_kind(picture: bytes) -> str:
    """png, jpeg, gif, webp or svg+xml by its first bytes; empty where it is none of them."""
    return next((kind for kind, first in BEGINNINGS.items() if re.match(first, picture, re.S)), "svg+xml" if SVG.match(picture) else "")


def data_address(picture: bytes) -> str:
    """A picture as an address that holds it. An SVG runs no script and loads nothing where it is an <img>."""
    return f"data:image/{picture_kind(picture)};base64,{base64.b64encode(picture).decode()}"


def _may(tag: str, name: str, value: str) -> bool:
    """Whether a tag keeps an attribute: pictures that lie in the page, links by https, http or mail, and what only formats."""
    told = re.sub(r"[\x00-\x20\x7f-\xa0]", "", unescape(value))
    if tag == "img" and name == "src":
        return PICTURE.fullmatch(told) is not None
    if tag == "a" and name == "href":
        return re.match(r"(?:https?|mailto):|[^:]*$|[#./?]", told, re.I) is not None
    return name in ATTRIBUTES


class Declarations:
    """What may stand in a style: properties of text and of a table's cells; no address, no escape, no string."""

    def sanitize_css(self, style: str) -> str:
        """The declarations that may stay. The name is the one that bleach calls."""
        found = (DECLARATION.fullmatch(part.strip()) for part in style.split(";"))
        return " ".join(f"{m[1].lower()}: {m[2].strip()};" for m in found if m and m[1].lower() in PROPERTIES)


def _rules(sheet: str) -> str:
    """The rules of a style sheet that reach no further than a table of pandas."""
    kept = []
    for rule in re.sub(r"/\*.*?\*/", "", sheet, flags=re.S).split("}"):
        selectors, _, declared = rule.partition("{")
        reached = [part.strip() for part in selectors.split(",")]
        if all(TABLE.fullmatch(part) for part in reached) and (style := Declarations().sanitize_css(declared)):
            kept.append(f"{', '.join(reached)} {{ {style} }}")
    return "\n".join(kept)


def _kept(source, rules: list[str]) -> Iterator[dict]:
    """Parsed HTML without scripts and style sheets, whose rules go to `rules`, and without pictures that have no address."""
    inside = ""
    for token in source:
        name, data = token.get("name"), token.get("data")
        if inside:
            if inside == "style" and token["type"] in ("Characters", "SpaceCharacters"):
                rules.append(data)
            inside = "" if token["type"] == "EndTag" and name == inside else inside
        elif token["type"] == "StartTag" and name in ("script", "style"):
            inside = name
        elif name == "img":
            if (None, "src") in data:
                data[None, "alt"] = data.get((None, "alt"), "").strip() or "picture"
                yield token
        else:
            yield token


def sanitised(html: str) -> str:
    """HTML of which only what formats is left, well closed: nothing that loads, runs, sends, leads off by itself or reaches the rest of the page."""
    from bleach.sanitizer import Cleaner

    sheets: list[str] = []
    told = {"attributes": _may, "protocols": {"http", "https", "mailto", "data"}, "strip": True, "css_sanitizer": Declarations()}
    body = Cleaner(tags=TAGS | {"script", "style"}, filters=[partial(_kept, rules=sheets)], **told).clean(html)
    body = Cleaner(tags=TAGS, **told).clean(body)  # once more with neither, so that nothing hangs on how the first reading ended
    rules = _rules("".join(sheets))
    return (f"<style>{rules}</style>" if rules else "") + body


def headed(cells) -> Iterator[tuple]:
    """Every cell of a notebook with the heading that stands above it, in it or first of all: what a picture without words is called."""
    heading = "picture"
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+\s+(.+)$", cell.source, re.M)), heading)
        yield cell, heading


def rendered(text: str) -> str:
    """Markdown as HTML that may stand in a page."""
    from nbconvert.filters import markdown2html

    try:
        return sanitised(markdown2html(text))
    except Exception:  # nbconvert raises for a picture attached to a cell, mistune for what it cannot nest
        return f"<pre>{escape(text)}</pre>"


def _link(path: str) -> str:
    return escape(quote(os.fsencode(path.replace(os.sep, "/")), safe="/="))


# --------------------------------------------------------------------------------------------------------------------- pages


def _document(title: str, body: str) -> str:
    head = [
        '<meta charset="utf-8">', f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
    ]  # fmt: skip
    skip = '<a class="skip" href="#main">To the content</a>'
    return "\n".join(["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", skip, body, "</body>", "</html>", ""])


def _inline(text: str) -> str:
    """A sentence with its bold and code words, as HTML inside a paragraph."""
    return rendered(text).strip().removeprefix("<p>").removesuffix("</p>")


def index(cards: Sequence[tuple], *, title: str) -> str:
    """Page of all notebooks: `cards` are (page, thumbnail as a data address) in order; pages of one matrix cell stand under its name."""
    parts = []
    for group, members in groupby(cards, key=lambda card: card[0].group):
        heading = f"<h2>{escape(group)}</h2>" if group else ""
        items = "\n".join(f"<li>{_card(page, small)}</li>" for page, small in members)
        parts.append(f'{heading}<ul class="cards">\n{items}\n</ul>')
    failed = sum(bool(page.fault) for page, _ in cards)
    told = f"{len(cards)} notebooks" + (f", {failed} without an answer" if failed else "") + ". Each asks one question and computes its answer."
    body = f'<header><h1>{escape(title)}</h1><p class="lead">{told}</p></header>\n<main id="main">\n{"".join(parts)}\n</main>\n'
    return _document(title, body + "<footer>Made from executed notebooks. These pages load nothing from anywhere.</footer>")


def _card(page, small: str) -> str:
    picture = f'<img src="{small}" alt="First picture of: {escape(page.title)}" loading="lazy">' if small else "<span>no picture</span>"
    said = f'<p class="fault">{escape(page.fault)}</p>' if page.fault else f"<p>{_inline(page.answer)}</p>" if page.answer else ""
    meta = " · ".join(filter(None, (page.path.stem, page.note)))
    link = f'<h3><a href="{_link(page.path.as_posix())}">{escape(page.title)}</a></h3>'
    return f'<article class="card"><div class="plate">{picture}</div>{link}{said}<p class="meta">{escape(meta)}</p></article>'


def notebook(page, *, up: str, before=None, after=None) -> str:
    """Page of one notebook, with ways to the index and to its neighbours."""

    def way(other, words: str, rel: str) -> str:
        if other is None:
            return ""
        target = os.path.relpath(other.path, page.path.parent)
        return f'<a rel="{rel}" href="{_link(target)}">{words}: {escape(other.title)}</a>'

    ways = f'<a href="{_link(up)}">All questions</a>{way(before, "Before", "prev")}{way(after, "Next", "next")}'
    fault = f'<p class="fault" role="alert">{escape(page.fault)}</p>' if page.fault else ""
    title = "" if any("<h1" in block for block in page.blocks) else f"<h1>{escape(page.title)}</h1>"
    nav = f'<header><nav aria-label="notebooks">{ways}</nav></header>'
    main = f'<main id="main"><article>{title}{fault}{"".join(page.blocks)}</article></main>'
    footer = f"<footer>{escape(' · '.join(filter(None, (page.path.stem, page.group, page.note))))}</footer>"
    return _document(page.title, "\n".join((nav, main, footer)))
