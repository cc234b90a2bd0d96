"""Findings of the lung's tissue: nodule, opacity, consolidation, atelectasis, fibrotic sequela, septal thickening. How each is placed and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from .canvas import Canvas
from .lesions import Lesion, balls, fill, in_lobe, label_of, lobe_box, ripple, room, side_of, size_by, soft_hu, some_lobes
from .shapes import Segments, beads, ellipsoid, evenly, rotation
from .thorax import Thorax

LOWER = (0.12, 0.32, 0.10, 0.14, 0.32)  # liking of findings of the bases
PEAKS = (0.34, 0.12, 0.34, 0.06, 0.14)  # of findings of the tops


def place_nodule(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    made = []
    for label in some_lobes(rng, 1, int(rng.choice((1, 2, 3), p=(0.6, 0.27, 0.13)))):
        size = float(np.clip(rng.lognormal(2.77, 0.4), 5, 32))
        level = 1 if size < 10 else 2 if size < 19 else 3
        kind = int(rng.choice(3, p=(0.74, 0.16, 0.10)))  # solid, part solid, calcified
        count = int(rng.choice((1, 2, 3), p=(0.72, 0.18, 0.10)))
        made.append(in_lobe(rng, thorax, "Lung nodule", level=level, label=label, margin_mm=2 + 0.5 * size, size_mm=size, count=count, kind=kind))
    return made


def draw_nodule(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    rng = one.rng
    centres = [np.array(one.centre), *thorax.inside(rng, 3, label=label_of(one), margin_mm=5.0)]
    for k in range(one.count):
        radius = 0.5 * one.size_mm * (1.0 if k == 0 else rng.uniform(0.45, 0.8))
        radii = radius * np.array([1.0, rng.uniform(0.86, 1), rng.uniform(0.84, 1)])
        axes = rotation(yaw=rng.uniform(0, 3), roll=rng.uniform(0, 3))
        d = rng.normal(size=(7, 3))
        spikes = np.array(centres[k]) + d / np.linalg.norm(d, axis=1, keepdims=True) * radius * rng.uniform(1.4, 2.0, (7, 1))
        if radius > 6.5 and rng.random() < 0.55 and one.numbers["kind"] == 0:
            rays = Segments(np.repeat(centres[k][None], 7, 0), spikes, np.full(7, 1.6), np.full(7, 0.5))
            points, width, _ = beads(rays, step_mm=0.5 * canvas.edge)
            box, cover = canvas.splat(points, width)
            if box is not None:
                canvas.paint(box, cover * room(canvas, thorax, box, one), -50.0)
        box = canvas.around(centres[k], radius + 2)
        if box is None:
            continue
        where, mass = canvas.at(box), min(1.0, 6 * (radius / canvas.edge) ** 3)
        gap = ellipsoid(*where, centre=centres[k], radii=radii, axes=axes)
        hu = (38.0, -480.0, 380.0)[int(one.numbers["kind"])]
        fill(canvas, one, box, cover=canvas.cover(gap) * room(canvas, thorax, box, one) * np.float32(mass), hu=hu, least=0.4)
        if one.numbers["kind"] == 1:
            core = ellipsoid(*where, centre=centres[k], radii=0.52 * radii, axes=axes)
            canvas.paint(box, canvas.cover(core) * room(canvas, thorax, box, one) * np.float32(mass), 25.0)


def place_opacity(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    made = []
    for label in some_lobes(rng, 1, int(rng.choice((1, 2, 3, 4), p=(0.45, 0.27, 0.16, 0.12)))):
        radius = size_by(rng, level, (13, 19), (18, 25), (24, 34)) * thorax.patient.size
        shape = dict(radius=radius, dense=rng.uniform(0.38, 0.62), parts=1 + rng.integers(3))
        made.append(in_lobe(rng, thorax, "Lung opacity", level=level, label=label, margin_mm=4, **shape))
    return made


def _patch(canvas: Canvas, thorax: Thorax, one: Lesion, *, rough: float) -> tuple:
    """Box and signed distance of a few joined irregular balls."""
    rng, radius = one.rng, one.numbers["radius"]
    box = canvas.around(one.centre, 2.1 * radius)
    if box is None:
        return None, None
    x, y, z = canvas.at(box)
    gap = None
    for k in range(int(one.numbers["parts"])):
        centre = np.array(one.centre) + (rng.normal(0, 0.55 * radius, 3) if k else 0)
        axes = rotation(yaw=rng.uniform(0, 3), roll=rng.uniform(-0.5, 0.5))
        d = ellipsoid(x, y, z, centre=centre, radii=radius * rng.uniform(0.65, 1.0, 3), axes=axes)
        gap = d if gap is None else np.minimum(gap, d)
    return box, gap + np.float32(rough * radius) * ripple(one, canvas, box, length_mm=0.9 * radius)


def draw_opacity(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Ground glass: denser lung in which vessels are still seen; soft edges."""
    box, gap = _patch(canvas, thorax, one, rough=0.16)
    if box is None:
        return
    cover = np.clip(0.5 - gap / np.float32(canvas.edge + 5), 0, 1) * room(canvas, thorax, box, one)
    grain = np.float32(1) + np.float32(0.16) * ripple(one, canvas, box, length_mm=9.0)
    hu = canvas.hu[box]
    canvas.paint(box, cover * np.float32(one.numbers["dense"]) * grain, np.maximum(hu, np.float32(-60.0)))
    canvas.mark(one.bit, box, cover)


def place_consolidation(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    hazy = [o for o in others if o.finding == "Lung opacity"]
    made = []
    for label in some_lobes(rng, 1, int(rng.choice((1, 2), p=(0.72, 0.28))), liking=LOWER):
        radius = size_by(rng, level, (13, 18), (18, 26), (26, 38)) * thorax.patient.size
        near = [o for o in hazy if o.lobe and label_of(o) == label]
        centre = near[0].centre if near and rng.random() < 0.6 else None
        made.append(
            in_lobe(rng, thorax, "Consolidation", level=level, label=label, margin_mm=3, radius=radius, parts=1 + rng.integers(2), centre=centre)
        )
    return made


def draw_consolidation(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Airless lung that keeps its shape, reaching the nearest pleura, with air in its bronchi."""
    box, gap = _patch(canvas, thorax, one, rough=0.17)
    if box is None:
        return
    share = room(canvas, thorax, box, one)
    cover = canvas.cover(gap) * share
    hu = soft_hu(thorax, plain=36.0, enhanced=72.0)
    halo = np.clip(0.5 - (gap - 5) / np.float32(canvas.edge + 6), 0, 1) * share
    canvas.paint(box, halo * np.float32(0.3), hu)
    canvas.paint(box, cover, hu + 8 * ripple(one, canvas, box, length_mm=14.0))
    tree, rng = thorax.bronchi[label_of(one) - 1], one.rng
    near = np.linalg.norm(0.5 * (tree.starts + tree.ends) - one.centre, axis=1) < one.numbers["radius"] * 1.1
    a, b = [tree.starts[near]], [tree.ends[near]]
    out = (d := rng.normal(size=(3, 3))) / np.linalg.norm(d, axis=1, keepdims=True)
    a.append(np.repeat([one.centre], 3, 0) + out * 2), b.append(np.array(one.centre) + out * one.numbers["radius"] * 0.75)
    a, b = np.vstack(a), np.vstack(b)
    points, radii, _ = beads(evenly(a, b, 1.3), step_mm=0.5 * canvas.edge)
    part, air = canvas.splat(points, radii)
    if part is not None:
        solid = np.zeros(canvas.shape, np.float32)
        solid[box] = cover
        canvas.paint(part, air * solid[part] * np.float32(0.9), -870.0)
    canvas.mark(one.bit, box, cover)


def place_atelectasis(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    wet = [o.side for o in others if o.finding == "Pleural effusion"]
    made = []
    for label in some_lobes(rng, 1, 1 + int(rng.random() < 0.35), liking=(0.14, 0.3, 0.08, 0.18, 0.3)):
        if wet and rng.random() < 0.7:
            label = 2 if wet[0] == "left" else 5
        if any(label_of(m) == label for m in made):
            continue
        wedge = rng.random() < 0.4
        reach = size_by(rng, level, (20, 28), (28, 38), (38, 52)) * thorax.patient.size
        thick = size_by(rng, level, (6, 7.5), (7.5, 10), (10, 13))
        shape = dict(wedge=wedge, reach=reach, thick=thick, tilt=rng.normal(0, 0.35), yaw=rng.uniform(0, 6.28))
        made.append(in_lobe(rng, thorax, "Atelectasis", level=level, label=label, margin_mm=4, **shape))
    return made


def draw_atelectasis(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A plate across the lung, or a wedge with its base on the pleura and its tip towards the hilum."""
    n, centre = one.numbers, np.array(one.centre)
    box = canvas.around(centre, 1.5 * n["reach"])
    if box is None:
        return
    x, y, z = canvas.at(box)
    if n["wedge"]:
        inward = thorax.hilum[side_of(label_of(one))] - centre
        inward = (inward / np.linalg.norm(inward)).astype(np.float32)
        dx, dy, dz = (w - np.float32(o) for w, o in zip((x, y, z), centre, strict=True))
        along = dx * inward[0] + dy * inward[1] + dz * inward[2]
        across = np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - along**2, 0))
        gap = np.maximum(across - (np.float32(0.45 * n["reach"]) - along) * np.float32(0.55), np.float32(-0.9 * n["reach"]) - along)
    else:
        axes = rotation(yaw=n["yaw"], pitch=n["tilt"], roll=n["tilt"] * 0.7)
        radii = (n["reach"], 0.62 * n["reach"], 0.5 * n["thick"])
        gap = ellipsoid(x, y, z + np.float32(0.08) * (x - np.float32(centre[0])), centre=centre, radii=radii, axes=axes)
    gap = gap + 1.2 * ripple(one, canvas, box, length_mm=20.0)
    fill(canvas, one, box, cover=canvas.cover(gap) * room(canvas, thorax, box, one), hu=soft_hu(thorax, plain=32.0, enhanced=82.0))


def place_sequela(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    liking = PEAKS if rng.random() < 0.55 else LOWER
    made = []
    for label in some_lobes(rng, 1, 1 + int(rng.random() < 0.4), liking=liking):
        made.append(
            in_lobe(rng, thorax, "Pulmonary fibrotic sequela", level=level, label=label, margin_mm=7, bands=6 + 3 * level, reach=16 + 5 * level)
        )
    return made


def draw_sequela(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A sheaf of bands that meet in a scar, with knots where they cross."""
    rng, n = one.rng, one.numbers
    main = rng.normal(size=3)
    starts, ends = [], []
    for _ in range(int(n["bands"])):
        d = main / np.linalg.norm(main) + rng.normal(0, 0.5, 3)
        d *= n["reach"] * rng.uniform(0.7, 1.1) / np.linalg.norm(d)
        a = np.array(one.centre) + rng.normal(0, 4.5, 3) - 0.5 * d
        m = a + 0.5 * d + rng.normal(0, 2.5, 3)
        starts += [a, m]
        ends += [m, a + d]
    points, radii, _ = beads(evenly(starts, ends, 2.5), step_mm=0.5 * canvas.edge)
    box, cover = canvas.splat(points, radii * rng.uniform(0.9, 1.3))
    if box is not None:
        haze = np.minimum(1.0, cover * 1.25) * room(canvas, thorax, box, one)
        fill(canvas, one, box, cover=haze, hu=10.0, least=0.3)
    balls(canvas, one, np.array(one.centre) + rng.normal(0, 5, (3, 3)), radii=rng.uniform(2, 3.2, 3), hu=40.0, inside=True)
    box = canvas.around(one.centre, n["reach"])
    if box is not None:  # the scar that the bands meet in
        along = main / np.linalg.norm(main)
        axes = rotation(yaw=float(np.arctan2(along[1], along[0])), roll=float(np.arcsin(along[2])))
        scar = ellipsoid(*canvas.at(box), centre=one.centre, radii=(0.48 * n["reach"], 0.20 * n["reach"], 0.16 * n["reach"]), axes=axes)
        scar = scar + 2.2 * ripple(one, canvas, box, length_mm=13.0)
        fill(canvas, one, box, cover=canvas.cover(scar) * room(canvas, thorax, box, one), hu=5.0)


def place_septal(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    high = int(rng.choice((2, 3, 4), p=(0.4, 0.35, 0.25)))
    shape = dict(cell=rng.uniform(15, 21), thick=size_by(rng, level, (1.3, 1.6), (1.6, 2.0), (2.0, 2.6)))
    chosen = some_lobes(rng, 1, high, liking=LOWER)
    return [in_lobe(rng, thorax, "Interlobular septal thickening", level=level, label=n, **shape) for n in chosen]


def draw_septal(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Polygons: the borders between cells of scattered points, in the outer part of the lobe."""
    box, n = lobe_box(canvas, one), one.numbers
    if box is None:
        return
    share = room(canvas, thorax, box, one)
    some = share > 0.02
    x, y, z = (np.broadcast_to(c, share.shape)[some] for c in canvas.at(box))
    points = np.stack([x, y, z], axis=1)
    reach = np.array([160.0, 130.0, 220.0])
    seeds = one.rng.uniform(-reach, reach, (int(8 * reach.prod() / n["cell"] ** 3), 3))
    low, high = points.min(0) - n["cell"] * 1.5, points.max(0) + n["cell"] * 1.5
    seeds = seeds[((seeds > low) & (seeds < high)).all(1)]
    near, which = cKDTree(seeds).query(points, k=2)
    apart = np.linalg.norm(seeds[which[:, 0]] - seeds[which[:, 1]], axis=1)
    gap = (near[:, 1] ** 2 - near[:, 0] ** 2) / (2 * np.maximum(apart, 1e-3))  # distance to the border plane
    patchy = 0.85 + 0.5 * ripple(one, canvas, box, length_mm=45.0)[some]
    deep = np.clip(1.2 + thorax.cavity(x, y, z) / 60.0, 0.2, 1) * np.clip(patchy, 0.12, 1)  # strongest near the pleura
    width = max(n["thick"], 0.75 * canvas.edge)
    cover = np.zeros(share.shape, np.float32)
    cover[some] = np.clip(0.5 - (gap - 0.5 * width) / canvas.edge, 0, 1) * min(1.0, n["thick"] / width) * deep
    cover *= share
    canvas.hu[box] -= np.float32(0.09 * (thorax.patient.lung_hu + 1000) + 14) * share  # lobules between thick septa look lucent
    fill(canvas, one, box, cover=cover, hu=5.0, least=0.45)
