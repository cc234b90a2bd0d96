"""Disease: which of the 18 findings a study has, and the order in which they are placed and drawn. An instance's mask is what was drawn for it.

Prevalences and correlations are of the size of CT-RATE's label table; lesions are spread widely, so that place alone gives little away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from . import findings_airway as airway
from . import findings_heart as heart
from . import findings_lung as lung
from . import thorax as chests
from .anatomy import Patient
from .canvas import Canvas
from .findings_devices import draw_device, place_device
from .lesions import Lesion
from .thorax import Thorax

PREVALENCE: dict[str, float] = {
    "Medical material": 0.10, "Arterial wall calcification": 0.28, "Cardiomegaly": 0.11, "Pericardial effusion": 0.07,
    "Coronary artery wall calcification": 0.25, "Hiatal hernia": 0.14, "Lymphadenopathy": 0.26, "Emphysema": 0.20, "Atelectasis": 0.26,
    "Lung nodule": 0.45, "Lung opacity": 0.37, "Pulmonary fibrotic sequela": 0.27, "Pleural effusion": 0.12, "Mosaic attenuation pattern": 0.08,
    "Peribronchial thickening": 0.11, "Consolidation": 0.18, "Bronchiectasis": 0.10, "Interlobular septal thickening": 0.08,
}  # fmt: skip

CAUSES = ("vessels", "failure", "infection", "airways", "smoke")
LOADING: dict[str, tuple[float, ...]] = {
    "Medical material": (0.3, 0.2, 0, 0, 0), "Arterial wall calcification": (0.8, 0, 0, 0, 0.1), "Cardiomegaly": (0.25, 0.5, 0, 0, 0),
    "Pericardial effusion": (0, 0.5, 0.1, 0, 0), "Coronary artery wall calcification": (0.75, 0.1, 0, 0, 0.1), "Hiatal hernia": (0.25, 0, 0, 0, 0),
    "Lymphadenopathy": (0, 0.1, 0.3, 0, 0.1), "Emphysema": (0.2, 0, 0, 0.15, 0.55), "Atelectasis": (0, 0.4, 0.25, 0, 0),
    "Lung nodule": (0.1, 0, 0, 0, 0.25), "Lung opacity": (0, 0.1, 0.65, 0, 0), "Pulmonary fibrotic sequela": (0.2, 0, 0, 0.2, 0.3),
    "Pleural effusion": (0.05, 0.65, 0.25, 0, 0), "Mosaic attenuation pattern": (0, 0.1, 0, 0.4, 0),
    "Peribronchial thickening": (0, 0, 0.15, 0.65, 0), "Consolidation": (0, 0.1, 0.7, 0, 0),
    "Bronchiectasis": (0, 0, 0, 0.75, 0), "Interlobular septal thickening": (0, 0.55, 0.2, 0, 0),
}  # fmt: skip
"""How strongly hidden causes (in `CAUSES` order; vessels grow with age) drive each finding: together they give the correlations."""

TOGETHER: dict[str, tuple[str, float]] = {
    "Coronary artery wall calcification": ("Arterial wall calcification", 1.2), "Pleural effusion": ("Cardiomegaly", 1.2),
    "Atelectasis": ("Pleural effusion", 1.2), "Consolidation": ("Lung opacity", 1.2), "Peribronchial thickening": ("Bronchiectasis", 1.2),
    "Interlobular septal thickening": ("Pleural effusion", 1.2), "Pericardial effusion": ("Pleural effusion", 1.2),
}  # fmt: skip
"""finding -> (another with the same cause, how many times as often it is seen beside that one as without it, at least; held by a test)."""

STEPS: tuple[tuple[str, str, Callable, Callable], ...] = (
    ("Cardiomegaly", "heart", heart.place_cardiomegaly, heart.draw_cardiomegaly),
    ("Pericardial effusion", "heart", heart.place_pericardial, heart.draw_pericardial),
    ("Pleural effusion", "lung", heart.place_effusion, heart.draw_effusion),
    ("Mosaic attenuation pattern", "lung", airway.place_mosaic, airway.draw_mosaic),
    ("Emphysema", "lung", airway.place_emphysema, airway.draw_emphysema),
    ("Lung opacity", "lung", lung.place_opacity, lung.draw_opacity),
    ("Interlobular septal thickening", "lung", lung.place_septal, lung.draw_septal),
    ("Bronchiectasis", "lung", airway.place_bronchiectasis, airway.draw_bronchiectasis),
    ("Peribronchial thickening", "lung", airway.place_peribronchial, airway.draw_peribronchial),
    ("Pulmonary fibrotic sequela", "lung", lung.place_sequela, lung.draw_sequela),
    ("Consolidation", "lung", lung.place_consolidation, lung.draw_consolidation),
    ("Atelectasis", "lung", lung.place_atelectasis, lung.draw_atelectasis),
    ("Lung nodule", "lung", lung.place_nodule, lung.draw_nodule),
    ("Hiatal hernia", "heart", heart.place_hernia, heart.draw_hernia),
    ("Lymphadenopathy", "mediastinum", heart.place_nodes, heart.draw_nodes),
    ("Arterial wall calcification", "mediastinum", heart.place_arterial, heart.draw_arterial),
    ("Coronary artery wall calcification", "mediastinum", heart.place_coronary, heart.draw_coronary),
    ("Medical material", "mediastinum", place_device, draw_device),
)
"""finding, when it is drawn (after the anatomy of that name), how it is placed, how it is drawn; in the order of both."""
_SEVERITY = (0.38, 0.37, 0.25)
_BITS = 32


def present(rng: np.random.Generator, patient: Patient) -> set[str]:
    """Which findings a study has."""
    causes = rng.standard_normal(len(CAUSES))
    causes[0] = 0.75 * (patient.age - 57) / 16 + 0.66 * causes[0]
    own = rng.standard_normal(len(PREVALENCE))
    out = set()
    for (finding, share), noise in zip(PREVALENCE.items(), own, strict=True):
        load = np.array(LOADING[finding])
        if load @ causes + np.sqrt(max(1 - load @ load, 0.05)) * noise > ndtri(1 - share):
            out.add(finding)
    return out


def sample(rng: np.random.Generator, patient: Patient) -> list[Lesion]:
    """Findings of one study as instances with geometry; bits count from 0."""
    chosen, lesions, thorax = present(rng, patient), [], chests.of(patient)
    for finding, _, place, _ in STEPS:
        stream = np.random.default_rng(rng.integers(1 << 63))  # one finding's draws never shift another's
        if finding in chosen:
            level = 1 + int(stream.choice(3, p=_SEVERITY))
            lesions += place(stream, thorax, level=level, others=lesions)
            thorax = chests.of(patient, heart_scale(lesions))
    return [replace(one, bit=bit) for bit, one in enumerate(lesions[:_BITS])]


def heart_scale(instances: Sequence) -> float:
    """Factor on the size of the heart."""
    return float(max([one.numbers["scale"] for one in instances if one.finding == "Cardiomegaly"], default=1.0))


def draw(canvas: Canvas, thorax: Thorax, instances: Sequence[Lesion], *, stage: str) -> None:
    """Draws the instances of one stage into HU and marks their voxels."""
    for finding, when, _, step in STEPS:
        if when == stage:
            for one in instances:
                if one.finding == finding:
                    step(canvas, thorax, one)
