"""Findings of air and airways: emphysema, mosaic attenuation, bronchiectasis, peribronchial thickening. How each is placed and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas
from .lesions import Lesion, fill, in_lobe, label_of, lesion, room, size_by, some_lobes
from .shapes import Segments, beads, evenly, random_field
from .thorax import Thorax

UPPER = (0.30, 0.12, 0.32, 0.12, 0.14)


def place_emphysema(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    low, high = ((1, 2), (2, 3), (2, 5))[level - 1]
    return [
        in_lobe(
            rng, thorax, "Emphysema", level=level, label=n, holes=size_by(rng, level, (26, 40), (45, 70), (80, 120)) * (0.5 if n == 4 else 1),
            radius=size_by(rng, level, (5.5, 7), (6.5, 8.5), (7.5, 10.5)),
        )
        for n in some_lobes(rng, low, high, liking=UPPER)
    ]  # fmt: skip


def draw_emphysema(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Holes without walls, a third of them in one cluster, the others all over the lobe; severe ones run together."""
    rng, n = one.rng, one.numbers
    cluster = np.array(one.centre) + rng.normal(0, 11, (int(n["holes"]) // 3, 3))
    points = np.vstack([cluster, thorax.inside(rng, int(n["holes"]) - len(cluster), label=label_of(one), margin_mm=2.0)])
    box, cover = canvas.splat(points, n["radius"] * rng.uniform(0.55, 1.25, len(points)), ball=True)
    if box is not None:
        cover = cover * room(canvas, thorax, box, one)
        hole = np.minimum(canvas.hu[box], np.float32(-965.0))
        canvas.paint(box, cover * np.float32(0.93), hole)
        canvas.mark(one.bit, box, cover)


def place_mosaic(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    contrast = size_by(rng, level, (75, 100), (100, 135), (135, 175))
    return [lesion(rng, "Mosaic attenuation pattern", level, side="both", place="both lungs", length=rng.uniform(30, 44), contrast=contrast)]


def draw_mosaic(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A map of lucent and dense fields with sharp borders; the instance is the lucent part (trapped air)."""
    p = thorax.patient
    field = random_field([one.seed, 5], canvas.still, length_mm=one.numbers["length"])
    field = field + np.float32(0.3) * random_field([one.seed, 6], canvas.still, length_mm=one.numbers["length"] / 2.6)
    lucent = np.clip(np.float32(0.5) + field / np.float32(0.16), 0, 1)
    contrast = min(one.numbers["contrast"], 2 * (p.lung_hu + 960))
    canvas.hu += canvas.lung * (np.float32(0.5) - lucent) * np.float32(max(contrast, 60.0))
    canvas.mark(one.bit, canvas.full, lucent * canvas.lung)


def _cluster(tree: Segments, centre, *, reach_mm: float, stem_mm: float) -> np.ndarray:
    """Segments of a bronchial tree near a place, the thick stem left out."""
    gap = np.linalg.norm(0.5 * (tree.starts + tree.ends) - np.asarray(centre), axis=1)
    near = (gap < reach_mm) & (tree.r0 < stem_mm)
    return near if near.sum() >= 4 else gap <= np.sort(gap)[min(5, len(gap) - 1)]


def place_bronchiectasis(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    made = []
    for n in some_lobes(rng, 1, 1 + int(rng.random() < 0.4), liking=(0.2, 0.24, 0.14, 0.2, 0.22)):
        size = size_by(rng, level, (7.5, 9.5), (9.5, 12), (12, 15))
        reach = size_by(rng, level, (24, 30), (28, 36), (34, 42))
        made.append(in_lobe(rng, thorax, "Bronchiectasis", level=level, label=n, margin_mm=12, size_mm=size, reach=reach))
    return made


def draw_bronchiectasis(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """A cluster of wide airways that do not taper, with thick walls; `size_mm` is the widest lumen."""
    tree, rng = thorax.bronchi[label_of(one) - 1], one.rng
    near = _cluster(tree, one.centre, reach_mm=one.numbers["reach"], stem_mm=3.6)
    lumen = 0.5 * one.size_mm * np.where(np.arange(near.sum()) == 0, 1.0, rng.uniform(0.6, 1.0, int(near.sum())))
    points, radii, _ = beads(evenly(tree.starts[near], tree.ends[near], lumen), step_mm=0.5 * canvas.edge)
    box, wall = canvas.splat(points, radii + 2.4)
    if box is None:
        return
    share = room(canvas, thorax, box, one)
    fill(canvas, one, box, cover=wall * share, hu=15.0)
    box, air = canvas.splat(points, radii)
    canvas.paint(box, air * room(canvas, thorax, box, one), -985.0)


def place_peribronchial(rng: np.random.Generator, thorax: Thorax, *, level: int, others: Sequence[Lesion]) -> list[Lesion]:
    high = int(rng.choice((1, 2, 3), p=(0.4, 0.35, 0.25)))
    return [
        in_lobe(rng, thorax, "Peribronchial thickening", level=level, label=n, thick=size_by(rng, level, (2.8, 3.4), (3.4, 4.2), (4.2, 5.2)))
        for n in some_lobes(rng, 1, high)
    ]


def draw_peribronchial(canvas: Canvas, thorax: Thorax, one: Lesion) -> None:
    """Cuffs of soft tissue around the lobe's larger bronchi."""
    tree = thorax.bronchi[label_of(one) - 1]
    thick = tree.r0 > np.quantile(tree.r0, 0.25)
    points, radii, _ = beads(Segments(*(a[thick] for a in tree)), step_mm=0.5 * canvas.edge)
    box, cuff = canvas.splat(points, radii + one.numbers["thick"])
    if box is None:
        return
    fill(canvas, one, box, cover=cuff * room(canvas, thorax, box, one), hu=12.0, least=0.45)
    box, air = canvas.splat(points, radii)
    canvas.paint(box, air * room(canvas, thorax, box, one), -950.0)
