"""How each finding looks: HU and mask of one instance, drawn into the smallest box that holds it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asapkit.phantom.anatomy import LOBES, Array


def around(canvas, lesion, radius: float):
    """Box of a ball about the lesion's centre and the offsets of its voxels; (None, ...) outside the field."""
    centre = np.array(lesion.centre)
    box = canvas.box(centre - radius, centre + radius)
    if box is None:
        return None, None, None, None
    u, v, z = canvas.coordinates(box)
    return box, u - centre[0], v - centre[1], z - centre[2]


def whole_lobe(canvas, lesion):
    """Box and Boolean lung of the lesion's lobe."""
    inside = canvas.organs == LOBES.index(lesion.lobe) + 1
    if not inside.any():
        return None, None
    box = tuple(slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(inside))
    return box, inside[box]


def blend(canvas, lesion, box, cover: Array, hu: float | Array) -> None:
    canvas.paint(box, cover, hu)
    canvas.mark(lesion.bit, box, cover)


def ball(canvas, centre, radius: float, hu: float, *, lesion=None, strength: float = 1.0) -> None:
    """A small solid sphere; what is smaller than a voxel is spread over it."""
    centre = np.asarray(centre, float)
    box = canvas.box(centre - radius, centre + radius)
    if box is None:
        return
    u, v, z = canvas.coordinates(box)
    gap = np.sqrt((u - centre[0]) ** 2 + (v - centre[1]) ** 2 + (z - centre[2]) ** 2) - radius
    cover = canvas.cover(gap) * strength
    canvas.paint(box, cover, hu)
    if lesion is not None:
        canvas.mark(lesion.bit, box, cover)


def tube(canvas, lesion, points, radius: float, hu: float, *, within: float = 1.0, marked: bool = True) -> None:
    """A thin tube, fading where it is finer than a voxel, its voxels marked."""
    points = np.asarray(points, float)
    for a, b in zip(points[:-1], points[1:], strict=True):
        part = np.stack([a, b]), np.array([radius, radius])
        box = canvas.tube_box(part)
        if box is None:
            continue
        gap = canvas.tube_distance(part, box)
        cover = canvas.cover(np.maximum(gap, -0.5 * canvas.soft)) * within
        canvas.paint(box, cover, hu)
        if marked:
            canvas.mark(lesion.bit, box, canvas.cover(gap))


def medical(canvas, lesion) -> None:
    p, n = canvas.patient, lesion.numbers
    high = n["height"] * p.lung_height + 0.1 * p.lung_height
    if lesion.place in ("pacemaker", "port"):
        side = -1.0 if lesion.side == "left" else 1.0
        spot = np.array([side * n["across"] * p.half_width, 0.0, high])
        low = np.linspace(0, p.half_depth + 40, 60)
        spot[1] = low[np.abs(p.cavity(spot[0], low, spot[2]) - p.muscle - 5).argmin()]
        size = np.array([19.0, 5.5, 22.0] if lesion.place == "pacemaker" else [11.0, 6.0, 11.0])
        box = canvas.box(spot - size, spot + size)
        if box is not None:
            u, v, z = canvas.coordinates(box)
            gap = np.maximum(np.maximum(np.abs(u - spot[0]) - size[0], np.abs(v - spot[1]) - size[1]), np.abs(z - spot[2]) - size[2])
            blend(canvas, lesion, box, canvas.cover(gap), 2600.0)
        cava = p.vena_cava[0]
        end = p.heart_centre + [18, 10, -8] if lesion.place == "pacemaker" else cava[len(cava) // 2]
        path = np.array([spot, [0.5 * spot[0], spot[1] - 22, p.apex - 6], cava[1], cava[len(cava) // 2], end])
        tube(canvas, lesion, path, 1.7, 2200.0)
    elif lesion.place == "central venous catheter":
        cava = p.vena_cava[0]
        tube(canvas, lesion, np.vstack([[[46, 6, p.apex + 30]], cava[: max(3, 2 * len(cava) // 3)]]), 1.8, 1700.0)
    else:
        front = np.linspace(0, p.half_depth + 30, 60)
        for k in range(5):
            z = p.lung_height * (-0.05 + 0.085 * k)
            v = front[np.abs(p.cavity(0.0, front, z) - 5).argmin()]
            ring = [[16 * np.cos(t), v + 8 * np.sin(t), z + 2 * np.sin(3 * t)] for t in np.linspace(0, 2 * np.pi, 9)]
            tube(canvas, lesion, ring, 1.2, 2600.0)


def arterial(canvas, lesion) -> None:
    rng, n = np.random.default_rng(lesion.seed), lesion.numbers
    points, radii = canvas.patient.aorta
    for _ in range(lesion.count):
        at = rng.uniform(n["low"], n["high"]) * (len(points) - 1)
        k, f = int(at), at - int(at)
        centre, along = points[k] * (1 - f) + points[k + 1] * f, points[k + 1] - points[k]
        side = np.cross(along, rng.normal(size=3))
        side /= np.linalg.norm(side) + 1e-6
        ball(canvas, centre + side * (radii[k] - 0.5), n["radius"] * rng.uniform(0.7, 1.2), rng.uniform(650, 1150), lesion=lesion)


def coronary(canvas, lesion) -> None:
    rng, n = np.random.default_rng(lesion.seed), lesion.numbers
    course = canvas.patient.coronaries[lesion.place]
    for k in range(lesion.count):
        at = min(1.0, n["start"] + 0.11 * k + rng.uniform(0, 0.06)) * (len(course) - 1)
        ball(canvas, course[round(at)] + rng.normal(0, 0.6, 3), n["radius"] * rng.uniform(0.75, 1.2), rng.uniform(700, 1250), lesion=lesion)


def heart_box(canvas, grown: float):
    p = canvas.patient
    reach = p.heart_radii * 1.7 + grown
    box = canvas.box(p.heart_centre - reach, p.heart_centre + reach)
    return (None, None) if box is None else (box, canvas.coordinates(box))


def cardiomegaly(canvas, lesion) -> None:
    """Drawn with the anatomy (`heart_scale`); here its voxels are marked."""
    box, where = heart_box(canvas, 0.0)
    if box is not None:
        canvas.mark(lesion.bit, box, canvas.cover(canvas.patient.heart(*where)))


def pericardial(canvas, lesion) -> None:
    p = canvas.patient
    box, where = heart_box(canvas, lesion.size_mm)
    if box is None:
        return
    u, v, z = where
    thick = lesion.size_mm * np.clip(0.8 - 0.5 * lesion.numbers["lean"] * (v - p.heart_centre[1]) / p.heart_radii[1], 0.25, 1.0)
    heart = p.heart(u, v, z)
    shell = np.maximum(np.maximum(heart - thick - 1, -heart), p.cavity(u, v, z) + 1)
    shell = np.maximum(shell, p.diaphragm(u, v) - z - 4)
    blend(canvas, lesion, box, canvas.cover(shell), 12.0)


def hernia(canvas, lesion) -> None:
    n = lesion.numbers
    box, du, dv, dz = around(canvas, lesion, n["radius"] * 1.3)
    if box is None:
        return
    sac = (np.sqrt((du / 1.0) ** 2 + (dv / 0.95) ** 2 + (dz / 1.2) ** 2)) - n["radius"]
    blend(canvas, lesion, box, canvas.cover(sac), 34.0)
    canvas.paint(box, canvas.cover(np.maximum(sac + 4, (0.75 - n["air"]) * n["radius"] - dv)), -880.0)


def nodes(canvas, lesion) -> None:
    rng = np.random.default_rng(lesion.seed)
    for k in range(lesion.count):
        radius = 0.5 * lesion.size_mm * (1.0 if k == 0 else rng.uniform(0.6, 0.85))
        offset = np.zeros(3) if k == 0 else rng.normal(0, 0.55 * lesion.size_mm, 3)
        ball(canvas, np.array(lesion.centre) + offset, radius, 62.0 + rng.normal(0, 6), lesion=lesion)


def emphysema(canvas, lesion) -> None:
    rng, n = np.random.default_rng(lesion.seed), lesion.numbers
    label = LOBES.index(lesion.lobe) + 1
    for _ in range(int(n["holes"])):
        centre = canvas.patient.inside_lobe(rng, label, margin=2)
        ball(canvas, centre, n["radius"] * rng.uniform(0.6, 1.3), -985.0, lesion=lesion, strength=0.95)


def plane(lesion) -> Array:
    n = lesion.numbers
    normal = np.array([np.cos(n["yaw"]) * 0.5, np.sin(n["yaw"]) * 0.5, 1.0 + n["pitch"]])
    return normal / np.linalg.norm(normal)


def atelectasis(canvas, lesion) -> None:
    n = lesion.numbers
    box, du, dv, dz = around(canvas, lesion, n["reach"] + 4)
    if box is None:
        return
    m = plane(lesion)
    across = du * m[0] + dv * m[1] + dz * m[2]
    radial = np.sqrt(du**2 + dv**2 + dz**2)
    slab = np.maximum(np.abs(across + 0.004 * radial**2 * np.sign(n["pitch"])) - n["thick"] * (1.15 - radial / n["reach"]), radial - n["reach"])
    blend(canvas, lesion, box, canvas.cover(slab) * canvas.lungs[box], 5.0)


def nodule(canvas, lesion) -> None:
    radius, rng = lesion.size_mm / 2, np.random.default_rng(lesion.seed)
    if lesion.numbers["solid"]:
        ball(canvas, lesion.centre, radius, 35.0 + rng.normal(0, 12), lesion=lesion)
    else:
        ball(canvas, lesion.centre, radius, -420.0, lesion=lesion)
        ball(canvas, lesion.centre, 0.5 * radius, 20.0)
    if radius > 6:  # spicules
        for _ in range(5):
            tip = np.array(lesion.centre) + (d := rng.normal(size=3)) / np.linalg.norm(d) * (radius + 5)
            tube(canvas, lesion, np.array([lesion.centre, tip]), 0.8, -150.0, marked=False)


def patch(canvas, lesion):
    """Box and share of an irregular patch kept inside the lung."""
    n, rng = lesion.numbers, np.random.default_rng(lesion.seed)
    box, du, dv, dz = around(canvas, lesion, 1.5 * n["radius"])
    if box is None:
        return None, None
    wave = rng.normal(0, 1, (5, 3)) / (0.55 * n["radius"])
    rough = sum(np.sin(w[0] * du + w[1] * dv + w[2] * dz + rng.uniform(0, 6.3)) for w in wave) / 5
    gap = np.sqrt(du**2 + dv**2 + (dz / n["flat"]) ** 2) - n["radius"] * (1 + 0.35 * rough)
    return box, gap


def opacity(canvas, lesion) -> None:
    box, gap = patch(canvas, lesion)
    if box is not None:
        cover = np.clip(0.5 - gap / (canvas.soft + 6), 0, 1) * canvas.lungs[box]
        canvas.paint(box, cover * 0.85, np.minimum(canvas.hu[box] + 330.0, -380.0).clip(canvas.hu[box]))
        canvas.mark(lesion.bit, box, cover)


def consolidation(canvas, lesion) -> None:
    box, gap = patch(canvas, lesion)
    if box is None:
        return
    blend(canvas, lesion, box, canvas.cover(gap) * canvas.lungs[box], 38.0)
    rng, centre = np.random.default_rng(lesion.seed + 1), np.array(lesion.centre)
    for _ in range(3):  # air bronchograms
        d = rng.normal(size=3)
        tube(canvas, lesion, np.array([centre, centre + d / np.linalg.norm(d) * lesion.numbers["radius"] * 0.8]), 1.9, -850.0, marked=False)


def sequela(canvas, lesion) -> None:
    n, rng = lesion.numbers, np.random.default_rng(lesion.seed)
    centre = np.array(lesion.centre)
    for _ in range(int(n["bands"])):
        d = rng.normal(size=3)
        d *= n["reach"] / np.linalg.norm(d)
        start = centre + rng.normal(0, 5, 3) - 0.5 * d
        tube(canvas, lesion, np.array([start, start + 0.5 * d + rng.normal(0, 2.5, 3), start + d]), 1.9, -20.0)


def effusion(canvas, lesion) -> None:
    """A crescent behind and below the lung of one side."""
    p = canvas.patient
    side = 1.0 if lesion.side == "right" else -1.0
    u, v, z = canvas.coordinates()
    chest = np.maximum(p.cavity(u, v, z) + 3.5, p.diaphragm(u, v) - z)
    depth = lesion.size_mm * np.clip(1.25 - (z - p.bottom) / (0.55 * p.lung_height), 0, 1.25) * np.clip(0.6 - v / (1.4 * p.half_depth), 0, 1.2)
    fluid = np.maximum(np.maximum(chest, -(p.cavity(u, v, z) + 3.5) - depth), -p.mediastinum(u, v, z))
    fluid = np.maximum(np.maximum(fluid, -p.heart(u, v, z, grown=2.0)), -side * u)
    cover = canvas.cover(fluid)
    blend(canvas, lesion, canvas.everywhere, cover, 9.0)
    canvas.organs[(cover > 0.5) & (canvas.organs <= 5)] = 0
    canvas.lungs = canvas.lungs * (1 - cover)


def mosaic(canvas, lesion) -> None:
    field = canvas.smooth_noise(np.random.default_rng(lesion.seed), lesion.numbers["length"])
    lucent = np.clip((field - 0.15) / 0.25, 0, 1) * canvas.lungs
    dense = np.clip((-field - 0.15) / 0.25, 0, 1) * canvas.lungs
    contrast = (90.0, 125.0, 165.0)[lesion.severity - 1]
    canvas.hu += dense * contrast * 0.9 - lucent * contrast * 0.6
    canvas.mark(lesion.bit, canvas.everywhere, lucent)


def airway(canvas, lesion) -> None:
    """Thick cuffs around the lobe's bronchi."""
    label = LOBES.index(lesion.lobe)
    for points, radii in canvas.patient.airways[3 + 3 * label : 6 + 3 * label]:
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            part = np.stack([a, b]), np.array([ra, rb])
            box = canvas.tube_box(part, margin=lesion.numbers["thick"])
            if box is None:
                continue
            gap = canvas.tube_distance(part, box)
            cuff = np.maximum(gap - lesion.numbers["thick"], -gap)
            blend(canvas, lesion, box, canvas.cover(cuff), 5.0)
            canvas.paint(box, canvas.cover(gap), -970.0)


def dilated(canvas, lesion) -> None:
    n, rng = lesion.numbers, np.random.default_rng(lesion.seed)
    hilum = canvas.patient.hilum[lesion.side]
    for _ in range(int(n["tubes"])):
        start = np.array(lesion.centre) + rng.normal(0, 13, 3)
        along = start - hilum
        end = start + along / (np.linalg.norm(along) + 1e-6) * rng.uniform(16, 30) + rng.normal(0, 5, 3)
        tube(canvas, lesion, np.array([start, end]), n["radius"] + 2.4, -40.0)
        tube(canvas, lesion, np.array([start, end]), n["radius"], -985.0, marked=False)


def septal(canvas, lesion) -> None:
    """Polygonal lines: borders between the cells of scattered points."""
    n, rng = lesion.numbers, np.random.default_rng(lesion.seed)
    box, lung = whole_lobe(canvas, lesion)
    if box is None:
        return
    u, v, z = (np.broadcast_to(c, lung.shape)[lung] for c in canvas.coordinates(box))
    points = np.stack([u, v, z], axis=1)
    low, high = points.min(0), points.max(0)
    from scipy.spatial import cKDTree

    seeds = rng.uniform(low, high, (max(4, int(np.prod((high - low) / n["cell"]))), 3))
    nearest, _ = cKDTree(seeds).query(points, k=2)
    gap = 0.5 * (nearest[:, 1] - nearest[:, 0]) - 0.5 * n["thick"]
    cover = np.zeros(lung.shape, np.float32)
    cover[lung] = canvas.cover(gap) * min(1.0, 1.6 * n["thick"] / canvas.soft)
    canvas.paint(box, cover, -60.0)
    canvas.mark(lesion.bit, box, cover)


DRAW: dict[str, Callable] = {
    "Medical material": medical, "Arterial wall calcification": arterial, "Coronary artery wall calcification": coronary,
    "Cardiomegaly": cardiomegaly, "Pericardial effusion": pericardial, "Hiatal hernia": hernia, "Lymphadenopathy": nodes, "Emphysema": emphysema,
    "Atelectasis": atelectasis, "Lung nodule": nodule, "Lung opacity": opacity, "Consolidation": consolidation,
    "Pulmonary fibrotic sequela": sequela, "Pleural effusion": effusion, "Mosaic attenuation pattern": mosaic,
    "Peribronchial thickening": airway, "Bronchiectasis": dilated, "Interlobular septal thickening": septal,
}  # fmt: skip
