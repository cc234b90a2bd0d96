"""Sides, lobes and organs in a sentence."""

from __future__ import annotations

import re

from asapkit.types import ORGANS

_ZONE = r"(?:upper|middle|lower)"
_ZONES = rf"{_ZONE}(?:(?:\s?[-,/]\s?|,?\s(?:and|or|and/or)\s)(?:the\s)?{_ZONE})*"
_SIDE = r"(?:left|right|both|bilateral|each)"
_SIDE_ZONE = re.compile(rf"\b({_SIDE})(?:\s(?:lungs?|hemithorax|the|lung's|sided?|pulmonary))*\s(?:the\s)?({_ZONES})\b", re.I)
_ZONE_SIDE = re.compile(
    rf"\b({_ZONES})(?:\s(?:lobes?|zones?|lung|fields?|parts?|segments?|lobar|\w+ segments?|\w+basal)){{0,3}}\s?(?:\s(?:of|in|on|"
    rf"at))?(?:\sthe)?\s({_SIDE})\b(?!\s{_ZONE})",
    re.I,
)
_LOOSE_ZONE = re.compile(rf"\b({_ZONES})\s(?:lobes?|lungs?|zones?|lobar)\b|\b(?:lobes?)\s({_ZONES})\b", re.I)
_PLURAL_ZONE = re.compile(rf"\b{_ZONE}\s(?:lobes|lungs|zones)\b", re.I)
_ACRONYM = re.compile(r"\b([RL])([UML])L\b")
_LINGULA = re.compile(r"\blingul\w*|\btongue (?:segment|lobe)", re.I)
_BASAL = re.compile(r"\b(?:postero|latero|medio|antero)[- ]?basal|\bbasal segments?|\blung bases?|\bbibasal\w*|\bbasilar", re.I)
_APICAL = re.compile(r"\bapicoposterior|\blung apex|\bapices|\bapical (?:segment|zone)", re.I)
_LEFT = re.compile(r"\bleft\b(?! (?:anterior descending|atri\w+|ventric\w+|facing|main coronary))", re.I)
_RIGHT = re.compile(r"\bright\b(?! (?:atri\w+|ventric\w+|facing|heart|coronary|paratracheal))", re.I)
_BOTH = re.compile(
    r"\b(?:both|bilateral\w*|bibasal\w*|on either side|either (?:lung|hemithorax|side)|both[- ]sided)\b|\b(?:the lungs|lungs are)\b", re.I
)
_LUNG_WORDS = re.compile(
    r"\blungs?\b|\bpulmonary (?:nodul|parenchym|emphysem|fibros|opacit|lesion|infiltr|mass|consolid|hil)\w*|\bparenchyma\w*|\bhemithora\w+|"
    r"\bpleura\w*|"
    r"\bbronch\w+|\bsubpleural|\binterlobular|\bpneumothora\w+|\bpneumoni\w+|\bfissures?\b",
    re.I,
)
_HEART = re.compile(r"\bheart\b|\bcardia\w*|\bcardio\w+|\bpericard\w+|\bcoronar\w+|\bventric\w+|\batri(?:um|a|al)\b|\bmitral|\btricuspid|"
r"\bvalv\w+|\bLAD\b|\bcircumflex|"
    r"left anterior descending|\bpace-?maker|\bdefibrillator", re.I)  # fmt: skip
_APPENDAGE = re.compile(r"atrial append\w+|left atri\w+", re.I)
_AORTA = re.compile(
    r"\baort(?!opulmonary|icopulmonary)\w*|\bsupra-?aortic|\bmediastinal (?:main |major |great )?(?:vascular|vessel)\w*|\bgreat vessels|"
    r"\bmain vascular|large vessels",
    re.I,
)
_ESOPHAGUS = re.compile(r"\bo?esophag\w+|\bhiat(?:al|us)\b|\bnasogastric", re.I)
_LUNG_FINDINGS = frozenset(
    ("Emphysema", "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
     "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening")
)  # fmt: skip
_ORGAN_OF = {"Arterial wall calcification": "aorta", "Cardiomegaly": "heart", "Pericardial effusion": "heart", "Hiatal hernia": "esophagus"}
_LOBES = {o.removeprefix("lung_").replace("_lobe_", " "): o for o in ORGANS if o.startswith("lung_")}  # "upper left" -> organ


def side_named(text: str) -> str:
    """left, right, both, or "" where no side is said."""
    left, right = bool(_LEFT.search(text)), bool(_RIGHT.search(text))
    if _BOTH.search(text) or (left and right):
        return "both"
    return "left" if left else "right" if right else ""


def _pairs(zones: str, side: str) -> set[str]:
    sides = (side.lower(),) if side.lower() in ("left", "right") else ("left", "right")
    return {_LOBES[f"{z} {s}"] for z in re.findall(_ZONE, zones.lower()) for s in sides if f"{z} {s}" in _LOBES}


def lobes_named(text: str) -> tuple[str, ...]:
    """Lobes as `ORGANS` names, in their order. "Lower lobes" without a side are both; the middle lobe is the right one; the lingula is left upper."""
    found: set[str] = set()
    rest = text
    for pattern, side_group, zone_group in ((_SIDE_ZONE, 1, 2), (_ZONE_SIDE, 2, 1)):
        for m in pattern.finditer(rest):
            found |= _pairs(m[zone_group], m[side_group])
        rest = pattern.sub(lambda m: " " * len(m.group()), rest)
    for m in _ACRONYM.finditer(text):
        zone = {"U": "upper", "M": "middle", "L": "lower"}[m[2]]
        found |= _pairs(zone, "right" if m[1] == "R" else "left")
    side = side_named(text)
    for m in _LOOSE_ZONE.finditer(rest):
        found |= _pairs(m[1] or m[2], side if side in ("left", "right") and not _PLURAL_ZONE.match(m.group()) else "both")
    if _LINGULA.search(text):
        found |= _pairs("upper", "left")
    if not found and side:
        zone = "lower" if _BASAL.search(text) else "upper" if _APICAL.search(text) else ""
        found |= _pairs(zone, side)
    return tuple(o for o in ORGANS if o in found)


def organs_of(sentence: str, findings: tuple[str, ...]) -> tuple[str, ...]:
    """`ORGANS` that a sentence with these findings may concern."""
    named = set(lobes_named(sentence))
    if not named and (_LUNG_WORDS.search(sentence) or _LUNG_FINDINGS & set(findings)):
        side = side_named(sentence)
        named |= {o for o in _LOBES.values() if side not in ("left", "right") or o.endswith(side)}
    for pattern, organ in ((_HEART, "heart"), (_APPENDAGE, "atrial_appendage_left"), (_AORTA, "aorta"), (_ESOPHAGUS, "esophagus")):
        if pattern.search(sentence):
            named.add(organ)
    named |= {organ for finding, organ in _ORGAN_OF.items() if finding in findings}
    return tuple(o for o in ORGANS if o in named)
