"""Sentences of a radiology report.

`split` is lossless: the pieces joined again are the text, apart from white space. It looks at the shape of what stands around a stop
(digits, units, capitals, brackets, quotes, bullets), never at a disease word. Semicolons and colons do not end a sentence.
"""

from __future__ import annotations

import re
from bisect import bisect_right

Text = str | float | None  # a table gives None or nan for an empty cell

_EVENT = re.compile(
    r"""(?P<stop>[.?!…]+(?:\s+\.+(?=\s|$))*|[。！？]+)
      | (?P<bullet>[•●▪◦‣∙■►·])
      | (?P<quote>["“”«»])
      | (?P<item>(?:(?<=\s)|^)\(?\d{1,2}\)\s?(?=[A-Z]))
      | (?P<line>[^\S\n]*\n\s*)""",
    re.X,
)
_TITLE = frozenset({"dr", "mr", "mrs", "ms", "prof", "st", "vs", "cf", "approx", "eg", "ie"})  # never end a sentence
_CLIPPED = frozenset(  # end a sentence only where a capital follows
    ("max", "min", "etc", "incl", "excl", "resp", "ca", "diam", "dia", "lat", "med", "ant", "post", "sup", "inf", "bil", "bilat", "rt", "lt",
     "susp", "diff", "poss", "prob", "temp", "vol", "avg", "abd", "thor", "vert", "seg", "hist", "path", "esp", "wk", "mo", "yr", "hr", "sec")
)  # fmt: skip
_NUMBERED = frozenset(  # "No. 7", "img. 45", "Mar. 2021"
    ("no", "nr", "fig", "figs", "im", "ima", "img", "imgs", "se", "ser", "p", "pp", "vol", "ref", "ch", "sl", "pos",
     "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
)  # fmt: skip
_SPINE_WORD = r"(?:vertebra\w*|level|bod(?:y|ies)|corpus|corpora|spine|spinous|dis[ck]s?|end-?plates?)"
_SPINE_BEFORE = re.compile(  # "of T. 8", "T. 8 and T. 9"
    rf"(?:\b(?:of|at|[Bb]etween|{_SPINE_WORD})|\b[TLCS]\. ?\d{{1,2}}(?: ?[-–/,]| and| to| or)) ?[TLCS]$"
)
_SPINE_AHEAD = re.compile(rf"\d{{1,2}}(?: ?[-–/] ?\d{{1,2}})?\.? {_SPINE_WORD}\b", re.I)
_THORACIC = re.compile(r"(?<!\d)(?<!\d\s)\bth$", re.I)  # "Th. 8", not "the 5 th."
_VERTEBRAE = {"T": 12, "L": 5, "C": 7, "S": 5}
_CLIPPED_BEFORE_CAPITAL = frozenset({"lab", "clin", "cor"})  # a clipped adjective; ends only where a plain starter follows
_ORDINAL_NOUN = re.compile(
    r"(?:anterior |posterior |lateral |thoracic |lumbar |cervical |left |right )?(?:ribs?|costa\w*|costo\w*|vertebra\w*|segment\w*|"
    r"intercostal|corpus|day|week|month|year|side|order|degree|grade|division|branch|metatars\w*|metacarp\w*|finger|image)\b",
    re.I,
)
_STARTER = re.compile(r"(?:The|There|It|In|No|A|An|As|At|On|When|Both|Bilateral|Heart|Trachea|Other|These|This|Apart|Also|With|Within|Not)\b")
_LOWER_STARTER = re.compile(r"\s+(?:there|it|no|the|this|these|when|trachea|apart)\b")  # where a capital was forgotten
_FUNCTION_WORD = re.compile(
    r"(?:^|[\s(])(?:the|an?|of|in|on|at|by|to|and|or|with|from|for|is|are|was|were|than|about|both|which|that|no|not|level|segments?|"
    r"ribs?|approximately|around|series|images?|im\w*|grade|stage|type|up to)$",
    re.I,
)
_SIDE_NUMBER = re.compile(r"\W*(?:left|right|bilateral|both)\s+\d{1,2}(?:\s?[-–,]\s?\d{1,2})?$", re.I)
_TORN_DATE = re.compile(r"(?<![\d.,])[0-3]\d\.(?:0[1-9]|1[0-2])$")
_WHOLE_DATE = re.compile(r"(?<!\d)(?:\d{1,2}[./-]){2}\d{2,4}$|\b(?:19|20)\d\d$")
_NO_SENTENCE_TAIL = frozenset(["com", "org", "net", "gz", "nii", "dcm", "jpg", "png", "txt", "csv", "pdf"])
_WORD_END = re.compile(r"[^\W\d_]+$")
_WORD_START = re.compile(r"[^\W\d_]+")
_LIST_NUMBER = re.compile(r"[\s\"“”«»•●▪·(-]*(\d{1,2})[.)]?\s*$")
_LIST_START = re.compile(r"[\s\"“”«»•●▪·(-]*(\d{1,2})[.)]\s*(?=\D)")
_MAX_BRACKET = 250  # characters; a longer "bracket" is two that were never closed


def split(text: Text, *, official: bool = False) -> list[str]:
    """Sentences of a report in order, white space at the ends removed; the tail without a final stop is kept.

    official: the released rule: every "." ends, unless a neighbouring token is one single digit; the tail after the last stop is lost.
    Source: `official` follows Pre-training-ASAP/module/pretrain_datasets.py `_encode_text` (methods.md F, row 28).
    Differs: the default keeps the tail, splits after "segment 5.", and does not split "12.25 mm", dates, ordinals and abbreviations.
    """
    if not isinstance(text, str):
        return []
    if official:
        return _split_official(text)
    brackets = _brackets(text)
    pieces: list[str] = []
    start, item = 0, 1 if (first := _LIST_START.match(text)) and first[1] == "1" else 0
    for event in _EVENT.finditer(text):
        if event.start() < start:
            continue
        if event.lastgroup in ("stop", "item"):
            number = _next_item(text, start, event, item)
            cut, item = (number, item + 1) if number is not None else (None, item)
            if cut is None and event.lastgroup == "stop":
                cut = _after_stop(text, start, event, brackets)
        else:
            cut = _RULES[event.lastgroup](text, start, event)
        if cut is None or not _says_something(text[start:cut]):
            continue
        pieces.append(text[start:cut].strip())
        start = cut
        if opened := _LIST_START.match(text, start):
            item = int(opened[1]) if int(opened[1]) in (1, item + 1) else item
    tail = text[start:].strip()
    if tail and (_says_something(tail) or not pieces):
        pieces.append(tail)
    elif tail:
        pieces[-1] = f"{pieces[-1]} {tail}"
    return [p for p in pieces if p]


def _says_something(piece: str) -> bool:
    """A piece of marks alone, or a list number alone, is no sentence."""
    return any(c.isalnum() for c in piece) and not _LIST_NUMBER.match(piece)


def _brackets(text: str) -> list[tuple[int, int]]:
    """(open, close) positions of the innermost matched round brackets, in order. A bracket that another one interrupts was never closed."""
    spans, opened = [], None
    for mark in re.finditer(r"[()]", text):
        if mark.group() == "(":
            opened = mark.start()
        elif opened is not None:
            if mark.start() - opened <= _MAX_BRACKET:
                spans.append((opened, mark.start()))
            opened = None
    return spans


def _enclosing(brackets: list[tuple[int, int]], at: int) -> tuple[int, int] | None:
    i = bisect_right(brackets, (at, 0)) - 1
    return brackets[i] if i >= 0 and brackets[i][0] < at < brackets[i][1] else None


def _next_item(text: str, start: int, event: re.Match, item: int) -> int | None:
    """Position before the next list number ("... lungs 2. Pleural ..."), if this event closes one in an ongoing list."""
    begin = event.start() if event.lastgroup == "item" else None
    if begin is None:
        number = re.search(r"(?<![\d.,])\d{1,2}$", text[max(start, event.start() - 3) : event.start()])
        if event.group() != "." or not number or not re.match(r"\s?[A-Z]", text[event.end() : event.end() + 2]):
            return None
        begin = event.start() - len(number.group())
    digits = re.search(r"\d+", text[begin : event.end()])
    before = text[start:begin].rstrip()
    if item == 0 or int(digits.group()) != item + 1 or not before or _FUNCTION_WORD.search(before) or before[-1] in ",-–":
        return None
    return begin


def _after_stop(text: str, start: int, event: re.Match, brackets: list[tuple[int, int]]) -> int | None:
    """Position after this stop and the marks that close with it, if the sentence ends here."""
    mark, at = event.group(), event.end()
    if mark[0] in "。！？":
        return _closing_quote(text, at)
    inside = _enclosing(brackets, event.start())
    if inside:
        if not re.fullmatch(r"[\s.?!]*", text[at : inside[1]]):
            return None
        return _after_bracket(text, start, event, inside)
    if at >= len(text) or not text[at:].strip():
        return len(text)
    if mark[0] in "?!":
        ahead = text[at : at + 12]
        begins = re.match(r"[\"”»]?\s+[\"“«•(·-]?\s?[A-Z\d\"“•·]|[\"”»]\s*$|[A-Z][a-z]", ahead) or _LOWER_STARTER.match(ahead)
        return _closing_quote(text, at) if begins else None
    if mark[0] == "…" or mark.count(".") > 1:
        ahead = text[at : at + 3].lstrip('"” \n\t')
        continues = ahead[:1].islower() and not _LOWER_STARTER.match(text[at : at + 12])
        return None if continues or text[at] in ",;:)" or _inside_number(text, event) else _closing_quote(text, at)
    return _closing_quote(text, at) if _full_stop(text, start, event) else None


def _inside_number(text: str, event: re.Match) -> bool:
    return text[event.start() - 1 : event.start()].isdigit() and text[event.end() : event.end() + 1].isdigit()


def _after_bracket(text: str, start: int, event: re.Match, inside: tuple[int, int]) -> int | None:
    """A stop just before a closing bracket ends the sentence if the next one clearly begins behind the bracket."""
    whole = not text[start : inside[0]].strip(' \n\t"“”«•·-')  # the bracket is the sentence
    after = inside[1] + 1
    if not text[after:].strip():
        return len(text)
    if not re.match(r"[\"”»]?\s*[\"“«•·]|\s+[A-Z(]|[A-Z][a-z]", text[after : after + 4]):
        return None
    word = _WORD_END.search(text, max(start, event.start() - 12), event.start())
    clipped = word and word.group().lower() in _CLIPPED | _TITLE
    ends = whole or (event.group()[0] == "." and not clipped)
    return _closing_quote(text, after) if ends else None


def _closing_quote(text: str, at: int) -> int:
    """A quote right behind a stop belongs to the sentence that ends, unless it opens the next one."""
    if text[at : at + 1] in ("”", "»") or (text[at : at + 1] == '"' and not re.match(r"\w", text[at + 1 : at + 2])):
        return at + 1
    return at


def _full_stop(text: str, start: int, event: re.Match) -> bool:
    """Does this single "." with text behind it end a sentence?"""
    before, after = text[start : event.start()], text[event.end() : event.end() + 40]
    if after[0] in ",;:)]/":
        return False
    previous = before[-1:]
    if after[0].isspace() or after[0] in '"“”«»•·-(':
        ahead = after.lstrip(' \n\t"“”«»')
        if previous.isdigit():
            return _after_digit(before, ahead)
        return _after_word(before, ahead)
    if previous.isdigit():  # "T12.vertebra", "2.5", "3.Dotted"
        return bool(re.match(r"[A-Z][a-z]|A ", after)) and _after_digit(before, after)
    return _without_space(before, after)


def _after_digit(before: str, ahead: str) -> bool:
    if _TORN_DATE.search(before) or _SIDE_NUMBER.fullmatch(before):
        return False
    if ahead[:1].isdigit():
        return bool(re.search(r"(?<!\d)(?:19|20)\d\d$", before))  # a year ends; anything else is one number torn apart
    if _LIST_NUMBER.match(before):
        return False
    if ahead[:1].islower():  # an ordinal, unless a whole date or a plain beginning says otherwise
        return bool(_WHOLE_DATE.search(before) or _LOWER_STARTER.match(" " + ahead))
    ordinal = re.search(r"(?:^|[\s(,-])[TLCS]?\d{1,2}$", before)
    return not (ordinal and _ORDINAL_NOUN.match(ahead))


def _after_word(before: str, ahead: str) -> bool:
    """The stop follows a letter, a bracket or another mark, and white space follows the stop."""
    found = _WORD_END.search(before[-14:])
    if not found:
        return True
    word = found.group().lower()
    dotted = re.search(r"(?:^|[\s(])(?:[A-Za-z]\.)+[A-Za-z]$", before[-8:])  # e.g. i.e. p.o.
    if word in _TITLE or (dotted and not ahead[:1].isupper()):
        return False
    if ahead[:1].isupper():
        return not (word in _CLIPPED_BEFORE_CAPITAL and not _STARTER.match(ahead))
    if ahead[:1].isdigit() and (word in _NUMBERED or _vertebra(before, ahead)):
        return False
    return not (word in _CLIPPED or word in _CLIPPED_BEFORE_CAPITAL)


def _vertebra(before: str, ahead: str) -> bool:
    """ "Th. 8"; a single letter only where the words around it speak of the spine: "Hepatitis C. 2 lesions" are two sentences."""
    number = re.match(r"\d{1,2}(?!\d|[.,]\d|\s?[mc]m\b)", ahead)
    if not number or not 1 <= int(number.group()) <= _VERTEBRAE.get(before[-1], 12):
        return False
    return bool(_THORACIC.search(before) or _SPINE_BEFORE.search(before) or (re.search(r"\b[TLCS]$", before) and _SPINE_AHEAD.match(ahead)))


def _without_space(before: str, after: str) -> bool:
    """The next sentence begins without a space: "examination.No lesion"."""
    if not re.search(r"[^\W\d_]$", before):
        return bool(re.search(r"[)\]%\"”]$", before)) and after[0].isalpha()
    left, right = _WORD_END.search(before[-20:]).group(), _WORD_START.match(after)
    token = re.search(r"\S*$", before).group() + re.match(r"\S*", after).group()
    if len(left) < 2 or left.lower() in _TITLE | _NUMBERED:
        return False
    if right is None:
        return after[0].isdigit() and len(left) > 3 and left.islower()
    if after[0].isupper():
        return len(right.group()) > 1 or after[1:2].isspace()
    plain = not re.search(r"[/\\@_]", token) and token.count(".") == 0
    return plain and len(left) > 2 and len(right.group()) > 1 and right.group() not in _NO_SENTENCE_TAIL and left.lower() not in _CLIPPED


def _before_bullet(text: str, start: int, event: re.Match) -> int | None:
    if event.group() == "·" and re.search(r"[\w)]\s?$", text[max(0, event.start() - 2) : event.start()]):
        return None  # a multiplication dot
    return event.start() if re.match(r"\s*[\w(\"“?]", text[event.end() : event.end() + 3]) else None


def _at_quote(text: str, start: int, event: re.Match) -> int | None:
    """A free-standing quote divides; a quote that closes an item ends it; quotes around a word do nothing."""
    at, piece = event.start(), text[start : event.start()]
    spaced_before, spaced_after = piece[-1:].isspace(), text[at + 1 : at + 2].isspace()
    ahead = text[event.end() : event.end() + 3].lstrip()
    if spaced_before and spaced_after:
        return at if re.match(r"[\w(]", ahead) and not ahead[0].islower() else None
    opened = re.search(r"[\"“«]", piece.lstrip(' \n\t"“«”»'))
    if not opened and not spaced_before and spaced_after and re.match(r"[A-Z\"“•]", ahead):
        return event.end()
    return None


def _at_line(text: str, start: int, event: re.Match) -> int | None:
    """An empty line always divides; a line break divides before what looks like a new sentence, item or heading."""
    piece, ahead = text[start : event.start()], text[event.end() : event.end() + 5]
    if event.group().count("\n") > 1:
        return event.end()
    if not re.match(r"[A-Z\"“•●▪·*-]|\(?\d{1,2}[.)]\s", ahead):
        return None
    torn = _FUNCTION_WORD.search(piece.rstrip()) or piece.rstrip()[-1:] in (",", "-", "(")
    return None if torn and not re.match(r"[•●▪]|\d{1,2}[.)]", ahead) else event.end()


_RULES = {"bullet": _before_bullet, "quote": _at_quote, "line": _at_line}


def _split_official(text: str) -> list[str]:
    pieces, start = [], 0
    for stop in re.finditer(r"\.", text):
        left = re.search(r"(?<![^\W_])\d\s*$", text[start : stop.start()])
        right = re.match(r"\s*\d(?!\d)", text[stop.end() : stop.end() + 4])
        if not (left or right):
            pieces.append(text[start : stop.end()].strip())
            start = stop.end()
    return [p for p in pieces if p]
