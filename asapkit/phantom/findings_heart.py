"""Findings of heart, vessels, mediastinum and pleura. How each is placed and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas
from .lesions import Lesion, balls, fill, lesion, ripple, size_by, soft_hu
from .shapes import Array, chain, ellipsoid, rotation
from .thorax import Thorax

STATIONS: dict[str, tuple[tuple[float, float, float], float]] = {
    "right paratracheal region": ((21, -2, 30), 1.0), "subcarinal region": ((3, -22, -20), 1.0), "left hilum": ((-52, -12, -22), 0.8),
    "right hilum": ((47, -10, -30), 0.8), "aortopulmonary window": ((-27, -2, 9), 0.8), "prevascular region": ((-8, 34, 18), 0.8),
    "left axilla": ((-148, 8, 46), 0.25), "right axilla": ((148, 8, 46), 0.25),
}  # fmt: skip
"""Where nodes lie about the carina in a chest of size 1, and how often."""


def place_cardiomegaly(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    scale = size_by(rng, level, (1.15, 1.20), (1.21, 1.27), (1.28, 1.36))
    size = transverse_mm(Thorax(thorax.patient, scale))
    return [lesion(rng, "Cardiomegaly", level, place="heart", scale=scale, size_mm=size)]


def transverse_mm(thorax: Thorax) -> float:
    """Widest left-right extent of the heart."""
    reach = []
    for one in thorax.chambers.values():
        half = np.sqrt(sum((a[0] * r) ** 2 for a, r in zip(one["axes"], one["radii"], strict=True)))
        reach += [one["centre"][0] - half, one["centre"][0] + half]
    return float(max(reach) - min(reach))


def draw_cardiomegaly(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Drawn with the anatomy; here its voxels are marked."""
    box = canvas.box(*thorax.heart_box)
    if box is not None:
        canvas.mark(one.bit, box, canvas.cover(thorax.heart(*canvas.at(box))))


def place_pericardial(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    thick = size_by(rng, level, (6.5, 9), (10, 14), (15, 21))
    return [lesion(rng, "Pericardial effusion", level, place="pericardium", size_mm=thick, lean=rng.uniform(0.3, 0.9), turn=rng.normal(0, 0.7))]


def draw_pericardial(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A shell of fluid, thicker behind and below."""
    box, n, c = canvas.box(*thorax.heart_box), one.numbers, thorax.heart_centre
    if box is None:
        return
    x, y, z = canvas.at(box)
    f = 45 * thorax.heart_factor
    lean = (np.cos(n["turn"]) * (y - c[1]) + np.sin(n["turn"]) * (x - c[0])) / f + 0.3 * (z - c[2]) / f
    thick = one.size_mm * np.clip(0.62 - 0.5 * n["lean"] * lean, 0.25, 1.0)
    heart = thorax.heart(x, y, z, grown=3.0)
    grown = thorax.heart(x, y, z, grown=40.0) + 37.0  # distance beyond `grown=3`, still inside chest and above diaphragm
    limits = np.maximum(thorax.cavity(x, y, z) + 1.5, thorax.above(x, y, z) - 1.0)
    shell = np.maximum(np.maximum(np.minimum(grown, heart + 60) - thick, -heart), limits)
    cover = canvas.cover(shell)
    fill(canvas, one, box, cover=cover, hu=14.0)
    canvas.lung[box] *= 1 - cover
    organs = canvas.organs[box]
    organs[(cover > 0.5) & (organs <= 5)] = 0


def place_arterial(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    parts = ("ascending aorta", "aortic arch", "descending aorta")
    n = int(rng.choice((1, 2, 3), p=((0.75, 0.22, 0.03), (0.45, 0.42, 0.13), (0.2, 0.45, 0.35))[level - 1]))
    chosen = sorted(rng.choice(3, n, replace=False, p=(0.15, 0.47, 0.38)))
    made = []
    for k in chosen:
        count, long = 3 + level + int(rng.integers(3)), size_by(rng, level, (14, 18), (18, 25), (24, 34))
        made.append(lesion(rng, "Arterial wall calcification", level, place=parts[k], count=count, size_mm=long, part=k, hu=rng.uniform(650, 1150)))
    return made


def draw_arterial(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A cluster of plaques in one stretch of the wall: curved plates of dense grains; `size_mm` is the length of the longest."""
    points, radii = thorax.aorta
    top, arch = int(points[:, 2].argmax()), 0.45 * thorax.patient.arch
    floor = min(thorax.patient.left_dome - 20, -60)
    index = np.arange(len(points))
    high = points[:, 2] > arch
    inside = [(index > 1) & (index < top) & ~high, high, (index > top) & ~high & (points[:, 2] > floor)][int(one.numbers["part"])]
    rng, grains, widths = one.rng, [], []
    choice = np.flatnonzero(inside)
    choice = choice[np.linalg.norm(points[choice] - points[rng.choice(choice)], axis=1) < 15]
    lean = rng.normal(size=3)
    for k in range(one.count):
        at = int(rng.choice(choice))
        along = points[min(at + 1, len(points) - 1)] - points[at - 1]
        along /= np.linalg.norm(along)
        side = np.cross(along, lean + 0.45 * rng.normal(size=3))
        side /= np.linalg.norm(side)
        other = np.cross(along, side)
        long = one.size_mm * (1.0 if k == 0 else rng.uniform(0.4, 0.8))
        thick, arc = rng.uniform(2.0, 2.7), np.clip(0.5 * long / radii[at], 0.25, 0.9)
        for s in np.linspace(-0.5, 0.5, max(2, int(long / 1.6))):
            for angle in np.linspace(-arc, arc, max(3, int(2 * arc * radii[at] / 1.8))):
                if s * s / 0.25 + (angle / arc) ** 2 < 1.05:
                    outward = side * np.cos(angle) + other * np.sin(angle)
                    grains.append(points[at] + along * s * (long - 2 * thick) + outward * (radii[at] - 0.4 * thick))
                    widths.append(thick)
    points, widths = np.array(grains), np.array(widths)
    box, cover = canvas.splat(points, widths)
    if box is not None:
        fill(canvas, one, box, cover=np.minimum(1.0, cover * 1.4), hu=one.numbers["hu"], least=0.35)


def place_coronary(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    names = tuple(thorax.coronaries)
    n = int(rng.choice((1, 2, 3), p=((0.8, 0.17, 0.03), (0.5, 0.35, 0.15), (0.25, 0.4, 0.35))[level - 1]))
    chosen = sorted(rng.choice(3, n, replace=False, p=(0.5, 0.2, 0.3)))
    made = []
    for k in chosen:
        shape = dict(count=4 + 2 * level + int(rng.integers(3)), start=rng.uniform(0.03, 0.35), radius=2.9 + 0.55 * level)
        made.append(lesion(rng, "Coronary artery wall calcification", level, place=names[k], **shape))
    return made


def draw_coronary(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Specks and tracks along one artery that nearly join."""
    rng, course = one.rng, thorax.coronaries[one.place]
    at = (one.numbers["start"] + np.arange(one.count) * 0.055 + rng.uniform(0, 0.03, one.count)).clip(0, 0.97)
    points, radii = [], []
    for where in at:
        k, run = where * (len(course) - 1), rng.uniform(0.4, 2.2)
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            points.append(course[min(int(round(k + t * run)), len(course) - 1)] + rng.normal(0, 0.4, 3))
            radii.append(one.numbers["radius"] * rng.uniform(0.8, 1.2))
    balls(canvas, one, np.array(points), radii=np.array(radii), hu=rng.uniform(800, 1250))


def place_hernia(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    size = size_by(rng, level, (30, 38), (39, 50), (51, 68))
    p = thorax.patient
    centre = (rng.uniform(-24, 8), thorax.front_of_spine + 8 + 0.36 * size, p.left_dome + 2 + 0.42 * size + rng.uniform(-3, 6))
    shape = dict(centre=centre, air=rng.uniform(-0.2, 0.7), yaw=rng.uniform(0, 3))
    return [lesion(rng, "Hiatal hernia", level, place="esophageal hiatus", size_mm=size, **shape)]


def draw_hernia(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A pouch of stomach behind the heart: wall, contents, often air on top of fluid. It dents the heart and gives way to aorta and spine."""
    r, c = 0.5 * one.size_mm, np.array(one.centre)
    box = canvas.around(c, r + 3)
    if box is None:
        return
    x, y, z = canvas.at(box)
    sac = ellipsoid(x, y, z, centre=c, radii=(r, 0.82 * r, 0.92 * r), axes=rotation(yaw=0.4 * np.sin(one.numbers["yaw"])))
    sac = sac + 1.2 * ripple(one, canvas, box, length_mm=22.0)
    sac = np.maximum(np.maximum(sac, -thorax.heart(x, y, z, grown=-16.0)), 1.0 - chain(x, y, z, tube=_near(thorax.aorta, c, r + 30)))
    sac = np.maximum(sac, thorax.clear_of_spine(x, y, z))
    cover = canvas.cover(sac)
    fill(canvas, one, box, cover=cover, hu=42.0)
    canvas.paint(box, canvas.cover(sac + 3.5), 18.0 + 8 * ripple(one, canvas, box, length_mm=12.0))
    canvas.paint(box, canvas.cover(np.maximum(sac + 3.5, c[1] + r * (0.75 - one.numbers["air"]) - y)), -930.0)
    canvas.lung[box] *= 1 - cover
    organs = canvas.organs[box]
    organs[cover > 0.5] = 0


def _near(tube, centre: Array, reach_mm: float):
    """The part of a tube about a place (always some of it)."""
    points, radii = tube
    gap = np.linalg.norm(points - centre, axis=1)
    keep = np.flatnonzero(gap < max(reach_mm, gap.min() + 20))
    low, high = max(int(keep[0]) - 1, 0), min(int(keep[-1]) + 2, len(points))
    return points[low:high], radii[low:high]


def place_nodes(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    names = list(STATIONS)
    often = np.array([STATIONS[n][1] for n in names])
    p, made = thorax.patient, []
    for k in sorted(rng.choice(len(names), int(rng.choice((1, 2, 3), p=(0.45, 0.33, 0.22))), replace=False, p=often / often.sum())):
        side = "left" if "left" in names[k] else "right" if "right" in names[k] else "none"
        size = size_by(rng, level, (12, 16), (16, 23), (23, 34))
        x, y, z = np.array(STATIONS[names[k]][0], float) * p.size
        if "axilla" in names[k]:
            x, z = np.sign(x) * (float(thorax.profile(np.array([0.42 * p.apex]))[0][0]) + 14), 0.42 * p.apex
        centre = np.array([x, y, z]) + rng.normal(0, (3, 3, 5))
        made.append(lesion(rng, "Lymphadenopathy", level, side=side, place=names[k], count=2 + int(rng.integers(3)), size_mm=size, centre=centre))
    return made


def draw_nodes(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Ovals of soft tissue that give way to airways and great vessels; `size_mm` is the short axis of the largest."""
    rng, hu = one.rng, soft_hu(thorax, plain=42.0, enhanced=78.0)
    for k in range(one.count):
        short = 0.5 * one.size_mm * (1.0 if k == 0 else rng.uniform(0.65, 0.92))
        centre = np.array(one.centre) + (0 if k == 0 else rng.normal(0, 0.5 * one.size_mm, 3) * (0.8, 0.8, 1.1))
        radii = short * np.array([1.0, 1.02, rng.uniform(1.2, 1.6)])
        axes = rotation(yaw=rng.uniform(0, 3), roll=rng.normal(0, 0.5), pitch=rng.normal(0, 0.4))
        box = canvas.around(centre, 1.6 * short + 2)
        if box is None:
            continue
        x, y, z = canvas.at(box)
        gap = ellipsoid(x, y, z, centre=centre, radii=radii, axes=axes)
        for tube in (*thorax.airway, thorax.aorta, *thorax.pulmonary[:1]):
            part = _near(tube, centre, 2 * short + 25)
            gap = np.maximum(gap, 1.0 - chain(x, y, z, tube=part))
        cover = canvas.cover(gap)
        fill(canvas, one, box, cover=cover, hu=hu + rng.normal(0, 5))
        organs = canvas.organs[box]
        organs[(cover > 0.5) & (organs <= 5)] = 0


def place_effusion(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    side = ("left", "right", "both")[int(rng.choice(3, p=(0.28, 0.34, 0.38)))]
    made = []
    for k, one in enumerate(("left", "right") if side == "both" else (side,)):
        level = level if k == 0 else int(np.clip(level + rng.integers(-1, 2), 1, 3))
        thick = size_by(rng, level, (9, 15), (17, 28), (32, 50))
        made.append(lesion(rng, "Pleural effusion", level, side=one, place=f"{one} pleural space", size_mm=thick))
    return made


def draw_effusion(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A crescent behind and below the lung; `size_mm` is its greatest thickness on the back wall."""
    p, side = thorax.patient, 1.0 if one.side == "right" else -1.0
    box = canvas.box((min(0, side * 1.2 * p.width), -1.3 * p.depth, p.bottom - 30), (max(0, side * 1.2 * p.width), 1.2 * p.depth, p.apex))
    if box is None:
        return
    x, y, z = canvas.at(box)
    wall = thorax.cavity(x, y, z)
    low = np.clip(1.25 - (z - np.float32(p.bottom)) / np.float32(0.2 * (p.apex - p.bottom) + 2.0 * one.size_mm), 0, 1)
    back = np.clip(0.62 - y / np.float32(p.depth), 0, 1)
    fluid = np.maximum(-wall - np.float32(one.size_mm) * low * (2 - low) * back, np.float32(side) * -x)
    cover = canvas.cover(fluid) * np.clip(canvas.lung[box] * np.float32(1.6), 0, 1)
    cover *= (low * back > 0.01).astype(np.float32)
    fill(canvas, one, box, cover=cover, hu=10.0)
    organs = canvas.organs[box]
    organs[(cover > 0.5) & (organs <= 5)] = 0
    canvas.lung[box] *= 1 - cover
