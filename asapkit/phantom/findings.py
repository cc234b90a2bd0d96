"""Disease: which findings a study has, where they lie, and how each is drawn. The mask of an instance is exactly what was drawn for it.

Prevalences and correlations follow CT-RATE's label table in size; positions are spread widely so that place alone does not give a finding away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from asapkit.phantom import Instance
from asapkit.phantom import lesions as draws
from asapkit.phantom.anatomy import LOBES, Patient
from asapkit.types import FINDINGS

PREVALENCE = dict(
    zip(FINDINGS, (0.10, 0.28, 0.11, 0.08, 0.25, 0.14, 0.26, 0.20, 0.26, 0.45, 0.37, 0.27, 0.13, 0.08, 0.11, 0.18, 0.10, 0.09), strict=True)
)
"""Share of studies with each finding, close to CT-RATE's training table."""

TOGETHER: dict[str, tuple[str, float]] = {
    "Coronary artery wall calcification": ("Arterial wall calcification", 3.0), "Pleural effusion": ("Cardiomegaly", 2.0),
    "Atelectasis": ("Pleural effusion", 1.8), "Consolidation": ("Lung opacity", 1.7), "Peribronchial thickening": ("Bronchiectasis", 2.5),
    "Interlobular septal thickening": ("Pleural effusion", 2.0), "Pericardial effusion": ("Pleural effusion", 2.0),
}  # fmt: skip
"""finding -> (finding drawn before it, factor on its odds when that one is present); the odds without it are lowered so that the prevalence holds."""

ORDER = (
    "Arterial wall calcification", "Coronary artery wall calcification", "Cardiomegaly", "Pleural effusion", "Pericardial effusion", "Atelectasis",
    "Lung opacity", "Consolidation", "Bronchiectasis", "Peribronchial thickening", "Interlobular septal thickening", "Medical material",
    "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Lung nodule", "Pulmonary fibrotic sequela", "Mosaic attenuation pattern",
)  # fmt: skip

WORDS = {
    "lung_upper_lobe_left": "left upper lobe", "lung_lower_lobe_left": "left lower lobe", "lung_upper_lobe_right": "right upper lobe",
    "lung_middle_lobe_right": "right middle lobe", "lung_lower_lobe_right": "right lower lobe",
}  # fmt: skip
STATIONS = {
    "right paratracheal region": (15, 4, 30), "subcarinal region": (2, -14, -20), "left hilum": (-40, -6, -6), "right hilum": (40, -6, -14),
    "aortopulmonary window": (-24, 4, 6), "prevascular region": (-6, 34, 16),
}  # fmt: skip


@dataclass(frozen=True)
class Lesion(Instance):
    """An instance with the numbers that draw it (mm in the body frame)."""

    centre: tuple[float, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict, hash=False)
    seed: int = 0


def sample(rng: np.random.Generator, patient: Patient) -> list[Lesion]:
    """Findings of one study as instances with geometry, bits numbered from 0."""
    present: set[str] = set()
    lesions: list[Lesion] = []
    for finding in ORDER:
        if rng.random() < probability(finding, present):
            present.add(finding)
            lesions += MAKERS[finding](rng, patient, finding)
    from dataclasses import replace

    return [replace(lesion, bit=bit) for bit, lesion in enumerate(lesions[:32])]


def probability(finding: str, present: set[str]) -> float:
    """Probability given what was drawn before; averages to `PREVALENCE`."""
    p = PREVALENCE[finding]
    if finding not in TOGETHER:
        return p
    other, factor = TOGETHER[finding]
    q = PREVALENCE[other]
    low = p / (1 - q + q * factor)
    return min(0.95, low * factor) if other in present else low


def heart_scale(instances: Sequence) -> float:
    """Factor on the size of the heart."""
    return float(np.prod([i.numbers["scale"] for i in instances if i.finding == "Cardiomegaly"]))


def draw(canvas, lesion: Lesion) -> None:
    """Draws the instance into HU and marks its voxels."""
    draws.DRAW[lesion.finding](canvas, lesion)


def severity(rng: np.random.Generator) -> int:
    return 1 + int(rng.choice(3, p=(0.4, 0.37, 0.23)))


def make(rng, finding, *, side="none", lobe="", place="", level=None, count=1, size_mm=float("nan"), centre=(), **numbers) -> Lesion:
    return Lesion(
        finding, 0, side, lobe, place, severity(rng) if level is None else level, count, float(size_mm), tuple(float(c) for c in centre),
        {k: float(v) for k, v in numbers.items()}, int(rng.integers(1 << 31)),
    )  # fmt: skip


def in_lobe(rng, patient, finding, *, label: int | None = None, margin: float = 12, **values) -> Lesion:
    """A lesion somewhere inside a lobe (a random one weighted by its size unless given)."""
    label = 1 + int(rng.choice(5, p=(0.24, 0.22, 0.2, 0.1, 0.24))) if label is None else label
    lobe = LOBES[label - 1]
    side = "left" if label <= 2 else "right"
    return make(rng, finding, side=side, lobe=lobe, place=WORDS[lobe], centre=patient.inside_lobe(rng, label, margin=margin), **values)


def lobes(rng, low: int, high: int) -> list[int]:
    """Different lobes, in order."""
    return sorted(int(n) + 1 for n in rng.choice(5, int(rng.integers(low, high + 1)), replace=False))


def medical(rng, patient, finding) -> list[Lesion]:
    kind = ("pacemaker", "central venous catheter", "sternal wires", "port")[int(rng.choice(4, p=(0.35, 0.2, 0.3, 0.15)))]
    side = {"pacemaker": "left", "port": "right"}.get(kind, "none")
    return [make(rng, finding, side=side, place=kind, level=1, height=rng.uniform(0.05, 0.28), across=rng.uniform(0.45, 0.65))]


def arterial(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    part = ("ascending aorta", "aortic arch", "descending aorta")[int(rng.choice(3, p=(0.2, 0.4, 0.4)))]
    low, high = {"ascending aorta": (0.1, 0.3), "aortic arch": (0.32, 0.55), "descending aorta": (0.58, 0.85)}[part]
    return [make(rng, finding, place=part, level=level, count=2 + 3 * level + int(rng.integers(3)), low=low, high=high, radius=2.6 + 0.6 * level)]


def coronary(rng, patient, finding) -> list[Lesion]:
    names = ("left anterior descending artery", "circumflex artery", "right coronary artery")
    chosen = sorted(rng.choice(3, 1 + int(rng.random() < 0.35), replace=False, p=(0.55, 0.2, 0.25)))
    return [make(rng, finding, place=names[n], level=(s := severity(rng)), count=1 + 2 * s, radius=2.2 + 0.5 * s, start=rng.uniform(0, 0.35)) for n in chosen]


def cardiomegaly(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    return [make(rng, finding, place="heart", level=level, scale=(1.16, 1.24, 1.33)[level - 1] * rng.uniform(0.98, 1.03))]


def pericardial(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    thick = (rng.uniform(6, 9), rng.uniform(10, 14), rng.uniform(15, 20))[level - 1]
    return [make(rng, finding, place="pericardium", level=level, size_mm=thick, lean=rng.uniform(0.2, 0.8))]


def hernia(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    radius = (rng.uniform(15, 19), rng.uniform(20, 25), rng.uniform(26, 34))[level - 1]
    centre = (rng.uniform(-16, 4), patient.spine_v + 38 + rng.uniform(-2, 6), patient.bottom + 26 + radius * 0.6 + rng.uniform(0, 14))
    return [make(rng, finding, place="esophageal hiatus", level=level, size_mm=2 * radius, centre=centre, radius=radius, air=rng.uniform(0.1, 0.6))]


def nodes(rng, patient, finding) -> list[Lesion]:
    chosen = rng.choice(len(STATIONS), int(rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2))), replace=False)
    made = []
    for n in sorted(chosen):
        name = list(STATIONS)[n]
        level, side = severity(rng), "left" if "left" in name else "right" if "right" in name else "none"
        size = (rng.uniform(11, 14), rng.uniform(15, 20), rng.uniform(21, 32))[level - 1]
        centre = patient.carina + np.array(STATIONS[name], float) * patient.size + rng.normal(0, 4, 3)
        made.append(make(rng, finding, side=side, place=name, level=level, count=1 + int(rng.integers(3)), size_mm=size, centre=centre))
    return made


def emphysema(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    chosen = lobes(rng, 1, 2) if level == 1 else lobes(rng, 2, 4)
    return [in_lobe(rng, patient, finding, label=n, level=level, count=1, holes=(14, 26, 44)[level - 1], radius=(6, 7.5, 9)[level - 1]) for n in chosen]


def atelectasis(rng, patient, finding) -> list[Lesion]:
    made = []
    for _ in range(1 + int(rng.random() < 0.35)):
        level = severity(rng)
        reach = (rng.uniform(20, 28), rng.uniform(28, 36), rng.uniform(36, 46))[level - 1]
        made.append(in_lobe(rng, patient, finding, level=level, reach=reach, thick=(5, 7.5, 11)[level - 1], pitch=rng.uniform(-0.6, 0.6), yaw=rng.uniform(0, 3.14)))
    return made


def nodule(rng, patient, finding) -> list[Lesion]:
    made = []
    for _ in range(int(rng.choice((1, 2, 3), p=(0.6, 0.27, 0.13)))):
        size = float(np.clip(rng.lognormal(2.35, 0.45), 5, 30))
        level = 1 if size < 9 else 2 if size < 16 else 3
        made.append(in_lobe(rng, patient, finding, margin=3 + size / 2, level=level, size_mm=size, solid=rng.random() < 0.8))
    return made


def blob(low: Sequence[float], high: Sequence[float], count: Sequence[float]) -> Callable:
    """A maker of irregular patches in lobes: largest radius by severity."""

    def maker(rng, patient, finding) -> list[Lesion]:
        made = []
        for _ in range(1 + int(rng.choice(len(count), p=count))):
            level = severity(rng)
            radius = rng.uniform(low[level - 1], high[level - 1]) * patient.size
            made.append(in_lobe(rng, patient, finding, margin=8, level=level, radius=radius, flat=rng.uniform(0.6, 1.0)))
        return made

    return maker


def sequela(rng, patient, finding) -> list[Lesion]:
    return [
        in_lobe(rng, patient, finding, level=(s := severity(rng)), bands=3 + 2 * s, reach=18 + 6 * s, margin=8)
        for _ in range(1 + int(rng.random() < 0.4))
    ]


def effusion(rng, patient, finding) -> list[Lesion]:
    side = ("left", "right", "both")[int(rng.choice(3, p=(0.3, 0.35, 0.35)))]
    made = []
    for one in ("left", "right") if side == "both" else (side,):
        level = severity(rng)
        thick = (rng.uniform(9, 15), rng.uniform(18, 28), rng.uniform(32, 48))[level - 1]
        made.append(make(rng, finding, side=one, place=f"{one} pleural space", level=level, size_mm=thick))
    return made


def mosaic(rng, patient, finding) -> list[Lesion]:
    return [make(rng, finding, side="both", place="both lungs", level=severity(rng), length=rng.uniform(26, 40))]


def airway(rng, patient, finding) -> list[Lesion]:
    """Peribronchial thickening: along the bronchi of some lobes."""
    level = severity(rng)
    return [in_lobe(rng, patient, finding, label=n, level=level, thick=(3.0, 4.0, 5.2)[level - 1]) for n in lobes(rng, 1, 3)]


def dilated(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    return [in_lobe(rng, patient, finding, label=n, margin=16, level=level, tubes=4 + 2 * level, radius=(3.8, 4.8, 6.0)[level - 1]) for n in lobes(rng, 1, 2)]


def septal(rng, patient, finding) -> list[Lesion]:
    level = severity(rng)
    return [in_lobe(rng, patient, finding, label=n, level=level, cell=rng.uniform(19, 25), thick=(2.2, 3.0, 4.0)[level - 1]) for n in lobes(rng, 1, 3)]


MAKERS: dict[str, Callable] = {
    "Medical material": medical, "Arterial wall calcification": arterial, "Coronary artery wall calcification": coronary,
    "Cardiomegaly": cardiomegaly, "Pericardial effusion": pericardial, "Hiatal hernia": hernia, "Lymphadenopathy": nodes, "Emphysema": emphysema,
    "Atelectasis": atelectasis, "Lung nodule": nodule, "Lung opacity": blob((17, 22, 28), (22, 28, 38), (0.5, 0.3, 0.2)),
    "Consolidation": blob((15, 20, 26), (20, 26, 36), (0.75, 0.25)), "Pulmonary fibrotic sequela": sequela, "Pleural effusion": effusion,
    "Mosaic attenuation pattern": mosaic, "Peribronchial thickening": airway, "Bronchiectasis": dilated, "Interlobular septal thickening": septal,
}  # fmt: skip
