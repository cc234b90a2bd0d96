"""Labels by rules on words: what the sentences of a report state, deny and doubt. No model, no network, 18 findings."""

from __future__ import annotations

from typing import NamedTuple

from asapkit.reports import clean, split, statements
from asapkit.reports.lexicon import FINDING_WORDS
from asapkit.types import FINDINGS

_RANK = {"absent": 0, "uncertain": -1, "present": 1}
Text = str | float | None
"""A section of a report; NaN and None as tables give them stand for nothing."""


class Reason(NamedTuple):
    """Why a finding got its label: the rule, and the sentence that it read. rule: stated, doubted, denied, called normal, nodes described."""

    label: int
    rule: str
    section: str
    place: int  # of the sentence in its section, from 0
    sentence: str


class Rules:
    """The labeller of this module behind the interface of all labellers. It never abstains."""

    name, identity = "rules", None

    def __init__(self, *, unmentioned: int = 0):
        self.unmentioned = unmentioned

    def label(self, id: str, findings: str, impression: str = "") -> dict[str, int]:
        return silver_labels(findings, impression, unmentioned=self.unmentioned)


def silver_labels(findings: Text, impression: Text = "", *, unmentioned: int = 0) -> dict[str, int]:
    """`FINDINGS` -> 1 present, 0 absent, -1 uncertain. A finding stated anywhere is present, whatever else is said of it.

    unmentioned: the label of a finding that the report does not speak of; 0, since reports list what they see (-1 to leave it open).
    """
    return dict.fromkeys(FINDINGS, unmentioned) | {finding: reason.label for finding, reason in reasons(findings, impression).items()}


def reasons(findings: Text, impression: Text = "") -> dict[str, Reason]:
    """What decided each finding that a report speaks of: its first sentence that states it, else doubts it, else denies it."""
    found: dict[str, list[Reason]] = {}
    for section, text in (("findings", findings), ("impression", impression)):
        for place, sentence in enumerate(split(clean(text))):
            for said in statements(sentence):
                found.setdefault(said.finding, []).append(Reason(_RANK.get(said.state, 0), _rule(said, sentence), section, place, sentence))
    described = [r._replace(rule="nodes described") for r in found.get("Lymph nodes", ()) if r.label == 1]
    if described:  # CT-RATE's labels count every lymph node that is described
        found.setdefault("Lymphadenopathy", []).extend(described)
    order = (1, -1, 0)
    return {finding: min(found[finding], key=lambda reason: order.index(reason.label)) for finding in FINDINGS if finding in found}


def _rule(said, sentence: str) -> str:
    if said.state != "absent":
        return "stated" if said.state == "present" else "doubted"
    words = FINDING_WORDS.get(said.finding)
    return "denied" if words is None or words["named"].search(sentence) else "called normal"
