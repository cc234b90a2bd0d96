"""The course of a patient before any voxel is drawn: age, sex, studies, reconstructions, scanner; and disease from study to study.

Every patient has random streams of its own (`stream`), so the cohort is the same whoever computes it, in whatever order, and patient 7 is
the same in a cohort of 10 and of 1000 volumes, at every scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from . import VERSION, Instance
from .wording import pick

I = TypeVar("I", bound=Instance)  # noqa: E741
STREAMS = ("plan", "anatomy", "disease", "text", "noise", "outcome", "scanner")
_STUDIES = (0.80, 0.15, 0.05)  # share of patients with 1, 2, 3 studies
_TWO_RECONSTRUCTIONS = 0.25  # share of studies
_GAP_DAYS = (30, 900)
_MAX_INSTANCES = 32  # bits of the truth

CHRONIC = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Coronary artery wall calcification", "Hiatal hernia", "Emphysema",
    "Lung nodule", "Pulmonary fibrotic sequela", "Mosaic attenuation pattern", "Peribronchial thickening", "Bronchiectasis",
)  # fmt: skip
_STAYS = 0.93  # a chronic instance is there again
_PERSISTS = 0.30  # an acute one
_NEW_CHRONIC = 0.25  # a chronic finding of a fresh draw is taken over

# what real tables call kernels; manufacturers and models are invented. (soft, sharp) kernels, rescale intercept
SCANNERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...], int], ...] = (
    ("Norderney Imaging", "Helix 256", ("B", "A"), ("YA", "L"), -1024),
    ("Norderney Imaging", "Wide Bore 16", ("B", "UB"), ("EA", "YA"), -1024),
    ("Calanda Medical", "Corona go", ("['Br40f', '3']", "['Br44f', '3']"), ("['Br60f', '3']", "['Bl56f', '3']", "['Bl57d', '3']"), -8192),
    ("Calanda Medical", "Corona Dual", ("['Br40d', '3']",), ("['Bl57d', '3']",), -1024),
    ("Sund CT", "MX-20", ("A", "B"), ("D", "L"), -1024),
)  # fmt: skip
_SCANNER_SHARE = (0.45, 0.12, 0.30, 0.07, 0.06)


@dataclass(frozen=True)
class Study:
    """One examination: day after the first one, number of reconstructions, and the acquisition they share."""

    letter: str  # a, b, c
    day: int
    reconstructions: int
    scanner: int  # index into SCANNERS
    clinical: str
    axes: str  # how its arrays are stored: "LPS" as in CT-RATE, sometimes another


@dataclass(frozen=True)
class Course:
    """One patient of the cohort."""

    number: int  # 0-based, over both splits
    split: str  # train | valid
    name: str  # train_7
    age: int  # years at the first study
    sex: str  # M | F
    first_day: int  # ordinal date of the first study
    studies: tuple[Study, ...]

    @property
    def volumes(self) -> int:
        return sum(s.reconstructions for s in self.studies)

    def limited(self, volumes: int) -> Course:
        """The same course cut after so many volumes."""
        kept = []
        for study in self.studies:
            if volumes > 0:
                kept.append(replace(study, reconstructions=min(study.reconstructions, volumes)))
                volumes -= study.reconstructions
        return replace(self, studies=tuple(kept))


CLINICAL = (
    "Not given.", "Not given.", "Cough.", "Shortness of breath.", "Fever and cough.", "Chest pain.", "Follow-up examination.",
    "Preoperative evaluation.", "Weakness and weight loss.", "Sputum for several weeks.", "Control examination.",
)  # fmt: skip
_AXES = ("LPS", "LPS", "LPS", "LPS", "LPS", "LPS", "LPS", "RAS", "LAS", "RPS")


def stream(seed: int, patient: int, purpose: str, *which: int) -> np.random.Generator:
    """The random stream of one purpose (`STREAMS`) of one patient; `which` numbers the study and the reconstruction."""
    key = (VERSION, patient, STREAMS.index(purpose), *which)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def plan(seed: int, *, volumes: int, valid_share: float) -> list[Course]:
    """Courses that hold exactly `volumes` volumes; whole patients go to one split, evenly spread so that the share holds from the start."""
    courses: list[Course] = []
    counts = {"train": 0, "valid": 0}
    while volumes > 0:
        number = len(courses)
        valid = int((number + 1) * valid_share + 0.5) > int(number * valid_share + 0.5)
        split = "valid" if valid else "train"
        counts[split] += 1
        course = _course(stream(seed, number, "plan"), number, split, f"{split}_{counts[split]}").limited(volumes)
        courses.append(course)
        volumes -= course.volumes
    return courses


def _course(rng: np.random.Generator, number: int, split: str, name: str) -> Course:
    studies, day = [], 0
    for k in range(1 + int(rng.choice(3, p=_STUDIES))):
        studies.append(
            Study(
                "abc"[k], day, 1 + int(rng.random() < _TWO_RECONSTRUCTIONS), int(rng.choice(len(SCANNERS), p=_SCANNER_SHARE)),
                pick(rng, CLINICAL), pick(rng, _AXES),
            )
        )  # fmt: skip
        day += int(rng.integers(*_GAP_DAYS))
    age = int(np.clip(rng.normal(57, 16), 19, 92))
    first_day = 736_000 + int(rng.integers(0, 2200))  # 2016 to 2022
    return Course(number, split, name, age, pick(rng, "MF"), first_day, tuple(studies))


def progressed(rng: np.random.Generator, before: Sequence[I], fresh: Sequence[I]) -> list[I]:
    """Instances of a follow-up study: chronic ones stay, acute ones mostly resolve, new ones come from a fresh draw; bits are renumbered.

    A finding is either continued or new, never both, so that no lesion lies twice in one place.
    """
    kept = [i for i in before if rng.random() < (_STAYS if i.finding in CHRONIC else _PERSISTS)]
    there = {i.finding for i in kept}
    news = [i for i in fresh if i.finding not in there]
    wanted = {f for f in dict.fromkeys(i.finding for i in news) if f not in CHRONIC or rng.random() < _NEW_CHRONIC}
    together = (kept + [i for i in news if i.finding in wanted])[:_MAX_INSTANCES]
    return [replace(i, bit=bit) for bit, i in enumerate(together)]
