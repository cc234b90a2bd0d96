"""A patient in millimetres: body, lungs with lobes, heart, vessels and bronchi as smooth solids that can be drawn at any spacing.

Body frame: u to the patient's right, v to anterior, z to superior, origin in the middle of the chest. Solids are signed distances in mm, negative
inside; `render` turns them into voxels with edges one voxel wide. Everything that varies between patients is drawn here, independently of disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
Tube = tuple[Array, Array]  # points (n, 3) in mm and the radius at each (n,)

LOBES = ("lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")


@dataclass(frozen=True)
class Patient:
    """Geometry in mm, appearance in HU. `size` scales all of it."""

    size: float  # of the whole chest
    half_width: float  # of the thoracic cavity, left to right
    half_depth: float  # of the thoracic cavity, back to front
    lung_height: float
    fat: float  # subcutaneous
    muscle: float
    lung_hu: float  # depth of breath
    gravity_hu: float  # how much denser the dependent lung is
    blood_hu: float  # contrast phase
    liver_hu: float
    muscle_hu: float
    bone_hu: float
    heart_size: float
    heart_tilt: float
    right_dome: float
    left_dome: float
    turn: float  # rotation about the long axis, radians
    shift: tuple[float, float, float]  # position in the field
    field: tuple[float, float, float]  # field of view
    sharpness: float  # kernel: blur of the noise and the image, voxels
    noise_hu: float
    vessel_hu: float
    tree: int  # seed of vessels, bronchi and texture
    table: bool

    # --- frame of the chest

    @property
    def bottom(self) -> float:
        """Height of the diaphragm's edge."""
        return -0.5 * self.lung_height

    @property
    def apex(self) -> float:
        return 0.5 * self.lung_height

    @property
    def spine_v(self) -> float:
        """Where the middle of the vertebral bodies lies."""
        return -self.half_depth + 14.0

    @cached_property
    def heart_centre(self) -> Array:
        return np.array([-16.0, 14.0, self.bottom + 0.5 * (self.right_dome + self.left_dome) + 36 * self.heart_size]) * np.array([1, 1, 1.0])

    @cached_property
    def heart_radii(self) -> Array:
        return np.array([52.0, 41.0, 43.0]) * self.heart_size * self.size

    def cavity(self, u: Array, v: Array, z: Array) -> Array:
        """Signed distance to the inner chest wall: a flattened oval that narrows towards the neck."""
        narrow = np.clip((z + 0.10 * self.lung_height) / (0.62 * self.lung_height), 0, 1.5) ** 2 * 0.36
        a, b = self.half_width * (1 - narrow), self.half_depth * (1 - 0.7 * narrow)
        rho = (np.abs(u / a) ** 2.4 + np.abs(v / b) ** 2.4) ** (1 / 2.4)
        return (rho - 1) * np.minimum(a, b)

    def diaphragm(self, u: Array, v: Array) -> Array:
        """Height of the diaphragm: two domes, the right one higher."""
        right = self.right_dome * np.clip(1 - ((u - 0.5 * self.half_width) / (0.62 * self.half_width)) ** 2 - (v / self.half_depth) ** 2, 0, 1)
        left = self.left_dome * np.clip(1 - ((u + 0.5 * self.half_width) / (0.62 * self.half_width)) ** 2 - (v / self.half_depth) ** 2, 0, 1)
        return self.bottom + np.maximum(right, left)

    def mediastinum(self, u: Array, v: Array, z: Array) -> Array:
        """Signed distance to the space between the lungs: a waist that widens over spine and heart."""
        t = np.clip((z - self.bottom) / self.lung_height, 0, 1)
        back = 26 * np.exp(-(((v - self.spine_v) / 24) ** 2))
        middle = 19 + 7 * t
        front = 8 * np.exp(-(((v - self.half_depth + 5) / 18) ** 2))
        offset = -6 * (1 - t)  # the heart's side
        return np.abs(u - offset) - np.maximum(np.maximum(back, middle * np.exp(-((v / (0.75 * self.half_depth)) ** 4))), front + 6)

    def heart(self, u: Array, v: Array, z: Array, *, grown: float = 0.0) -> Array:
        """Signed distance to the heart, apex left, anterior and down."""
        c, s = np.cos(self.heart_tilt), np.sin(self.heart_tilt)
        du, dv, dz = u - self.heart_centre[0], v - self.heart_centre[1], z - self.heart_centre[2]
        a = c * du + s * dz * 0.8 + 0.25 * dv * s
        b, d = dv + 0.25 * du, c * dz - s * du * 0.6
        r = self.heart_radii + grown
        return (np.sqrt((a / r[0]) ** 2 + (b / r[1]) ** 2 + (d / r[2]) ** 2) - 1) * r.min()

    def lungs(self, u: Array, v: Array, z: Array) -> Array:
        """Signed distance to both lungs together, heart not yet taken out."""
        inside = np.maximum(self.cavity(u, v, z) + 3.5, self.diaphragm(u, v) - z)
        du = (np.abs(u) - 0.40 * self.half_width) / (0.60 * self.half_width)
        roof = self.apex - 46 * du**2 - 34 * ((v + 10) / self.half_depth) ** 2  # rounded apices
        inside = np.maximum(inside, (z - roof) * 0.8)
        return np.maximum(inside, -self.mediastinum(u, v, z))

    def fissures(self, u: Array, v: Array, z: Array) -> tuple[Array, Array]:
        """Signed distances to the oblique fissure (negative: lower lobe) and the right horizontal one (negative: middle lobe)."""
        curve = 0.0012 * (np.abs(u) - 0.55 * self.half_width) ** 2
        slope = np.where(u > 0, 0.95, 1.1)
        oblique = (z - (self.bottom + 0.56 * self.lung_height) + slope * (v + 0.35 * self.half_depth) + curve * 6) / np.sqrt(1 + slope**2)
        horizontal = z - (self.bottom + 0.50 * self.lung_height) - 0.05 * v + curve * 3
        return oblique, horizontal

    def lobe(self, u: Array, v: Array, z: Array) -> Array:
        """Label 1..5 in the order of LOBES (only meaningful inside the lungs)."""
        oblique, horizontal = self.fissures(u, v, z)
        left = np.where(oblique < 0, 2, 1)
        right = np.where(oblique < 0, 5, np.where(horizontal < 0, 4, 3))
        return np.where(u > 0, right, left).astype(np.uint8)

    # --- tubes

    @cached_property
    def hilum(self) -> dict[str, Array]:
        z = self.bottom + 0.55 * self.lung_height
        return {"right": np.array([34.0, -8.0, z - 4]), "left": np.array([-36.0, -10.0, z + 5])}

    @cached_property
    def carina(self) -> Array:
        return np.array([3.0, -12.0, self.bottom + 0.64 * self.lung_height])

    @cached_property
    def airways(self) -> list[Tube]:
        """Trachea, main bronchi and their branches into every lobe; lumen radii."""
        rng = np.random.default_rng([self.tree, 1])
        top = np.array([4.0, -2.0, self.apex + 55])
        tubes = [polyline([top, self.carina + [1, 4, 30], self.carina], [9.0, 8.5, 8.5])]
        for side, reach in (("right", 6.5), ("left", 6.0)):
            tubes.append(polyline([self.carina, 0.5 * (self.carina + self.hilum[side]) - [0, 0, 2], self.hilum[side]], [8.0, reach, reach]))
        for n, lobe in enumerate(LOBES):
            start = self.hilum["left" if n < 2 else "right"]
            end = self.inside_lobe(rng, n + 1, margin=18)
            middle = start + 0.45 * (end - start)
            tubes.append(polyline([start, middle, start + 0.8 * (end - start)], [4.8, 3.4, 2.4]))
            for _ in range(2):
                tip = middle + 0.6 * (self.inside_lobe(rng, n + 1, margin=14) - middle)
                tubes.append(polyline([middle, tip], [2.8, 1.8]))
        return tubes

    @cached_property
    def vessels(self) -> list[Tube]:
        """Pulmonary arteries and veins: from each hilum towards points all over each lobe, thinning and forking."""
        rng = np.random.default_rng([self.tree, 2])
        tubes: list[Tube] = []
        for n in range(5):
            start = self.hilum["left" if n < 2 else "right"] + rng.normal(0, 4, 3)
            for _ in range(5):
                end = self.inside_lobe(rng, n + 1, margin=5)
                bend = start + 0.5 * (end - start) + rng.normal(0, 6, 3)
                tubes.append(polyline([start, bend, end], [3.9, 2.1, 0.9]))
                for part in (0.35, 0.6, 0.85):
                    fork = start + (bend - start) * min(1.0, 2 * part) if part < 0.5 else bend + (end - bend) * (2 * part - 1)
                    tip = self.inside_lobe(rng, n + 1, margin=3)
                    tip = fork + (tip - fork) * min(1.0, 48 / (np.linalg.norm(tip - fork) + 1e-6))
                    tubes.append(polyline([fork, 0.5 * (fork + tip) + rng.normal(0, 3, 3), tip], [1.9, 1.3, 0.7]))
        return tubes

    @cached_property
    def aorta(self) -> Tube:
        """Root, ascending part, arch to the left and back, descending part beside the spine."""
        h, z = self.heart_centre, self.bottom + 0.70 * self.lung_height
        points = [
            h + [10, 8, 26], [14, 18, z - 28], [13, 16, z - 8], [4, 6, z + 10], [-10, -10, z + 12], [-20, -26, z + 2],
            [-22, self.spine_v + 26, z - 24], [-20, self.spine_v + 27, self.bottom + 40], [-12, self.spine_v + 27, self.bottom - 70],
        ]  # fmt: skip
        r = 12.5 + 2.0 * self.size
        return smooth(points, [r + 2, r + 2, r + 2, r, r - 0.5, r - 1, r - 2, r - 2.5, r - 3])

    @cached_property
    def pulmonary_trunk(self) -> list[Tube]:
        h = self.heart_centre
        fork = np.array([-12.0, 6.0, self.carina[2] - 8])
        return [
            smooth([h + [-14, 26, 26], [-16, 22, fork[2] - 18], fork], [14, 14, 13]),
            smooth([fork, [8, 4, fork[2]], self.hilum["right"] + [4, 4, 0]], [11, 10, 8]),
            smooth([fork, [-24, -4, fork[2] + 4], self.hilum["left"] + [-4, 0, 4]], [11, 10, 8]),
        ]

    @cached_property
    def vena_cava(self) -> Tube:
        z = self.carina[2]
        return smooth([[24, 10, self.apex + 20], [24, 8, z], self.heart_centre + [34, -4, 22]], [9, 9, 10])

    @cached_property
    def esophagus(self) -> Tube:
        s = self.spine_v + 26
        return smooth([[1, s + 2, self.apex + 55], [-1, s + 4, self.carina[2]], [-4, s + 8, self.bottom + 50], [-18, s + 20, self.bottom - 10]], [7, 7, 8, 8])

    @cached_property
    def coronaries(self) -> dict[str, Array]:
        """Courses on the heart's surface, points (n, 3)."""
        r, c = self.heart_radii, self.heart_centre
        t = np.linspace(0, 1, 24)[:, None]

        def course(a: tuple[float, float, float], b: tuple[float, float, float]) -> Array:
            direction = np.array(a) * (1 - t) + np.array(b) * t
            points = c + direction / np.linalg.norm(direction, axis=1, keepdims=True) * r
            for _ in range(4):  # onto the surface
                d = self.heart(points[:, 0], points[:, 1], points[:, 2])
                outward = (points - c) / np.linalg.norm(points - c, axis=1, keepdims=True)
                points = points - outward * d[:, None]
            return points

        return {
            "left anterior descending artery": course((-0.15, 0.75, 0.65), (-0.75, 0.65, -0.35)),
            "circumflex artery": course((-0.5, 0.2, 0.75), (-0.85, -0.5, 0.0)),
            "right coronary artery": course((0.35, 0.75, 0.5), (0.75, 0.5, -0.6)),
        }

    def inside_lobe(self, rng: np.random.Generator, label: int, *, margin: float) -> Array:
        """A point of a lobe at least `margin` mm from the lung's surface and outside the heart (the deepest of the draws if none is)."""
        side = 1.0 if label >= 3 else -1.0
        u = side * rng.uniform(10, self.half_width, 160)
        v = rng.uniform(-self.half_depth, self.half_depth, 160)
        z = rng.uniform(self.bottom, self.apex, 160)
        depth = np.maximum(self.lungs(u, v, z), -self.heart(u, v, z))
        depth = np.where(self.lobe(u, v, z) == label, depth, 1e3)
        good = np.flatnonzero(depth < -margin)
        n = good[0] if len(good) else int(depth.argmin())
        return np.array([u[n], v[n], z[n]])


def sample_patient(rng: np.random.Generator) -> Patient:
    """A patient. Size, habitus, breath, contrast and scanner vary independently of any disease, so that they tell nothing about it."""
    size = float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.16))
    blood, liver = ((42, 58), (150, 105), (280, 70))[int(rng.choice(3, p=(0.55, 0.3, 0.15)))]
    height = float(rng.uniform(185, 245)) * size
    return Patient(
        size=size, half_width=float(rng.uniform(118, 140)) * size, half_depth=float(rng.uniform(80, 100)) * size, lung_height=height,
        fat=float(rng.gamma(2.2, 6.5) + 4), muscle=float(rng.uniform(9, 20)), lung_hu=float(rng.uniform(-890, -740)),
        gravity_hu=float(rng.uniform(10, 110)), blood_hu=blood + float(rng.normal(0, 12)), liver_hu=liver + float(rng.normal(0, 8)),
        muscle_hu=float(rng.uniform(40, 62)), bone_hu=float(rng.uniform(350, 750)), heart_size=float(rng.uniform(0.86, 1.06)),
        heart_tilt=float(rng.uniform(0.35, 0.75)), right_dome=float(rng.uniform(38, 62)), left_dome=float(rng.uniform(28, 50)),
        turn=float(rng.normal(0, 0.07)), shift=tuple(float(s) for s in rng.normal(0, (8, 8, 12))),
        field=(float(rng.uniform(345, 400)), float(rng.uniform(270, 310)), float(height + rng.uniform(70, 110))),
        sharpness=float(rng.uniform(0.35, 0.8)), noise_hu=float(rng.uniform(12, 45)), vessel_hu=float(rng.uniform(0, 60)),
        tree=int(rng.integers(1 << 31)), table=bool(rng.random() < 0.8),
    )  # fmt: skip


def polyline(points, radii) -> Tube:
    return np.array(points, dtype=np.float64), np.array(radii, dtype=np.float64)


def smooth(points, radii, *, steps: int = 3) -> Tube:
    """A tube through rounded corners (corner cutting)."""
    p, r = polyline(points, radii)
    for _ in range(steps - 1):
        q = np.empty((2 * len(p) - 2, 3))
        q[0::2], q[1::2] = 0.75 * p[:-1] + 0.25 * p[1:], 0.25 * p[:-1] + 0.75 * p[1:]
        s = np.empty(2 * len(r) - 2)
        s[0::2], s[1::2] = 0.75 * r[:-1] + 0.25 * r[1:], 0.25 * r[:-1] + 0.75 * r[1:]
        p, r = np.vstack([p[:1], q, p[-1:]]), np.concatenate([r[:1], s, r[-1:]])
    return p, r
