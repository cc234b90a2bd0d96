"""What one report sentence says: which of the 18 findings, whether it is there, on which side, in which lobe, in which organs.

Rules on words, no model. A sentence is cut into clauses, so that "cardiomegaly without pleural effusion" says two things; a clause that
denies denies everything it names ("no nodule, mass or consolidation"). Sizes, counts and severities are ignored.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from asapkit.reports.lexicon import FINDING_WORDS, NOT_LUNG, TOPIC_WORDS
from asapkit.reports.places import lobes_named, organs_of, side_named


class Statement(NamedTuple):
    """One thing said. `state` is present, absent or uncertain; `lobe` holds names joined by "+"."""

    finding: str
    state: str
    side: str = ""
    lobe: str = ""

    @property
    def key(self) -> str:
        return "|".join(self)


_SIZE = re.compile(
    r"\b\d+(?:[.,]\d+)?\s?(?:[x×*-]\s?\d+(?:[.,]\d+)?\s?){0,2}(?:mm|cm|millimet\w+|centimet\w+|hu|m)?\b(?:\s?(?:in|of) (?:diameter|size|thickness))?",
    re.I,
)
_CLAUSE = re.compile(
    r";|:\s|,?\s(?:but|however|although|though|whereas|while|except(?: for)?|apart from|aside from|other than|yet|otherwise)\b"
    r"|,?\s(?=(?:and |with )?(?:there (?:is|are|was|were) )?(?:no|without|nor|absence of|free of)\b)",
    re.I,
)
_EXCEPT = re.compile(r"\s*(?:except(?: for)?|apart from|aside from|other than|besides)\b[^,]*,", re.I)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|appears?|demonstrates?|contains?|increased|decreased|remains?|persists?)\b", re.I)
_DENIED = re.compile(
    r"\b(?:no|none|neither|nor|without|absent|absence|negative for|free of|lacks?|lack of|devoid|excluded|resolved|disappeared)\b"
    r"|\b(?:not|never|n't)\b(?! (?:only|optimally|clearly evaluated|specific|be (?:excluded|evaluated|ruled|characterized|assessed)|evaluated|change|"
    r"changed|excluded|ruled out|included|reach|typical|possible))",
    re.I,
)
_NO_CHANGE = re.compile(
    r"\b(?:no|not|without)\s(?:\w+\s){0,3}?(?:change[sd]?|differences?|differ|increase|decrease|progression|regression|interval|longer than|"
    r"more than|"
    r"contrast|intravenous|iv)\b(?:\s(?:was|were|is|are)\s(?:found|detected|observed|seen|noted))?",
    re.I,
)
_DOUBLE = re.compile(
    r"\b(?:cannot|can not|could not|may not|not) be (?:entirely |completely |fully )?(?:excluded|ruled out)|not (?:excluded|ruled out)", re.I
)
_NORMAL = re.compile(
    r"\b(?:normal\w*|natural|unremarkable|preserved|intact|patent|open|clear|regular|maintained|symmetrical|homogeneous|"
    r"no (?:obvious )?(?:abnormalit\w+|patholog\w+|features?))\b|\bnot (?:\w+ )?(?:large|enlarged|increased|dilated|thickened|widened|"
    r"displaced|narrowed)\b",
    re.I,
)
_ABNORMAL_NORMAL = re.compile(r"\babnormal|\bnot normal|(?:above|than|over|exceeds?) (?:the )?normal|upper (?:limit|bound\w*) of normal", re.I)
_DOUBT_BEFORE = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|suspected|suspicion (?:of|for)|suspicious for|questionable|equivocal|doubtful|presumed|likely|"
    r"may (?:be|represent|reflect|correspond to|indicate|suggest)|might (?:be|represent|reflect)|could (?:be|represent|reflect)|"
    r"cannot exclude|suggest\w*|raises?|in terms of|differential|versus|vs|or early|query)\b[^,;.]{0,45}$",
    re.I,
)
_DOUBT_AFTER = re.compile(
    r"^[^,;.]{0,40}?(?:\?|(?:is|are|was|were) (?:possible|suspected|questionable|likely|probable|doubtful|considered|equivocal)|"
    r"(?:may|might|could) be present|(?:cannot|can not|could not|not) (?:be )?(?:\w+ )?(?:excluded|ruled out))",
    re.I,
)
_ADVICE = re.compile(
    r"\b(?:recommend\w*|advis\w+|correlat\w+|follow[- ]up|suggested|appropriate|evaluated together|compared|comparison|examination (?:is|was)|"
    r"artifacts?|non-?contrast|suboptimal|technique|could not be evaluated|cannot be evaluated)\b",
    re.I,
)
_WHICH = re.compile(r"\b(?:which|that|representing|consistent|compatible|due to|secondary)\b", re.I)


def _clauses(sentence: str) -> list[str]:
    """Clauses with their own verb or their own denial."""
    lead = _EXCEPT.match(sentence)
    if lead:
        return [sentence[lead.start() : lead.end() - 1], *_clauses(sentence[lead.end() :])]
    parts, start = [], 0
    cuts = sorted({m.start() for m in _CLAUSE.finditer(sentence)} | {m.start() for m in re.finditer(r",\s|\sand\s", sentence)})
    strong = {m.start() for m in _CLAUSE.finditer(sentence)}
    for i, cut in enumerate(cuts):
        until = next((c for c in cuts[i + 1 :] if c in strong), len(sentence))
        own_verbs = _VERB.search(sentence[start:cut]) and _VERB.search(sentence[cut:until])
        if cut in strong or own_verbs:
            parts.append(sentence[start:cut])
            start = cut
    return [p for p in (*parts, sentence[start:]) if p.strip(" ,;:.")]


def _denies(clause: str) -> bool:
    return bool(_DENIED.search(_DOUBLE.sub(" ", _NO_CHANGE.sub(" ", clause))))


def _is_normal(clause: str) -> bool:
    return bool(_NORMAL.search(clause)) and not _ABNORMAL_NORMAL.search(clause)


def _doubted(clause: str, found: re.Match) -> bool:
    before = _DOUBT_BEFORE.search(clause[: found.start()])
    if before and not _WHICH.search(before.group()):
        return True
    return bool(_DOUBT_AFTER.search(clause[found.end() :]))


@lru_cache(maxsize=65536)
def statements(sentence: str) -> tuple[Statement, ...]:
    """Everything that a sentence says about the 18 findings and a few normal structures, sorted, each once."""
    said: dict[tuple, Statement] = {}
    for clause in _clauses(sentence):
        denied, normal = _denies(clause), _is_normal(clause)
        side, lobes = side_named(clause), lobes_named(clause)
        for finding, words in FINDING_WORDS.items():
            state = _state(clause, finding, words, denied=denied, normal=normal)
            if state:
                where = ("", "") if state == "absent" and not lobes else (side, "+".join(lobes))
                said[finding, state, *where] = Statement(finding, state, *where)
        if denied or normal:
            for topic, words in TOPIC_WORDS.items():
                if words.search(clause):
                    said[topic, "absent"] = Statement(topic, "absent")
    return tuple(sorted(said.values()))


def _state(clause: str, finding: str, words: dict[str, re.Pattern], *, denied: bool, normal: bool) -> str | None:
    """present, absent, uncertain, or None where the clause does not speak of the finding."""
    found = words["named"].search(clause)
    if found and finding in NOT_LUNG and NOT_LUNG[finding].search(clause):
        found = None
    if found:
        if denied:
            return "absent"
        return "uncertain" if _doubted(clause, found) else "present"
    subject = words.get("subject")
    if subject and (denied or normal) and subject.search(clause):
        return "absent"
    return None


def polarity(sentence: str) -> str:
    """ "positive": something abnormal is there; "negative": denied, or normal; "uncertain": doubted, or nothing is said (advice)."""
    states = {s.state for s in statements(sentence)}
    for state, name in (("present", "positive"), ("uncertain", "uncertain"), ("absent", "negative")):
        if state in states and not (state == "absent" and _leftover_positive(sentence)):
            return name
    clauses = _clauses(sentence)
    if any(not _denies(c) and not _is_normal(c) and not _ADVICE.search(c) and len(c.split()) > 1 for c in clauses[:1]):
        doubt = re.search(r"\?\W*$|\b(?:possibl[ey]|probabl[ey]|suspected|may be)\b|" + _DOUBLE.pattern, sentence, re.I)
        return "uncertain" if doubt else "positive"
    if any(_denies(c) or _is_normal(c) for c in clauses):
        return "negative"
    return "uncertain" if _ADVICE.search(sentence) else "positive"


def _leftover_positive(sentence: str) -> bool:
    """Does a clause without any known finding assert something beside the clauses that deny?"""
    return any(
        not _denies(c) and not _is_normal(c) and not _ADVICE.search(c) and re.search(r"\b(?:is|are|was|were) (?:seen|observed|present|noted)", c)
        for c in _clauses(sentence)
    )


def organs_named(sentence: str) -> tuple[str, ...]:
    """`ORGANS` names that the sentence may concern, in their order; () where it names none of them (a vertebra, a lymph node)."""
    return organs_of(sentence, tuple(s.finding for s in statements(sentence)))


@lru_cache(maxsize=65536)
def meaning(sentence: str) -> str:
    """A key: sentences with the same key say the same. "finding|state|side|lobe", several joined by ";"; else the words without numbers."""
    said = statements(sentence)
    if said and not (all(s.state == "absent" for s in said) and polarity(sentence) == "positive"):
        return ";".join(s.key for s in said)
    return normalised(sentence)


def normalised(sentence: str) -> str:
    """Lower case, without numbers, sizes, marks and repeated space."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", _SIZE.sub(" ", sentence.lower())).split())
