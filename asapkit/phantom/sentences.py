"""Writes the report of a study from its truth: findings in anatomical order, then the impression; each sentence knows what it states.

Order of the day: every stated instance gets a positive sentence (alone or together with others of its finding); some get an uncertain one
behind it (what it may mean, or an absent finding that it may be mistaken for); the rest are denials of absent findings and normal anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..types import FINDINGS
from . import Instance
from .denials import COMPARISON, NEGATIVE, NO_FINDING, NORMAL, OPENING
from .doubts import DOUBT, MIMICRY, MIMICS, NAMES
from .phrases import POSITIVE
from .summaries import IMPRESSION
from .wording import COUNTED, Words, bits_of, lobe_of, pick, side_of

Polarity = Literal["positive", "negative", "uncertain", "normal"]
NOT_GIVEN = "Not given."

GROUPS: dict[str, str] = dict.fromkeys(FINDINGS, "lungs") | {
    "Medical material": "heart", "Arterial wall calcification": "vessels", "Cardiomegaly": "heart", "Pericardial effusion": "heart",
    "Coronary artery wall calcification": "heart", "Hiatal hernia": "esophagus", "Lymphadenopathy": "nodes", "Pleural effusion": "pleura",
}  # fmt: skip
"""The part of a report that speaks of a finding."""
ORDERS = (
    ("opening", "airway", "vessels", "heart", "esophagus", "nodes", "lungs", "pleura", "abdomen", "bones"),
    ("opening", "airway", "vessels", "heart", "pleura", "esophagus", "nodes", "lungs", "abdomen", "bones"),
    ("opening", "vessels", "heart", "nodes", "esophagus", "airway", "lungs", "pleura", "abdomen", "bones"),
    ("opening", "airway", "lungs", "pleura", "heart", "vessels", "esophagus", "nodes", "abdomen", "bones"),
    ("opening", "airway", "heart", "vessels", "esophagus", "nodes", "lungs", "pleura", "bones", "abdomen"),
)
_DIFFUSE = ("Emphysema", "Mosaic attenuation pattern", "Peribronchial thickening", "Interlobular septal thickening", "Bronchiectasis")
_DENIED_OFTEN = ("Pericardial effusion", "Pleural effusion", "Lymphadenopathy", "Consolidation", "Lung nodule")
_NORMAL_WEIGHT = {"trachea": 4.0, "abdomen": 2.0, "bones": 2.0, "vessels": 1.5, "heart": 1.5, "esophagus": 1.5}
_SENTENCES = (10, 17)  # target length of the findings section, drawn from this half-open range


@dataclass(frozen=True)
class Sentence:
    """One sentence and what it states. `bits` has bit i set where it speaks of the instance with `Instance.bit == i`."""

    text: str
    polarity: Polarity
    finding: str = ""  # one of `FINDINGS`, or "" for normal anatomy
    bits: int = 0
    side: str = "none"
    lobe: str = ""
    group: str = ""  # part of the report, a value of `GROUPS` or a topic's group


@dataclass(frozen=True)
class Report:
    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]  # empty where the impression is "Not given."

    @property
    def findings_text(self) -> str:
        return " ".join(s.text for s in self.findings)

    @property
    def impression_text(self) -> str:
        return " ".join(s.text for s in self.impression) or NOT_GIVEN

    @property
    def stated(self) -> frozenset[str]:
        """Findings that a positive sentence states: the labels."""
        return frozenset(s.finding for s in self.findings if s.polarity == "positive")


def write(rng: np.random.Generator, instances: Sequence[Instance], *, absent: Sequence[str], follow_up: bool = False) -> Report:
    """The report of a study.

    instances: what is visible and therefore stated, distinct bits. absent: findings that are truly not there (neither stated nor hidden),
    the only ones that may be denied. follow_up: an earlier study exists, and the report says that it was compared.

    Raises: ValueError when a finding is both stated and absent.
    """
    if both := {i.finding for i in instances} & set(absent):
        raise ValueError(f"{sorted(both)} cannot be stated and absent at once")
    writer = _Writer(rng, absent)
    blocks = [writer.state(group) for finding in FINDINGS for group in _grouped(rng, [i for i in instances if i.finding == finding])]
    stated = sum(len(b) for b in blocks)
    blocks += [[s] for s in writer.rest(int(rng.integers(*_SENTENCES)) - stated, follow_up=follow_up)]
    return Report(tuple(_ordered(rng, blocks)), tuple(writer.summary(instances)))


def _grouped(rng: np.random.Generator, instances: list[Instance]) -> list[list[Instance]]:
    """Which instances of one finding share a sentence: each alone, by side, or all together."""
    if len(instances) < 2:
        return [instances] if instances else []
    if instances[0].finding == "Medical material":
        return [[i] for i in instances]
    diffuse = instances[0].finding in _DIFFUSE
    if len(instances) <= 3 and rng.random() < (0.15 if diffuse else 0.45):
        return [[i] for i in instances]
    if len({i.side for i in instances}) > 1 and rng.random() < (0.3 if diffuse else 0.6):
        sides = list(dict.fromkeys(i.side for i in instances))
        return [[i for i in instances if i.side == side] for side in sides]
    return [instances]


def _ordered(rng: np.random.Generator, blocks: list[list[Sentence]]) -> list[Sentence]:
    """Anatomical order of one of several habits; within a part of the report any order, a doubt stays behind what it doubts."""
    out: list[Sentence] = []
    for group in pick(rng, ORDERS):
        inside = [b for b in blocks if b[0].group == group]
        for i in rng.permutation(len(inside)):
            out += inside[i]
    return out


class _Writer:
    """Draws sentences without saying the same text twice in a section."""

    def __init__(self, rng: np.random.Generator, absent: Sequence[str]) -> None:
        self.rng, self.absent = rng, tuple(absent)
        self.used: set[str] = set()

    def state(self, instances: Sequence[Instance]) -> list[Sentence]:
        """A positive sentence, sometimes an uncertain one behind it."""
        words = Words(self.rng, instances)
        finding = words.finding
        templates = POSITIVE[finding].get("any", ()) + POSITIVE[finding].get("many" if words.many else "one", ())
        template = self._unused([t for t in templates if words.can(t)])
        first = Sentence(words.fill(template), "positive", finding, bits_of(instances), side_of(instances), lobe_of(instances), GROUPS[finding])
        draw = self.rng.random()
        if draw < 0.12 and not (finding in COUNTED and (words.many or len(instances) > 1)):
            return [first, replace(first, text=words.fill(self._unused(DOUBT[finding])), polarity="uncertain")]
        others = [o for o in MIMICS.get(finding, ()) if o in self.absent]
        if draw > 0.91 and others:
            other = pick(self.rng, others)
            text = words.fill(self._unused(MIMICRY), other=NAMES[other])
            return [first, replace(first, text=text, polarity="uncertain", finding=other)]
        return [first]

    def rest(self, number: int, *, follow_up: bool) -> list[Sentence]:
        """Denials and normal anatomy; at least four, so that no report holds disease only."""
        choices = [(Sentence("", "negative", f, group=GROUPS[f]), NEGATIVE[f], 1.5 if f in _DENIED_OFTEN else 0.45) for f in self.absent]
        for topic, (group, unless, texts) in NORMAL.items():
            if set(unless) <= set(self.absent):
                choices.append((Sentence("", "normal", group=group), texts, _NORMAL_WEIGHT.get(topic, 0.8)))
        weight = np.array([c[2] for c in choices])
        chosen = self.rng.choice(len(choices), size=min(max(number, 4), len(choices)), replace=False, p=weight / weight.sum())
        out = [replace(choices[i][0], text=self._unused(choices[i][1])) for i in sorted(chosen)]
        if follow_up or self.rng.random() < 0.25:
            out.append(Sentence(pick(self.rng, COMPARISON if follow_up else OPENING), "normal", group="opening"))
        return out

    def summary(self, instances: Sequence[Instance]) -> list[Sentence]:
        """The impression: positives, most of them; [] stands for "Not given."."""
        self.used.clear()
        found = [f for f in FINDINGS if any(i.finding == f for i in instances)]
        if self.rng.random() < (0.04 if found else 0.3):
            return []
        if not found:
            return [Sentence(pick(self.rng, NO_FINDING), "normal")]
        kept = [f for f in found if self.rng.random() < 0.85] or [pick(self.rng, found)]
        out = [s for i in self.rng.permutation(len(kept)) for s in self._sum_up([x for x in instances if x.finding == kept[i]])]
        if self.absent and self.rng.random() < 0.15:
            finding = pick(self.rng, self.absent)
            out.append(Sentence(self._unused(NEGATIVE[finding]), "negative", finding, group=GROUPS[finding]))
        return out

    def _sum_up(self, instances: Sequence[Instance]) -> list[Sentence]:
        finding = instances[0].finding
        out = []
        for group in [[i] for i in instances] if finding == "Medical material" else [instances]:
            words = Words(self.rng, group)
            text = words.fill(self._unused([t for t in IMPRESSION[finding] if words.can(t)]))
            out.append(Sentence(text, "positive", finding, bits_of(group), side_of(group), lobe_of(group), GROUPS[finding]))
        return out

    def _unused(self, templates: Sequence[str]) -> str:
        template = pick(self.rng, [t for t in templates if t not in self.used] or list(templates))
        self.used.add(template)
        return template
