"""What one report sentence says: which of the 18 findings, whether it is there, on which side, in which lobe, in which organs.

Rules on words, no model. A sentence is cut into clauses, so that "cardiomegaly without pleural effusion" says two things; a clause that
denies denies everything it names ("no nodule, mass or consolidation"). Sizes, counts and severities are ignored.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from asapkit.reports.lexicon import FINDING_WORDS, NOT_MEANT, SEEN_WORDS, TOPIC_WORDS
from asapkit.reports.places import lobes_named, organs_of, side_named


class Statement(NamedTuple):
    """One thing said. `state`: present, absent, uncertain, or normal (of a structure that is no finding); `lobe`: names joined by "+"."""

    finding: str
    state: str
    side: str = ""
    lobe: str = ""

    @property
    def key(self) -> str:
        return "|".join(self)


class Clause(NamedTuple):
    """A part of a sentence with its own verb or its own denial. `context`: what it continues ("the wall shows" before "no plaque")."""

    text: str
    context: str
    denies: bool
    normal: bool


_SIZE = re.compile(
    r"\b\d+(?:[.,]\d+)?\s?(?:[x×*-]\s?\d+(?:[.,]\d+)?\s?){0,2}(?:mm|cm|millimet\w+|centimet\w+|hu|m)?\b(?:\s?(?:in|of) (?:diameter|size|thickness))?",
    re.I,
)
_DENIAL_AHEAD = r"(?=(?:and |with |but )?(?:there (?:is|are|was|were) )?(?:no|without|nor|absence of|free of|neither)\b)"
_DENIAL_BEGINS = re.compile(rf",?\s{_DENIAL_AHEAD}", re.I)
_CLAUSE = re.compile(
    r";|:\s|,?\s(?:but|however|although|though|whereas|while|except(?: for)?|apart from|aside from|other than|yet|otherwise)\b"
    r"|,\s(?=(?:typical|consistent|compatible|suggest\w+|in keeping|represent\w+|indicat\w+|characteristic)\b)|" + _DENIAL_BEGINS.pattern,
    re.I,
)
_EXCEPT = re.compile(r"\s*(?:except(?: for)?|apart from|aside from|other than|besides)\b[^,]*,", re.I)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|shows?|appears?|demonstrates?|contains?|remains?|persists?)\b|"
    r"\b(?:increased|decreased)(?=\s*(?:,|;|\.|$|and\b|in (?:favou?r|size)))",
    re.I,
)
_DENIED = re.compile(
    r"\b(?:no|none|neither|nor|without|absent|absence|negative for|free of|lacks?|lack of|devoid|resolved|disappeared)\b|"
    r"\b(?:not|never)\b(?! (?:only|optimally|clearly|specific|evaluated|changed?|included|typical|possible|sufficient)|"
    r" be (?:\w+ly )?(?:excluded|evaluated|ruled|characterized|assessed|distinguished|differentiated|measured))",
    re.I,
)
_NO_CHANGE = re.compile(
    r"\b(?:no|not|without|nor)\s(?:(?:any|significant\w*|obvious|interval|definite|other|marked\w*|considerable|clear|notable|apparent|"
    r"remarkable|show|"
    r"an?)\s){0,3}(?:change[sd]?|differen\w+|differ|progression|regression|interval|longer|more than|contrast|intravenous|iv|"
    r"(?:increase|decrease) in (?:their |its |the )?(?:size|number|dimension|diameter))\b(?:\s(?:was|were|is|are)\s(?:found|detected|observed|"
    r"seen|noted))?",
    re.I,
)
_NEW = re.compile(  # not there before, or not large: no denial
    r"\bnot (?:\w+ )?(?:observed|detected|seen|present|available|found) in (?:the |his |her )?(?:previous|prior|old|former|last)[^,;.]*|"
    r"\b(?:do(?:es)? not|did not|not|that are not|which are not) (?:reach\w*|exceed\w*|patholog\w*|in pathological)[^,;.]*",
    re.I,
)
_GONE = re.compile(
    r"(?:previous|prior|old|former|last) (?:\w+ ){0,3}?(?:exam\w*|CTs?|study|scan|review)\b[^;.]{0,60}?\b(?:(?:was|were|is|are) not (?:\w+ )?"
    r"(?:observed|detected|seen)|(?:have|has|had|are|is|were|was)? ?(?:completely |totally )?(?:disappeared|resolved|regressed completely))|"
    r"completely (?:regressed|resolved|disappeared)|(?:have|has) disappeared",
    re.I,
)
_NOT_EXCLUDED = re.compile(r"\b(?:can ?not|could not|may not|not) (?:be )?(?:\w+ )?(?:excluded?|ruled out|rule out)", re.I)
_NORMAL = re.compile(
    r"\b(?:normal\w*|natural|unremarkable|preserved|intact|patent|open|clear|regular|maintained|symmetrical|homogeneous|ordinary|expected range)\b|"
    r"\bnot (?:\w+ )?(?:large|enlarged|increased|dilated|thickened|widened|displaced|narrowed)\b",
    re.I,
)
_ABNORMAL = re.compile(r"\babnormal|\bnot normal|(?:above|than|over|exceed\w*) (?:the )?normal|upper (?:limit|bound\w*) of normal", re.I)
_HEDGE = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|suspect\w*|suspicio\w+|questionable|equivocal|doubtful|presumed|likely|uncertain|may|might|could(?! not)|"
    r"thought to|"
    r"suggest(?:s|ive|ing)|differential|consider(?:ed)?|query)\b|" + _NOT_EXCLUDED.pattern,
    re.I,
)
_HEDGED_BEFORE = re.compile(
    r"(?P<hedge>\b(?:possibl[ey]|probabl[ey]|suspected|suspicion (?:of|for)|suspicious (?:for|of)|questionable|equivocal|doubtful|presumed|likely|"
    r"uncertain|(?:may|might|could)(?: \w+)? (?:be(?: (?:due|secondary|compatible|consistent|related|attributed)\b)?|represent|reflect|correspond|"
    r"indicate|suggest|belong|accompany)|thought to|explained by|cannot exclude|"
    r"suggest\w*|raises?|in terms of|differential|versus|vs|query|rule out)\b)[^;.]{0,120}$",
    re.I,
)
_HEDGED_AFTER = re.compile(
    r"^(?:[^,;.()]{0,40}?\?|[^;.]{0,140}?\b(?:(?:is|are|was|were) (?:possible|suspected|questionable|likely|probable|doubtful|equivocal)|"
    r"(?:may|might|could) be present|" + _NOT_EXCLUDED.pattern + "))",
    re.I,
)
_ASSERTED_BETWEEN = re.compile(
    r"\b(?:which|that|consistent|compatible|due to|secondary|there (?:is|are)|(?:is|are|was|were) (?:also )?(?:observed|seen|noted))\b", re.I
)
_ASSERTED = re.compile(
    r"\bthere (?:is|are|was|were)\b|\b(?:observed|seen|noted|detected|identified|evident|visible|present|measur\w+|watched|found|draws? attention|"
    r"available|exists?|shows?|demonstrat\w+)\b",
    re.I,
)
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d)")
_WORDS = re.compile(r"(?!(?:and|but|with|there|is|are|was|were)\b)\b\w", re.I)  # more than a connective
_BRACKET = re.compile(r"\([^()]*\)")
_SAYS_NOTHING = re.compile(
    r"\b(?:recommend\w*|advis\w+|correlat\w+|follow[- ]up|suggested|appropriate|evaluat(?:ed|ion)|compar\w+|examination (?:is|was)|reviewed|"
    r"artifacts?|non-?contrast|suboptimal|technique|image quality|multiplanar|examined|sections (?:of|were|are)|examination covers|obtained|"
    r"(?:prior|previous|former|preceding|earlier) (?:\w+ )?(?:CT|study|exam\w*))\b",
    re.I,
)


@lru_cache(maxsize=65536)
def clauses(sentence: str) -> tuple[Clause, ...]:
    """The clauses of a sentence; a new one begins at "but", "without", ";" and the like, or where both sides of a comma or "and" have a verb."""
    if _GONE.search(sentence):
        return (Clause(sentence, "", True, False),)
    sentence = _NEW.sub("", _DECIMAL.sub(",", sentence))  # the stop of "2.5" is no end of anything
    lead = _EXCEPT.match(sentence)
    if lead:
        return (_clause(sentence[: lead.end() - 1], ""), *clauses(sentence[lead.end() :]))
    strong = {m.start() for m in _CLAUSE.finditer(sentence)}
    weak = {m.start() for m in re.finditer(r",\s|\sand\s", sentence)}
    cuts = sorted(strong | weak)
    parts, start, context = [], 0, ""
    for i, cut in enumerate(cuts):
        until = next((c for c in cuts[i + 1 :] if c in strong), len(sentence))
        if not _WORDS.search(sentence, start, cut):
            continue
        if cut not in strong and not (_VERB.search(sentence, start, cut) and _VERB.search(sentence, cut, until)):
            continue
        parts.append(_clause(sentence[start:cut], context))
        context = sentence[start:cut] if _DENIAL_BEGINS.match(sentence, cut) and not sentence.startswith((",", ";"), cut) else ""
        start = cut
    parts.append(_clause(sentence[start:], context))
    return tuple(p for p in parts if p.text.strip(" ,;:."))


def _clause(text: str, context: str) -> Clause:
    denies = bool(_DENIED.search(_NOT_EXCLUDED.sub(" ", _NO_CHANGE.sub(" ", text))))
    return Clause(text, context, denies, bool(_NORMAL.search(text)) and not _ABNORMAL.search(text))


@lru_cache(maxsize=65536)
def statements(sentence: str) -> tuple[Statement, ...]:
    """Everything that a sentence says about the 18 findings, sorted, each once; where it names none, the structures that it calls normal."""
    parts = clauses(sentence)
    said = _named(sentence, parts, FINDING_WORDS) or _named(sentence, parts, {t: {"named": w} for t, w in SEEN_WORDS.items()})
    if not said and (any(c.denies or c.normal for c in parts) or _SAYS_NOTHING.search(sentence)):
        said = {Statement(topic, "normal") for topic, words in TOPIC_WORDS.items() if words.search(sentence)}
    return tuple(sorted(said))


def _named(sentence: str, parts: tuple[Clause, ...], lexicon: dict[str, dict[str, re.Pattern]]) -> set[Statement]:
    found = [(clause, name, state) for clause in parts for name, words in lexicon.items() if (state := _state(clause, name, words))]
    alone = len({clause for clause, _, _ in found}) == 1
    said = set()
    for clause, name, state in found:
        place = sentence if alone else clause.text  # a clause without a place of its own has that of its sentence
        side, lobe = side_named(place), "+".join(lobes_named(place))
        said.add(Statement(name, state) if state == "absent" and not lobe else Statement(name, state, side, lobe))
    return said


def _state(clause: Clause, finding: str, words: dict[str, re.Pattern]) -> str | None:
    """present, absent, uncertain, or None where the clause does not speak of the finding."""
    text = clause.text
    found = words["named"].search(text)
    if found and finding in NOT_MEANT and NOT_MEANT[finding].search(text):
        found = None
    if found and not clause.denies:
        return "uncertain" if _hedged(text, found) else "present"
    if found:
        return "absent"
    if clause.denies and clause.context:
        found = words["named"].search(clause.context + text)
        return "absent" if found and found.end() > len(clause.context) else None
    subject = words.get("subject")
    return "absent" if subject and (clause.denies or clause.normal) and subject.search(text) else None


def _hedged(clause: str, found: re.Match) -> bool:
    before = _HEDGED_BEFORE.search(clause[: found.start()])
    if before and not _ASSERTED_BETWEEN.search(clause, before.end("hedge"), found.start()):
        return True
    return bool(_HEDGED_AFTER.search(clause[found.end() :]))


def polarity(sentence: str) -> str:
    """positive: something abnormal is there; uncertain: what there is, or whether it is there, is doubted; negative: denied, normal, or nothing said.

    A doubt in brackets about the cause ("nodules are seen (metastasis?)") leaves the sentence positive.
    """
    states = {s.state for s in statements(sentence)}
    bare = _BRACKET.sub(" ", sentence)
    hedged = bool(_HEDGE.search(bare) or "?" in bare) and not _ASSERTED.search(_NOT_EXCLUDED.sub(" ", bare))
    if "present" in states:
        return "uncertain" if hedged else "positive"
    if "uncertain" in states:
        return "uncertain"
    parts = clauses(sentence)
    denied = [c for c in parts if c.denies or c.normal]
    continued = {c.context for c in parts}
    others = [c for c in parts if not (c.denies or c.normal or c.text in continued or _SAYS_NOTHING.search(c.text))]
    if states or denied:
        asserts = any(_ASSERTED.search(c.text) and len(c.text.split()) > 3 for c in others)
        return "positive" if asserts and "absent" not in states | {s.state for s in statements(sentence)} else "negative"
    if not others:
        return "negative"
    return "uncertain" if hedged else "positive"


@lru_cache(maxsize=65536)
def organs_named(sentence: str) -> tuple[str, ...]:
    """`ORGANS` names that the sentence may concern, in their order; () where it names none of them (a vertebra, a lymph node)."""
    return organs_of(sentence, tuple(s.finding for s in statements(sentence)))


@lru_cache(maxsize=65536)
def meaning(sentence: str) -> str:
    """A key: sentences with the same key say the same. "finding|state|side|lobe", several joined by ";"; else the words without numbers."""
    said = statements(sentence)
    return ";".join(s.key for s in said) if said else normalised(sentence)


def normalised(sentence: str) -> str:
    """Lower case, without numbers, sizes, marks and repeated space."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", _SIZE.sub(" ", sentence.lower())).split())
