"""Medical material: pacemaker with lead, venous catheter, port, sternal wires. How each is placed and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .body import sternum_y
from .canvas import Canvas
from .lesions import Lesion, fill, lesion
from .shapes import Array, rotation, smooth_tube
from .thorax import Thorax

METAL_HU = 2800.0


def place_device(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    kind = ("pacemaker", "central venous catheter", "sternal wires", "port")[int(rng.choice(4, p=(0.34, 0.2, 0.28, 0.18)))]
    side = {"pacemaker": "left" if rng.random() < 0.85 else "right", "port": "right" if rng.random() < 0.8 else "left"}.get(kind, "none")
    shape = dict(across=rng.uniform(0.52, 0.72), high=rng.uniform(0.42, 0.66), wires=rng.integers(4, 7))
    return [lesion(rng, "Medical material", 1, side=side, place=kind, **shape)]


def _pocket(thorax: Thorax, side: float, *, across: float, high: float) -> Array:
    """A place on the front of the chest muscle."""
    p = thorax.patient
    z = high * p.apex
    a, b, _ = (float(v[0]) for v in thorax.profile(np.array([z])))
    x = side * across * a
    y = np.linspace(0, b + 50, 120)
    wall = thorax.cavity(np.full(120, x, np.float32), y.astype(np.float32), np.full(120, z))
    return np.array([x, float(y[np.abs(wall - (9 + p.muscle)).argmin()]), z])


def draw_device(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    if one.place == "sternal wires":
        return _wires(canvas, thorax, one)
    cava, f = thorax.veins[0][0], thorax.heart_factor
    into = cava[int(0.6 * (len(cava) - 1))]
    if one.place == "central venous catheter":
        neck = thorax.veins[1][0][::-1]
        return _lead(canvas, one, np.vstack([neck, cava[1 : int(0.6 * len(cava)) + 1]]), radius_mm=1.5, hu=1500.0)
    side = -1.0 if one.side == "left" else 1.0
    spot = _pocket(thorax, side, across=one.numbers["across"], high=one.numbers["high"])
    size = np.array([20.0, 5.0, 17.0]) if one.place == "pacemaker" else np.array([11.0, 5.5, 11.0])
    box = canvas.around(spot, 24)
    if box is not None:
        gap = _slab(canvas, box, spot, size=size, yaw=-side * 0.45)
        fill(canvas, one, box, cover=canvas.cover(gap), hu=METAL_HU if one.place == "pacemaker" else 2200.0)
    vein = thorax.veins[1 if side > 0 else 2][0]
    way = [spot, vein[-1] * (0.55, 0.6, 0.72) + spot * (0.45, 0.4, 0.28) + [0, 0, 12], *vein[len(vein) // 2 :: -2], cava[1], into]
    if one.place == "pacemaker":
        c = thorax.heart_centre
        way += [c + np.array([34, 2, 4]) * f, c + np.array([14, 18, -18]) * f, c + np.array([-22, 24, -26]) * f]
    _lead(canvas, one, np.array(way, np.float64), radius_mm=1.5, hu=METAL_HU)


def _slab(canvas: Canvas, box, centre: Array, *, size: Array, yaw: float) -> Array:
    """A box with rounded corners, turned to lie on the chest."""
    x, y, z = canvas.at(box)
    axes = rotation(yaw=yaw)
    parts = [sum(np.float32(a) * (w - np.float32(o)) for a, w, o in zip(axis, (x, y, z), centre, strict=True)) for axis in axes]
    q = [np.maximum(np.abs(d) - np.float32(s - 4), 0) for d, s in zip(parts, size, strict=True)]
    return np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2) - 4


def _lead(canvas: Canvas, one: Lesion, points: Array, *, radius_mm: float, hu: float) -> None:
    tube = smooth_tube(points, np.full(len(points), radius_mm), step_mm=4)
    box, cover = canvas.thread(tube)
    if box is not None:
        fill(canvas, one, box, cover=cover, hu=hu, least=0.25)


def _wires(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Twisted loops around the breast bone."""
    p = thorax.patient
    for z in np.linspace(0.62, -0.62, int(one.numbers["wires"])) * p.apex:
        front = float(sternum_y(thorax, np.array([z]))[0])
        t = np.linspace(0, 2 * np.pi, 13)
        loop = np.stack([17 * p.size * np.cos(t), front + 8 * np.sin(t), z + 3 * np.sin(t + one.seed % 6)], 1)
        _lead(canvas, one, np.vstack([loop, [[2.0, front + 11.0, z + 4.0]]]), radius_mm=1.1, hu=METAL_HU)
