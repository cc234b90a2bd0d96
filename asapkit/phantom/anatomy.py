"""A patient: every number that makes one chest differ from another, in mm and HU, drawn independently of disease.

Body frame: x to the patient's right, y to anterior, z to superior; origin on the midline at the height of the carina.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

LOBES = ("lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")
PHASES = ("none", "venous", "arterial")


@dataclass(frozen=True)
class Patient:
    """Geometry in mm, appearance in HU; see `sample_patient` for ranges."""

    # chest
    size: float  # factor on the inner organs
    width: float  # half width of the thoracic cavity
    depth: float  # half depth of it
    apex: float  # height of the lungs' tops
    right_dome: float  # height of the diaphragm's tops (negative: below the carina)
    left_dome: float
    dome_drop: float  # from the top of a dome to its rim
    fat: float  # subcutaneous
    muscle: float  # of the chest wall, outside the ribs
    breast: float  # 0: none, else radius
    kyphosis: float  # how far the spine bends forward
    scoliosis: float
    heart_size: float
    heart_turn: float  # radians about z
    epicardial_fat: float
    arch: float  # height of the aortic arch
    aorta_radius: float
    fissure: tuple[float, float, float]  # shifts of left oblique, right oblique, horizontal
    age: float  # years
    # scan
    turn: float  # rotation about z, radians
    shift: tuple[float, float, float]  # position in the field
    field: tuple[float, float, float]  # field of view
    arms_up: bool
    table: bool
    # appearance
    phase: str  # of contrast, one of PHASES
    blood_hu: float  # left heart and aorta
    right_hu: float  # right heart and pulmonary arteries
    muscle_hu: float
    liver_hu: float
    spleen_hu: float
    bone_hu: float  # trabecular
    lung_hu: float  # depth of breath
    gravity_hu: float  # how much denser the dependent lung is
    texture_hu: float
    vessel_scale: float
    sharpness: float  # kernel: blur in mm
    noise_hu: float  # at 1.5 x 1.5 x 3 mm
    tree: int  # seed of vessels, bronchi and texture

    @property
    def bottom(self) -> float:
        """Height of the diaphragm's rim."""
        return min(self.right_dome, self.left_dome) - self.dome_drop

    @property
    def low(self) -> float:
        """Height of the field's centre below the carina: the lungs lie in its middle."""
        return -0.5 * (self.apex + self.bottom + 14.0)


def sample_patient(rng: np.random.Generator, *, age: float | None = None, sex: str = "") -> Patient:
    """A patient of ordinary variety. Nothing here depends on any finding, so that size, breath or scanner tell nothing about disease.

    `age` (years) and `sex` ("M" or "F") are drawn where they are not given; age drives findings, sex only the breasts.
    """
    size = float(np.clip(rng.normal(1.0, 0.06), 0.86, 1.15))
    dome = float(rng.uniform(-118, -72)) * size
    phase = PHASES[int(rng.choice(3, p=(0.55, 0.28, 0.17)))]
    blood, right, liver, spleen = {"none": (42, 42, 57, 50), "venous": (155, 160, 105, 118), "arterial": (300, 240, 68, 120)}[phase]
    apex = float(rng.uniform(88, 114)) * size
    anaemia = float(rng.normal(0, 5))
    width = float(rng.uniform(112, 136)) * size
    fat = float(np.clip(rng.gamma(2.4, 6.0) + 3, 4, 42))
    breast, drawn_age, woman = float(rng.uniform(38, 62)), float(np.clip(rng.normal(57, 16), 19, 92)), bool(rng.random() < 0.47)
    woman = sex == "F" if sex else woman
    return Patient(
        size=size, width=width, depth=float(rng.uniform(78, 98)) * size, apex=apex,
        right_dome=dome, left_dome=dome - float(rng.uniform(4, 20)), dome_drop=float(rng.uniform(46, 66)) * size, fat=fat,
        muscle=float(rng.uniform(9, 20)), breast=breast * woman, kyphosis=float(rng.uniform(-4, 16)),
        scoliosis=float(rng.normal(0, 3.5)), heart_size=float(rng.uniform(0.90, 1.08)), heart_turn=float(rng.normal(0, 0.14)),
        epicardial_fat=float(rng.uniform(2.5, 8)), arch=float(rng.uniform(30, 44)) * size, aorta_radius=float(rng.uniform(12.5, 17.0)) * size**0.5,
        fissure=tuple(float(f) for f in rng.normal(0, 7, 3)), age=drawn_age if age is None else float(age), turn=float(rng.normal(0, 0.07)),
        shift=tuple(float(s) for s in rng.normal(0, (7, 7, 8))),
        field=(float(rng.uniform(330, 390)), float(rng.uniform(262, 330)), float(rng.uniform(262, 330))),
        arms_up=bool(rng.random() < 0.9), table=bool(rng.random() < 0.85), phase=phase,
        blood_hu=blood + anaemia + float(rng.normal(0, 0.09 * blood)), right_hu=right + anaemia + float(rng.normal(0, 0.14 * right)),
        muscle_hu=float(rng.uniform(40, 62)), liver_hu=liver + float(rng.normal(0, 9)), spleen_hu=spleen + float(rng.normal(0, 6)),
        bone_hu=float(rng.uniform(110, 260)), lung_hu=float(rng.uniform(-885, -735)), gravity_hu=float(rng.uniform(5, 120)),
        texture_hu=float(rng.uniform(5, 16)), vessel_scale=float(rng.uniform(0.85, 1.2)), sharpness=float(rng.uniform(0.4, 1.5)),
        noise_hu=float(rng.uniform(12, 42)), tree=int(rng.integers(1 << 31)),
    )  # fmt: skip


def other_day(patient: Patient, rng: np.random.Generator) -> Patient:
    """The same person another time: lies elsewhere, breathes in more or less (HU only: organs and vessels keep their shape)."""
    lung_hu = float(np.clip(patient.lung_hu + rng.normal(0, 20), -900, -720))
    return replace(patient, shift=tuple(float(s) for s in rng.normal(0, (7, 7, 8))), turn=float(rng.normal(0, 0.07)), lung_hu=lung_hu)


def reconstructed(patient: Patient, *, sharp: bool) -> Patient:
    """The same scan through another kernel: a sharp one shows finer detail and more noise, a soft one less of both."""
    detail, noise = (0.6, 1.3) if sharp else (1.15, 0.85)
    return replace(patient, sharpness=patient.sharpness * detail, noise_hu=patient.noise_hu * noise)
