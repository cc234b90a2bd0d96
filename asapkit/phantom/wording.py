"""Puts one or several instances of a finding into words: where they lie, how severe, how many, how large.

`Words` fills the slots of the templates in `phrases` and `doubts`. A slot that an instance cannot fill (no size, one lesion) makes the
templates that need it ineligible, so that no sentence says what the truth does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import TypeVar

import numpy as np

from . import Instance
from .phrases import DEVICES, SEVERITY_ADVERBS, SEVERITY_WORDS

T = TypeVar("T")
PLEURAL = ("Pleural effusion",)
NODAL = ("Lymphadenopathy",)
VASCULAR = ("Arterial wall calcification", "Coronary artery wall calcification")
UNLOCATED = ("Medical material", "Cardiomegaly", "Pericardial effusion", "Hiatal hernia")
COUNTED = ("Lung nodule", "Lymphadenopathy")
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_MANY = ("several", "multiple", "numerous")
_MANY_LOBES = 4  # from here on a report says "both lungs"


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def rounded_mm(rng: np.random.Generator, size_mm: float) -> str:
    """Sizes as reports give them: whole millimetres, below 10 mm sometimes halves; never 0."""
    if size_mm < 10 and rng.random() < 0.4:
        halves = max(2, round(2 * size_mm))
        return f"{halves / 2:g} mm"
    return f"{max(1, round(size_mm))} mm"


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def side_of(instances: Sequence[Instance]) -> str:
    sides = {i.side for i in instances}
    if sides <= {"none"}:
        return "none"
    sides.discard("none")
    return sides.pop() if len(sides) == 1 else "both"


def lobe_of(instances: Sequence[Instance]) -> str:
    lobes = {i.lobe for i in instances}
    return lobes.pop() if len(lobes) == 1 else ""


def bits_of(instances: Sequence[Instance]) -> int:
    mask = 0
    for instance in instances:
        mask |= 1 << instance.bit
    return mask


class Words:
    """The slots of one statement about `instances`, all of one finding. Each call of `fill` draws afresh from `rng`."""

    def __init__(self, rng: np.random.Generator, instances: Sequence[Instance]) -> None:
        self.rng = rng
        self.instances = tuple(instances)
        self.finding = instances[0].finding
        self.count = sum(i.count for i in instances)
        self.severity = max(i.severity for i in instances)
        self.size_mm = float(np.fmax.reduce([i.size_mm for i in instances]))
        self.many = self.finding in COUNTED and self.count > 1

    def can(self, template: str) -> bool:
        """True where every slot of the template is known; a size belongs to one lesion or to the largest of several counted ones."""
        slots = {name for _, name, _, _ in Formatter().parse(template) if name}
        sized = self.size_mm == self.size_mm and (self.many or len(self.instances) == 1)
        return ("size" not in slots or sized) and (not slots & {"count", "Count"} or self.many)

    def fill(self, template: str, **more: str) -> str:
        at, where = self._place()
        mild = pick(self.rng, SEVERITY_WORDS[self.severity])
        values = dict(at=at, where=where, mild=mild, mildly=pick(self.rng, SEVERITY_ADVERBS[self.severity]), count=self._count(), **more)
        if self.size_mm == self.size_mm:
            values["size"] = rounded_mm(self.rng, self.size_mm)
        if self.finding == "Medical material":
            values["device"] = device(self.rng, self.instances[0].place)
        values |= {capital(k): capital(v) for k, v in values.items()}
        return capital(template.format(**values))

    def _count(self) -> str:
        return _NUMBERS.get(self.count) or pick(self.rng, _MANY)

    def _place(self) -> tuple[str, str]:
        """("the right upper lobe", "in the right upper lobe")."""
        if self.finding in UNLOCATED:
            return "", ""
        if self.finding in PLEURAL:
            return _pleural(self.rng, side_of(self.instances))
        if self.finding in NODAL:
            return _nodal(self.rng, _in_order(i.place for i in self.instances))
        if self.finding in VASCULAR:
            at = joined([the(p) for p in _in_order(i.place for i in self.instances)])
            return at, f"in {at}"
        at = _lungs(self.rng, self.instances)
        return at, f"in {at}"


def the(place: str) -> str:
    return place if place.startswith(("the ", "both ")) else f"the {place}"


def device(rng: np.random.Generator, place: str) -> str:
    if place in DEVICES:
        return pick(rng, DEVICES[place])
    if place.endswith("s") or place.startswith(("a ", "an ")):
        return place
    return f"an {place}" if place[:1] in "aeiou" else f"a {place}"


def _in_order(places) -> list[str]:
    return list(dict.fromkeys(places))


def _pleural(rng: np.random.Generator, side: str) -> tuple[str, str]:
    if side in ("left", "right"):
        return f"the {side} pleural space", pick(rng, (f"on the {side}", f"in the {side} pleural space", f"in the {side} hemithorax"))
    return "both pleural spaces", pick(rng, ("on both sides", "in both pleural spaces", "in both hemithoraces"))


def _nodal(rng: np.random.Generator, places: list[str]) -> tuple[str, str]:
    named = [p for p in places if p.rsplit(" ", 1)[-1] in ("mediastinum", "hilum", "axilla", "window", "region", "area", "station")]
    stations = [p for p in places if p not in named]
    parts = [the(p) for p in named]
    if stations:
        noun = pick(rng, ("region", "station", "area"))
        parts.insert(0, f"the {joined(stations)} {noun}{'s' if len(stations) > 1 else ''}")
    at = joined(parts)
    return at, f"in {at}"


def _lobe(rng: np.random.Generator, lobe: str) -> str:
    _, level, _, side = lobe.split("_")
    return pick(rng, (f"the {side} {level} lobe", f"the {level} lobe of the {side} lung", f"the {side} lung {level} lobe"))


def _lungs(rng: np.random.Generator, instances: Sequence[Instance]) -> str:
    lobes = _in_order(i.lobe for i in instances if i.lobe)
    side = side_of(instances)
    if "both" in {i.side for i in instances} or side == "none" or len(lobes) >= _MANY_LOBES:
        return pick(rng, ("both lungs", "both lungs", "the right and left lungs"))
    if len(lobes) == 1 and all(i.lobe for i in instances):
        return _lobe(rng, lobes[0])
    if not lobes or any(not i.lobe for i in instances):
        return "both lungs" if side == "both" else f"the {side} lung"
    levels = {lobe.split("_")[1] for lobe in lobes}
    if len(lobes) == 2 and side == "both" and len(levels) == 1:
        level = levels.pop()
        return pick(rng, (f"both {level} lobes", f"the {level} lobes of both lungs"))
    if side != "both" and len(lobes) == (2 if side == "left" else 3):
        return f"the {side} lung"
    return joined([_lobe(rng, lobe) for lobe in lobes])
