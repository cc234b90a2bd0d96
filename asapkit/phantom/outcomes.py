"""Time to event, censoring and a severity grade that depend on what a study shows.

Hazard: proportional, Weibull. With x_f = worst severity of finding f (0 absent, 1..3) and age in decades above 60,
    log hazard ratio  h = sum_f BETA[f] * x_f / 3 + AGE * (age - 60) / 10
    event time        T = SCALE_DAYS * (E * exp(-h)) ** (1 / SHAPE),  E ~ Exp(1)
    censoring time    C ~ Uniform(CENSOR_DAYS), independent of everything
    time_days = max(1, ceil(min(T, C))), event = 1 where T <= C.
A patient has one event: T and C are drawn at the last study from its findings, earlier studies add the days between.

Severity: ordinal. s = sum_f GAMMA[f] * x_f / 3 + 0.35 * N(0, 1) per study; grade 0..3 = number of CUTS below s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import Instance

BETA: dict[str, float] = {
    "Consolidation": 1.4, "Pleural effusion": 1.2, "Lymphadenopathy": 1.0, "Emphysema": 1.0, "Cardiomegaly": 0.9,
    "Interlobular septal thickening": 0.9, "Lung opacity": 0.8, "Coronary artery wall calcification": 0.7, "Pericardial effusion": 0.6,
    "Arterial wall calcification": 0.5, "Lung nodule": 0.5, "Bronchiectasis": 0.4, "Atelectasis": 0.4,
}  # fmt: skip
GAMMA: dict[str, float] = {
    "Consolidation": 1.6, "Lung opacity": 1.4, "Interlobular septal thickening": 1.0, "Pleural effusion": 0.9, "Atelectasis": 0.5,
    "Emphysema": 0.5, "Cardiomegaly": 0.4,
}  # fmt: skip
AGE = 0.3
SHAPE = 1.2
SCALE_DAYS = 2600.0
CENSOR_DAYS = (180.0, 1800.0)
CUTS = (0.45, 1.1, 1.9)


def worst(instances: Sequence[Instance]) -> dict[str, int]:
    """Worst severity of each finding present."""
    out: dict[str, int] = {}
    for i in instances:
        out[i.finding] = max(out.get(i.finding, 0), i.severity)
    return out


def log_hazard(instances: Sequence[Instance], *, age: float) -> float:
    return sum(BETA.get(f, 0.0) * x / 3 for f, x in worst(instances).items()) + AGE * (age - 60) / 10


def survival(rng: np.random.Generator, log_hazard: float) -> tuple[int, int]:
    """(time_days, event) from the last study on."""
    event_days = SCALE_DAYS * (rng.exponential() * math.exp(-log_hazard)) ** (1 / SHAPE)
    censor_days = rng.uniform(*CENSOR_DAYS)
    return max(1, math.ceil(min(event_days, censor_days))), int(event_days <= censor_days)


def severity(rng: np.random.Generator, instances: Sequence[Instance]) -> int:
    """0 none, 1 mild, 2 moderate, 3 severe."""
    score = sum(GAMMA.get(f, 0.0) * x / 3 for f, x in worst(instances).items()) + 0.35 * rng.standard_normal()
    return sum(score > cut for cut in CUTS)
