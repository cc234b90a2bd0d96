"""The solids of a chest: cavity, diaphragm, lobes, heart, great vessels, airways, as functions of place in the body frame."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from .anatomy import LOBES, Patient
from .shapes import FAR, Array, Segments, Tube, chain, ellipsoid, oval, rotation, smooth_tube, union
from .trees import grow

_TABLE_Z = np.arange(-330.0, 301.0)
_WIDTH = ((-330, 0.97), (-230, 1.0), (-160, 1.04), (-100, 1.05), (-50, 1.02), (0, 0.98), (35, 0.93), (60, 0.85), (80, 0.74), (100, 0.60), (130, 0.5))
_DEPTH = ((-330, 0.92), (-230, 0.97), (-160, 1.02), (-100, 1.03), (-50, 1.0), (0, 0.93), (35, 0.85), (60, 0.75), (80, 0.63), (100, 0.50), (130, 0.42))
_MIDDLE = ((-330, 5), (-230, 4), (-100, 2), (0, -2), (35, -5), (60, -9), (80, -15), (100, -21), (130, -24))
"""Profiles of the cavity by height; positive heights are percent of the apex."""


def _table(points, apex: float) -> Array:
    z = np.array([p[0] * (apex / 100 if p[0] > 0 else 1.0) for p in points])
    values = np.interp(_TABLE_Z, z, [p[1] for p in points])
    window = np.hanning(31)
    return np.convolve(np.pad(values, 15, mode="edge"), window / window.sum(), mode="valid")


def _look_up(table: Array, z: Array) -> Array:
    return np.interp(z, _TABLE_Z, table).astype(np.float32)


@lru_cache(maxsize=8)
def of(patient: Patient, heart_scale: float = 1.0) -> Thorax:
    """The chest of a patient whose heart is `heart_scale` times its healthy size."""
    return Thorax(patient, heart_scale)


class Thorax:
    """All methods take x, y, z in mm (any shapes that broadcast) and return signed distances in mm, negative inside."""

    def __init__(self, patient: Patient, heart_scale: float = 1.0):
        self.patient, self.heart_scale = patient, heart_scale
        self.widths, self.depths = _table(_WIDTH, patient.apex) * patient.width, _table(_DEPTH, patient.apex) * patient.depth
        self.middles = _table(_MIDDLE, patient.apex)

    # --- wall and lungs

    def profile(self, z: Array) -> tuple[Array, Array, Array]:
        """Half width, half depth and middle (y) of the cavity."""
        return _look_up(self.widths, z), _look_up(self.depths, z), _look_up(self.middles, z)

    def spine(self, z: Array) -> tuple[Array, Array]:
        """x and y of the middle of the vertebral bodies."""
        p = self.patient
        t = np.asarray(z, np.float32) / 150
        bend = t * t * np.where(t > 0, p.kyphosis + 8, 4)
        return (p.scoliosis * np.sin(2.2 * t)).astype(np.float32), (bend + (32 - p.depth)).astype(np.float32)

    def cavity(self, x: Array, y: Array, z: Array) -> Array:
        a, b, c = self.profile(z)
        flat = np.float32(9) * np.exp(-(x * x) * np.float32(1 / 2600)) * np.clip((y + 10) * np.float32(1 / 60), 0, 1)  # behind the breast bone
        return (oval(x / a, (y - c + flat) / b) - 1) * np.minimum(a, b)

    def dome(self, x: Array, y: Array, *, right: bool) -> Array:
        """Height of one half of the diaphragm."""
        p = self.patient
        side, top = (1.0, p.right_dome) if right else (-1.0, p.left_dome)
        u = (x * np.float32(side) - np.float32(0.46 * p.width)) / np.float32(0.60 * p.width)
        v = (y - np.float32(0.08 * p.depth)) / np.float32(1.0 * p.depth)
        steep = np.clip(-v, 0, 2)
        return np.float32(top) - np.float32(p.dome_drop) * (u * u + np.float32(0.62) * v * v + np.float32(0.5) * steep * steep * steep)

    def diaphragm(self, x: Array, y: Array) -> Array:
        return np.where(x > -2, self.dome(x, y, right=True), self.dome(x, y, right=False))

    def above(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to what lies above the diaphragm."""
        return (self.diaphragm(x, y) - z) * np.float32(0.78)

    def roof(self, x: Array, y: Array, z: Array) -> Array:
        p = self.patient
        du, dv = np.abs(x) - np.float32(0.40 * p.width), y + np.float32(20)
        return (z - np.float32(p.apex) + (du * du + dv * dv) * np.float32(1 / 82)) * np.float32(0.75)

    def mediastinum(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to spine and the fat between the lungs, heart and great vessels not included."""
        p = self.patient
        sx, sy = self.spine(z)
        du, dv = (x - sx) * np.float32(1 / 25), (y - sy + 9) * np.float32(1 / 29)
        back = (np.sqrt(du * du + dv * dv) - 1) * np.float32(25)
        _, b, c = self.profile(z)
        front = c + b - 9
        t = np.clip((y - 4) / np.maximum(front - 18, 20), 0, 1)
        high = np.clip((z + 28) / 40, 0, 1)
        thick = high * (26 - 21 * t * t) + (1 - high) * (14 - 9 * t) + 7 * np.clip((y - front + 14) / 14, 0, 1) - 5 * np.clip(-y - 24, 0, 30) / 30
        middle = np.abs(x + 2 * high + 4 * (1 - high)) - thick * np.float32(p.size)
        return union(back, np.maximum(middle, sy - y), blend_mm=12.0)

    def lungs_raw(self, x: Array, y: Array, z: Array) -> Array:
        """Both lungs with heart and great vessels not yet taken out."""
        inside = np.maximum(self.cavity(x, y, z), self.above(x, y, z))
        return np.maximum(np.maximum(inside, self.roof(x, y, z)), -self.mediastinum(x, y, z))

    def lungs(self, x: Array, y: Array, z: Array) -> Array:
        inside = np.maximum(self.lungs_raw(x, y, z), -self.heart(x, y, z, grown=3.5))
        for tube, margin in self.clearings:
            inside = np.maximum(inside, margin - chain(x, y, z, tube=tube))
        return inside

    def fissures(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Signed distances to the oblique fissure (negative: lower lobe) and the right horizontal one (negative: middle lobe)."""
        p = self.patient
        right = x > 0
        dome = np.where(right, np.float32(p.right_dome + 4), np.float32(p.left_dome - 2))
        top, y0, y1 = np.float32(0.36 * p.apex), np.float32(-0.95 * p.depth), np.float32(0.78 * p.depth)
        shift = np.where(right, np.float32(p.fissure[1]), np.float32(p.fissure[0]))
        slope = (top - dome) / (y1 - y0)
        curve = (np.abs(x) - np.float32(0.6 * p.width)) * np.float32(1 / p.width)
        bend = (y - y0) * (y1 - y) * np.float32(10 / (p.depth * p.depth))
        wobble = 3.0 * np.sin(x * np.float32(0.045) + np.float32(p.tree % 7)) + 3.0 * np.sin(y * np.float32(0.05) + np.float32(p.tree % 5))
        oblique = (z - (top + wobble + shift - slope * (y - y0) + 14 * curve * curve - bend)) / np.sqrt(1 + slope * slope)
        horizontal = z - np.float32(-20 * p.size + p.fissure[2]) + 26 * curve * curve - 8 + np.float32(0.10) * y + wobble
        return oblique, horizontal

    def lobe(self, x: Array, y: Array, z: Array) -> Array:
        """Label 1..5 in the order of LOBES (only meaningful inside the lungs)."""
        oblique, horizontal = self.fissures(x, y, z)
        left = np.where(oblique < 0, np.uint8(2), np.uint8(1))
        right = np.where(oblique < 0, np.uint8(5), np.where(horizontal < 0, np.uint8(4), np.uint8(3)))
        return np.where(x > 0, right, left)

    def clear_of_spine(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to what lies in front of the vertebral bodies: positive inside them."""
        sx, sy = self.spine(z)
        return np.float32(17) - np.sqrt((x - sx) ** 2 + (y - sy) ** 2)

    # --- heart

    @cached_property
    def heart_factor(self) -> float:
        return self.patient.heart_size * self.patient.size * self.heart_scale

    @cached_property
    def heart_centre(self) -> Array:
        p, f = self.patient, self.heart_factor
        _, sy = self.spine(np.array([-50.0]))
        floor = 0.5 * (p.right_dome + p.left_dome)
        return np.array([-19.0 - 5 * (self.heart_scale - 1) * 4, float(sy[0]) + 15 + 13 + 47 * f, floor - 17 + 36 * f])

    @cached_property
    def chambers(self) -> dict[str, dict]:
        """Ellipsoids by name: outer centre, radii and axes in the body frame."""
        f, turn = self.heart_factor, self.patient.heart_turn
        table = {
            "left ventricle": ((-25, -1, -8), (44, 28, 29), dict(yaw=-0.72, roll=0.52)),
            "right ventricle": ((3, 22, -9), (46, 19, 29), dict(yaw=-0.42, roll=0.45)),
            "right atrium": ((37, 3, 1), (21, 26, 32), dict(yaw=-0.3)),
            "left atrium": ((7, -29, 17), (34, 18, 23), dict(yaw=0.1)),
        }  # fmt: skip
        c, s = np.cos(turn), np.sin(turn)
        out = {}
        for name, ((x, y, z), radii, angles) in table.items():
            at = np.array([c * x - s * y, s * x + c * y, z]) * f + self.heart_centre
            angles = angles | {"yaw": angles["yaw"] + turn}
            out[name] = dict(centre=tuple(float(v) for v in at), radii=tuple(r * f for r in radii), axes=rotation(**angles))
        return out

    def heart(self, x: Array, y: Array, z: Array, *, grown: float = 0.0) -> Array:
        """The muscle's outer surface, or `grown` mm outside it; kept inside the chest and above the diaphragm."""
        whole = None
        for one in self.chambers.values():
            d = ellipsoid(x, y, z, **one)
            whole = d if whole is None else union(whole, d, blend_mm=20.0)
        whole = np.maximum(whole - np.float32(grown), self.cavity(x, y, z) + np.float32(max(1.0, 6 - grown)))
        return np.maximum(whole, self.above(x, y, z) + np.float32(max(0.0, 4 - grown)))

    @cached_property
    def heart_box(self) -> tuple[Array, Array]:
        reach = 72 * self.heart_factor
        return self.heart_centre - reach, self.heart_centre + reach

    def on_heart(self, points) -> Array:
        """Points (n, 3), given about the heart's centre in units of its size, moved onto its surface."""
        c, f = self.heart_centre, self.heart_factor
        direction = np.asarray(points, np.float64)
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        reach = np.linspace(8, 90, 42)
        path = c + direction[:, None, :] * (reach * f)[None, :, None]
        d = self.heart(*(path[..., k].astype(np.float32) for k in range(3)))
        first = (d > 0).argmax(1)
        return path[np.arange(len(path)), first]

    @cached_property
    def coronaries(self) -> dict[str, Array]:
        """Courses (24, 3) on the heart's surface, from the root on."""
        ways = {
            "left anterior descending artery": ((-0.25, 0.45, 0.85), (-0.45, 0.85, 0.25), (-0.75, 0.65, -0.35)),
            "circumflex artery": ((-0.45, 0.15, 0.85), (-0.85, -0.25, 0.45), (-0.80, -0.60, -0.15)),
            "right coronary artery": ((0.30, 0.60, 0.75), (0.80, 0.65, 0.05), (0.60, 0.45, -0.65)),
        }  # fmt: skip
        t = np.linspace(0, 1, 24)[:, None]
        return {n: self.on_heart((1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c)) for n, (a, b, c) in ways.items()}

    @cached_property
    def appendage(self) -> Tube:
        c, f = self.heart_centre, self.heart_factor
        return smooth_tube(c + np.array([[-20, -18, 22], [-38, -4, 27], [-44, 14, 22], [-40, 24, 14]]) * f, np.array([9, 9, 8, 4]) * f, step_mm=6)

    # --- tubes of the mediastinum

    @cached_property
    def front_of_spine(self) -> float:
        return float(self.spine(np.array([-30.0]))[1][0]) + 15

    @cached_property
    def aorta(self) -> Tube:
        """Root, ascending part, arch to the left and back, descending part beside the spine."""
        p, c, f = self.patient, self.heart_centre, self.heart_factor
        s, r = self.front_of_spine, self.patient.aorta_radius
        points = [
            c + np.array([2, 2, 12]) * f, c + np.array([13, 10, 30]) * f, [19, 17, -8], [16, 11, 0.62 * p.arch], [4, -1, p.arch],
            [-10, -16, 0.98 * p.arch], [-20, s + 8, 0.72 * p.arch], [-24, s - 1, 0.2 * p.arch],
            [-23, s - 1, -45], [-16, s + 5, -105], [-9, s + 9, -160], [-4, s + 11, -260],
        ]  # fmt: skip
        return smooth_tube(points, np.array([1.12, 1.15, 1.1, 1.05, 1, 0.95, 0.9, 0.86, 0.82, 0.78, 0.72, 0.66]) * r, step_mm=13)

    @cached_property
    def fork(self) -> Array:
        return np.array([-14.0, 12.0, -14.0]) * self.patient.size

    @cached_property
    def pulmonary(self) -> list[Tube]:
        """Trunk, right and left pulmonary artery."""
        c, f, k, q = self.heart_centre, self.heart_factor, self.fork, self.patient.size
        return [
            smooth_tube([c + np.array([-8, 28, 18]) * f, [-17, 31, k[2] - 13], k], [13 * q, 13 * q, 12 * q], step_mm=10),
            smooth_tube([k, [8, -4, k[2] - 1], self.hilum["right"]], [10 * q, 10 * q, 7 * q], step_mm=14),
            smooth_tube([k, [-32, -6, k[2] + 6], self.hilum["left"] + [0, -6, 2]], [10 * q, 9.5 * q, 7 * q], step_mm=14),
        ]

    @cached_property
    def veins(self) -> list[Tube]:
        """Upper caval vein, brachiocephalic veins, lower caval vein, azygos."""
        p, c, f, s = self.patient, self.heart_centre, self.heart_factor, self.front_of_spine
        top = p.arch + 16
        return [
            smooth_tube([[24, 14, top], [26, 8, 0], c + np.array([38, 4, 22]) * f], [8.5, 9.5, 10], step_mm=16),
            smooth_tube([[24, 14, top], [38, 12, p.apex * 0.85], [48, 10, p.apex + 30]], [8, 7, 7], step_mm=20),
            smooth_tube([[24, 14, top], [-4, 26, top + 3], [-34, 22, p.apex * 0.8], [-50, 10, p.apex + 30]], [7, 7, 7, 7], step_mm=20),
            smooth_tube([c + np.array([36, -4, -24]) * f, [24, -4, p.right_dome - 25], [18, s + 14, p.right_dome - 110]], [11, 12, 12], step_mm=20),
            smooth_tube([[24, -6, 14], [17, s + 4, 14], [9, s - 1, -10], [8, s, -150]], [4.5, 4.5, 3.8, 3.5], step_mm=22),
        ]

    @cached_property
    def branches(self) -> list[Tube]:
        """The three arteries of the arch."""
        p, z = self.patient, self.patient.arch
        return [
            smooth_tube([[9, 4, z + 8], [18, 2, z + 32], [30, -6, p.apex + 20]], [7, 6.5, 4.5], step_mm=20),
            smooth_tube([[-6, -8, z + 8], [-14, -6, z + 36], [-18, -4, p.apex + 45]], [4.5, 4, 4], step_mm=20),
            smooth_tube([[-15, -18, z + 6], [-24, -20, z + 32], [-40, -14, p.apex + 10]], [5.5, 5, 4.5], step_mm=20),
        ]

    @cached_property
    def esophagus(self) -> Tube:
        p, s = self.patient, self.front_of_spine
        top = float(self.spine(np.array([p.apex]))[1][0]) + 20
        points = [[-3, top + 4, p.apex + 60], [-4, 0.5 * (top + s) + 9, 45], [-3, s + 8, 0], [-5, s + 10, -50]]
        points += [[-12, s + 17, p.left_dome + 6], [-26, s + 30, p.left_dome - 22]]
        return smooth_tube(points, [7, 7, 6.5, 7, 7.5, 8], step_mm=16)

    @cached_property
    def hilum(self) -> dict[str, Array]:
        return {"right": np.array([40.0, -14.0, -20.0]) * self.patient.size, "left": np.array([-45.0, -15.0, -14.0]) * self.patient.size}

    @cached_property
    def airway(self) -> list[Tube]:
        """Trachea, right and left main bronchus (lumen)."""
        p = self.patient
        low = np.array([4.0, -13.0, 0.0])
        right, left = (self.hilum[s] + np.array([-3.0, -5.0, -6.0]) for s in ("right", "left"))
        calibre = 0.5 + 0.5 * p.size
        return [
            smooth_tube([[1, 0 + 0.4 * p.kyphosis, p.apex + 60], [4, -6, 48], low], np.array([8.8, 8.6, 8.6]) * calibre, step_mm=18),
            smooth_tube([low, [22, -17, -13], right], np.array([7.6, 7, 6]) * calibre, step_mm=12),
            smooth_tube([low, [-20, -17, -11], left], np.array([7.4, 6, 5.4]) * calibre, step_mm=12),
        ]

    @cached_property
    def clearings(self) -> list[tuple[Tube, float]]:
        """Tubes that push the lungs aside, and by how much more than their radius."""
        c, f = self.heart_centre, self.heart_factor
        # fat about the roots of the great vessels
        ends = [c + np.array([-14, 8, 16]) * f, [0, 8, -8]]
        fat = smooth_tube(ends, [27 * f, 22 * self.patient.size], step_mm=60)  # about the roots of the great vessels
        close = [(self.aorta, 2.5), (self.appendage, 2.5), (self.veins[0], 2.5), (self.veins[3], 2.0)]
        return [(fat, 0.0), *close, *((t, 2.0) for t in (*self.pulmonary, *self.airway))]

    # --- trees of the lungs

    def inside(self, rng: np.random.Generator, n: int, *, label: int = 0, side: str = "", margin_mm: float = 3.0) -> Array:
        """`n` points (n, 3) of a lobe (label 1..5) or a lung at least `margin_mm` from its surface; fewer margin where there is no such place."""
        p = self.patient
        right = side == "right" or label >= 3
        for spare in (1.0, 0.6, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0):
            x = rng.uniform(8, 1.05 * p.width, max(400, 18 * n)).astype(np.float32) * (1 if right else -1)
            y = rng.uniform(-1.05 * p.depth, 1.05 * p.depth, len(x)).astype(np.float32)
            z = rng.uniform(p.bottom, p.apex, len(x)).astype(np.float32)
            d = self.lungs_raw(x, y, z)
            few = np.flatnonzero((d <= -margin_mm * spare) & ((self.lobe(x, y, z) == label) | (label == 0)))[: int(1.6 * n) + 24]
            x, y, z = x[few], y[few], z[few]
            d = self.lungs(x, y, z)
            if label:
                oblique, horizontal = self.fissures(x, y, z)
                away = np.minimum(np.abs(oblique), np.where(label in (3, 4), np.abs(horizontal), FAR))
                d = np.where(self.lobe(x, y, z) == label, np.maximum(d, -away), FAR)
            good = np.flatnonzero(d <= -margin_mm * spare)[:n]
            if len(good) == n or (spare == 0.0 and len(good)):
                return np.stack([x, y, z], 1)[np.resize(good, n)].astype(np.float64)
        raise ValueError(f"no lung in lobe {label} {side}: is this chest possible?")

    @cached_property
    def vessels(self) -> dict[str, list[Segments]]:
        """Pulmonary arteries and veins of both lungs."""
        rng = np.random.default_rng([self.patient.tree, 2])
        out: dict[str, list[Segments]] = {"arteries": [], "veins": []}
        for side in ("left", "right"):
            root = self.hilum[side]
            atrium = np.array([root[0] * 0.72, -14.0, self.heart_centre[2] + 18 * self.heart_factor])
            for kind, start, n in (("arteries", root, 300), ("veins", atrium, 220)):
                ends = self.inside(rng, n, side=side, margin_mm=3.0)
                out[kind].append(grow(start, ends, tip_mm=0.78 * self.patient.vessel_scale, power=2.65))
        return out

    @cached_property
    def bronchi(self) -> list[Segments]:
        """One tree per lobe, in the order of LOBES; radii are of the lumen."""
        rng = np.random.default_rng([self.patient.tree, 1])
        out = []
        for n in range(len(LOBES)):
            end = self.airway[2 if n < 2 else 1][0][-1]
            out.append(grow(end, self.inside(rng, 16, label=n + 1, margin_mm=9.0), tip_mm=1.05, power=2.4, most_mm=4.2))
        return out
