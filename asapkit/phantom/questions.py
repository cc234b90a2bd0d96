"""Questions and answers of the five RadGenome-ChestCT kinds, from the findings section and the instances that it states.

    abnormality  Volumename, Anatomy, Abnormality          what is wrong in a region ("no findings" where it is spoken of as normal)
    presence     Volumename, Anatomy, Finding, Presence    "Yes." / "No."
    size         Volumename, Anatomy, Abnormality, Size    "7 mm"
    location     Volumename, Anatomy, Abnormality          where a finding lies
    disorder     Volumename, Disorders                     all findings of the volume
and `region_report` (Volumename, Anatomy, Sentence): the sentences of each region; the row without anatomy is the whole section.

Source: column layout and region paths of RadGenome-ChestCT's tables; every finding is filed under all regions that contain it.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import Instance
from .sentences import GROUPS, Report, Sentence

TABLES: dict[str, tuple[str, ...]] = {
    "vqa_abnormality": ("Volumename", "Anatomy", "Abnormality"),
    "vqa_presence": ("Volumename", "Anatomy", "Finding", "Presence"),
    "vqa_size": ("Volumename", "Anatomy", "Abnormality", "Size"),
    "vqa_location": ("Volumename", "Anatomy", "Abnormality"),
    "case_disorders": ("Volumename", "Disorders"),
    "region_report": ("Volumename", "Anatomy", "Sentence"),
}
_REGIONS: dict[str, tuple[str, ...]] = {
    "airway": ("trachea and bronchie", "trachea and bronchie/trachea", "trachea and bronchie/bronchie"),
    "vessels": ("mediastinum", "mediastinum/aorta"),
    "heart": ("heart", "heart/heart", "heart/heart/heart tissue"),
    "esophagus": ("esophagus", "esophagus/esophagus"),
    "nodes": ("mediastinum", "mediastinum/mediastinal tissue"),
    "lungs": ("lung", "lung/lung"),
    "pleura": ("pleura", "pleura/pleura"),
    "abdomen": ("abdomen", "abdomen/abdomen"),
    "bones": ("bone", "bone/bone"),
}
_BRONCHIAL = ("Peribronchial thickening", "Bronchiectasis")
NO_FINDINGS = "no findings"


def regions(group: str, finding: str, *, side: str, lobe: str) -> tuple[str, ...]:
    """All region paths that hold a finding, coarse to fine; () for what is about no region."""
    paths = list(_REGIONS.get(group, ()))
    if group == "lungs" and lobe:
        _, level, _, side = lobe.split("_")
        own = f"{side} lung {level} lobe"
        paths += [f"lung/lung/{side} lung", f"lung/lung/{side} lung/{own}", f"lung/lung/lung {level} lobe", f"lung/lung/lung {level} lobe/{own}"]
    elif group == "lungs" and side in ("left", "right"):
        paths.append(f"lung/lung/{side} lung")
    if finding in _BRONCHIAL:
        paths += _REGIONS["airway"][::2]
    return tuple(paths)


def rows(name: str, report: Report, instances: Sequence[Instance]) -> dict[str, list[tuple[str, ...]]]:
    """Rows of every table for one volume; `name` is its VolumeName, `instances` are those that the report states."""
    found = _by_region([(_of_instance(i), i.finding.lower()) for i in instances])
    denied = _by_region([(_of_sentence(s), s.finding.lower()) for s in report.findings if s.polarity == "negative"])
    spoken = _by_region([(_of_sentence(s), s.text) for s in report.findings])
    disorders = list(dict.fromkeys(i.finding.lower() for i in instances))
    sized = [i for i in instances if i.size_mm == i.size_mm]
    sizes = dict.fromkeys((path, i.finding.lower(), f"{max(1, round(i.size_mm))} mm") for i in sized for path in _of_instance(i))
    return {
        "vqa_abnormality": [(name, p, ", ".join(found[p]) if p in found else NO_FINDINGS) for p in dict.fromkeys([*found, *spoken])],
        "vqa_presence": [(name, p, ", ".join(f), "Yes.") for p, f in found.items()] + [(name, p, ", ".join(f), "No.") for p, f in denied.items()],
        "vqa_size": [(name, *row) for row in sizes],
        "vqa_location": [(name, p, ", ".join(f)) for p, f in found.items()],
        "case_disorders": [(name, ", ".join(disorders) or NO_FINDINGS)],
        "region_report": [(name, "", report.findings_text), *((name, p, " ".join(t)) for p, t in spoken.items())],
    }


def _of_instance(instance: Instance) -> tuple[str, ...]:
    return regions(GROUPS[instance.finding], instance.finding, side=instance.side, lobe=instance.lobe)


def _of_sentence(sentence: Sentence) -> tuple[str, ...]:
    return regions(sentence.group, sentence.finding, side=sentence.side, lobe=sentence.lobe)


def _by_region(items: list[tuple[tuple[str, ...], str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for paths, what in items:
        for path in paths:
            if what not in out.setdefault(path, []):
                out[path].append(what)
    return out
