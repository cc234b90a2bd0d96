"""Sections of a report, cleaned text, and the report joined from its sections."""

from __future__ import annotations

import re

from asapkit.reports.sentences import Text, split

_NOT_GIVEN = re.compile(r"\W*(?:not (?:given|available|provided)|none|nan|n/?a)?\W*", re.I)
_OFFICIAL_NOT_GIVEN = re.compile(r"Not given\.?$")
_HEADING = re.compile(
    r"(?:^|(?<=[\n.]))\s*(?:(?P<findings>findings?|report)|(?P<impression>impressions?|conclusions?|results?|opinion|summary|comment)|"
    r"(?P<other>technique|clinical (?:information|history)|history|indication|comparison|procedure))\s*:",
    re.I,
)
_LEADING_MARKS = re.compile(r"^(?:[\s\"“”«»•●▪◦‣∙■►·]|\?{2,}(?=\w)|[-–*]\s?(?=[A-Z]))+")
_TRAILING_MARKS = re.compile(r"[\s\"“”«»•]+$")


def given(text: Text) -> str:
    """The text, or "" for what stands for nothing: None, NaN, "Not given.", a lone mark."""
    return "" if not isinstance(text, str) or _NOT_GIVEN.fullmatch(text) else text


def clean(text: Text, *, official: bool = False) -> str:
    """One line of tidy sentences: no bullets or dividing quotes, single spaces, every sentence ends in a mark. "Not given" becomes "".

    official: question marks removed, brackets set apart by spaces, ":" and ";" turned into ",", nothing else (methods.md F, row 29).
    """
    if official:
        text = str(text).replace("?", "").replace("(", "( ").replace(")", " ) ").replace("  ", " ")
        return text.replace(":", ",").replace(";", ",")
    return " ".join(tidy for sentence in split(given(text)) if (tidy := _tidy(sentence)))


def _tidy(sentence: str) -> str:
    text = _TRAILING_MARKS.sub("", _LEADING_MARKS.sub("", sentence)).replace("。", ".").replace("_x000D_", " ")
    text = re.sub(r"(?<=[.?!])[\"”»](?=\s|$)", "", " ".join(text.split()))
    text = re.sub(r"\s+(?=[.,;:?!)](?:\s|$))|(?<=\()\s+", "", text)
    text = re.sub(r"(?<=[\w)?])[,:;]*\.+$", ".", text)
    return f"{text}." if text and text[-1] not in ".?!:;,)" else f"{text}." if text.endswith(")") and not re.search(r"[.?!]\)$", text) else text


def sections(text: Text) -> dict[str, str]:
    """{"findings", "impression"} of a whole report; the impression is "" where none is marked off.

    Understood: headings ("FINDINGS: ... IMPRESSION: ..."), a free-standing quote mark that divides the two and the items of the
    impression (the form of CT-CLIP's table), and a list of bullets at the end.
    """
    text = given(text)
    headings = list(_HEADING.finditer(text))
    if any(h.lastgroup == "impression" for h in headings):
        return _by_headings(text, headings)
    pieces = split(text)
    first = next((i for i, piece in enumerate(pieces) if i and re.match(r"[\"“”«•●▪◦‣∙■►·]", piece)), None)
    if first is None:  # the dividing quote may close the findings without opening the impression
        first = next((i + 1 for i, piece in enumerate(pieces[:-1]) if re.search(r"[.?!][\"”]$", piece) and piece.count('"') % 2), None)
    if first is None:
        return {"findings": text.strip(), "impression": ""}
    findings = " ".join(pieces[:first])
    impression = " ".join(tidy for piece in pieces[first:] if (tidy := _tidy(piece)))
    return {"findings": _TRAILING_MARKS.sub("", findings), "impression": given(impression)}


def _by_headings(text: str, headings: list[re.Match]) -> dict[str, str]:
    found = {"findings": "", "impression": ""}
    if headings[0].lastgroup == "impression":
        found["findings"] = text[: headings[0].start()]
    for here, ahead in zip(headings, [*headings[1:], None], strict=True):
        if here.lastgroup in found:
            found[here.lastgroup] += " " + text[here.end() : ahead.start() if ahead else len(text)]
    return {name: given(part.strip()) for name, part in found.items()}


def join(findings: Text, impression: Text, *, official: bool = False) -> str:
    """The report: findings, a space, impression. A section that is not given is left out.

    official: no space between them, and the findings alone where the joined text ends in "Not given" (methods.md F, row 29).
    """
    if official:
        joined = f"{findings}{impression}"
        return str(findings) if _OFFICIAL_NOT_GIVEN.search(joined) else joined
    return " ".join(part.strip() for part in (given(findings), given(impression)) if part.strip())
