"""The two kinds of page of a gallery, and how they look: one style sheet, light and dark, no script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from itertools import groupby

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


def _document(title: str, body: str) -> str:
    head = [
        '<meta charset="utf-8">', f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
    ]  # fmt: skip
    skip = '<a class="skip" href="#main">To the content</a>'
    return "\n".join(["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", skip, body, "</body>", "</html>", ""])


def _inline(text: str) -> str:
    """A sentence with its bold and code words, as HTML inside a paragraph."""
    from nbconvert.filters import markdown2html

    return markdown2html(text).strip().removeprefix("<p>").removesuffix("</p>")


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
    link = f'<h3><a href="{escape(page.path.as_posix())}">{escape(page.title)}</a></h3>'
    return f'<article class="card"><div class="plate">{picture}</div>{link}{said}<p class="meta">{escape(meta)}</p></article>'


def notebook(page, *, up: str, before=None, after=None) -> str:
    """Page of one notebook, with ways to the index and to its neighbours."""

    def way(other, words: str, rel: str) -> str:
        if other is None:
            return ""
        target = os.path.relpath(other.path, page.path.parent).replace(os.sep, "/")
        return f'<a rel="{rel}" href="{escape(target)}">{words}: {escape(other.title)}</a>'

    ways = f'<a href="{escape(up)}">All questions</a>{way(before, "Before", "prev")}{way(after, "Next", "next")}'
    fault = f'<p class="fault" role="alert">{escape(page.fault)}</p>' if page.fault else ""
    title = "" if any("<h1" in block for block in page.blocks) else f"<h1>{escape(page.title)}</h1>"
    nav = f'<header><nav aria-label="notebooks">{ways}</nav></header>'
    main = f'<main id="main"><article>{title}{fault}{"".join(page.blocks)}</article></main>'
    footer = f"<footer>{escape(' · '.join(filter(None, (page.path.stem, page.group, page.note))))}</footer>"
    return _document(page.title, "\n".join((nav, main, footer)))
