"""A patient with findings -> voxels: HU with partial volume, kernel and noise; organ labels; the truth's bits; at any spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from . import findings
from . import thorax as chests
from .anatomy import LOBES, Patient
from .body import FAT_HU, draw_body
from .canvas import Canvas
from .shapes import Array, Tube, beads, ellipsoid, random_field
from .thorax import Thorax


def render(
    patient: Patient, instances: Sequence, *, spacing_mm: Sequence[float], rng_noise: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """Draws one reconstruction of a study.

    Returns HU float32 (X, Y, Z), organs uint8 (1..9 in `types.ORGANS` order), truth uint32 (one bit per instance), affine (4, 4) RAS mm. The
    same patient and instances give the same solids at every spacing; noise comes from `rng_noise`.
    """
    thorax = chests.of(patient, findings.heart_scale(instances))
    canvas = Canvas(patient, spacing_mm)
    draw_body(canvas, thorax)
    _lungs(canvas, thorax)
    _trees(canvas, thorax)
    findings.draw(canvas, thorax, instances, stage="lung")
    _heart(canvas, thorax)
    findings.draw(canvas, thorax, instances, stage="heart")
    _vessels(canvas, thorax)
    _airway(canvas, thorax)
    findings.draw(canvas, thorax, instances, stage="mediastinum")
    _scan(canvas, rng_noise)
    return canvas.hu, canvas.organs, canvas.truth, canvas.affine


def _lungs(canvas: Canvas, thorax: Thorax) -> None:
    """Air, gravity and texture of the parenchyma, five lobes, fissures."""
    p = thorax.patient
    box = canvas.box((-1.15 * p.width, -1.2 * p.depth, p.bottom - 30), (1.15 * p.width, 1.2 * p.depth, p.apex + 6))
    if box is None:
        return
    x, y, z = canvas.at(box)
    lung = np.array(np.broadcast_to(thorax.lungs_raw(x, y, z), canvas.hu[box].shape))
    _push(canvas, box, lung, part=canvas.box(*thorax.heart_box), gap=lambda *at: thorax.heart(*at, grown=3.5))
    for tube, margin in thorax.clearings:
        part, gap = canvas.tube(tube, reach_mm=margin)
        if part is not None:
            _push(canvas, box, lung, part=part, gap=gap - np.float32(margin))
    cover = canvas.cover(lung)
    canvas.lung[box] = cover
    still = [a[s] for a, s in zip(canvas.still, box, strict=True)]
    texture = p.texture_hu * (random_field([p.tree, 3], still, length_mm=27.0) + 0.6 * random_field([p.tree, 4], still, length_mm=9.0))
    dependent = np.clip(0.5 - y / np.float32(2 * p.depth), 0, 1) ** 2
    canvas.paint(box, cover, np.float32(p.lung_hu) + np.float32(p.gravity_hu) * dependent + texture)
    oblique, horizontal = thorax.fissures(x, y, z)
    line = np.minimum(np.abs(oblique), np.where((x > 0) & (oblique > 0), np.abs(horizontal), np.float32(1e3)))
    canvas.paint(box, canvas.cover(line - 0.6) * cover * np.float32(min(0.55, 0.9 / canvas.edge)), -120.0)
    inside = lung < 0
    view = canvas.organs[box]
    view[inside] = np.broadcast_to(thorax.lobe(x, y, z), view.shape)[inside]


def _push(canvas: Canvas, box, lung: Array, *, part, gap) -> None:
    """Takes a solid, known in the voxels `part`, out of the lung, known in `box`."""
    if part is None:
        return
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, part, strict=True))
    if any(s.start >= s.stop for s in both):
        return
    view = lung[tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(both, box, strict=True))]
    here = gap(*canvas.at(both)) if callable(gap) else gap[tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(both, part, strict=True))]
    np.maximum(view, -here, out=view)


def _trees(canvas: Canvas, thorax: Thorax) -> None:
    """Pulmonary arteries and veins, bronchi with their walls."""
    p = thorax.patient
    step = 0.5 * canvas.edge
    for kind, hu in (("veins", 0.75 * p.blood_hu + 10), ("arteries", p.right_hu)):
        for tree in thorax.vessels[kind]:
            points, radii, _ = beads(tree, step_mm=step)
            box, cover = canvas.splat(points, radii)
            if box is not None:
                canvas.paint(box, cover, hu)
    for tree in thorax.bronchi:
        points, radii, _ = beads(tree, step_mm=step)
        for grow, hu in ((0.35, 0.0), (-0.55, -960.0)):
            keep = radii + grow > 0.5
            box, cover = canvas.splat(points[keep], radii[keep] + grow)
            if box is not None:
                canvas.paint(box, cover, hu)


def _heart(canvas: Canvas, thorax: Thorax) -> None:
    """Pericardium, fat, muscle and the four chambers, left atrial appendage."""
    p, f = thorax.patient, thorax.heart_factor
    box = canvas.box(*thorax.heart_box)
    if box is None:
        return
    x, y, z = canvas.at(box)
    heart = thorax.heart(x, y, z)
    sac = thorax.heart(x, y, z, grown=3.5)
    canvas.paint(box, canvas.cover(sac), 20.0)
    canvas.paint(box, canvas.cover(sac + 1.6), FAT_HU + 18)
    muscle = {"none": 44.0, "venous": 105.0, "arterial": 115.0}[p.phase]
    canvas.paint(box, canvas.cover(heart), muscle)
    for name, one in thorax.chambers.items():
        wall = {"left ventricle": 10.0, "right ventricle": 3.5}.get(name, 2.0) * f
        d = ellipsoid(x, y, z, centre=one["centre"], radii=[r - wall for r in one["radii"]], axes=one["axes"])
        hu = p.blood_hu if name.startswith("left") else p.right_hu
        canvas.paint(box, canvas.cover(np.maximum(d, heart + min(wall, 3.0))), hu)
    groove = np.abs((x - thorax.heart_centre[0]) * 0.55 + (y - thorax.heart_centre[1]) * 0.5 - (z - thorax.heart_centre[2]) * 0.67 + 7 * f) - 2.4
    rim = np.maximum(np.maximum(groove, -heart - p.epicardial_fat - 3), heart)
    canvas.paint(box, canvas.cover(rim) * np.float32(0.8), FAT_HU + 15)
    canvas.label(box, heart < 0, "heart")


def _solid(canvas: Canvas, tube: Tube, hu: float, *, organ: str = "", wall_mm: float = 0.0, wall_hu: float = 45.0) -> None:
    box, gap = canvas.tube(tube)
    if box is None:
        return
    if wall_mm:
        canvas.paint(box, canvas.cover(gap), wall_hu)
    canvas.paint(box, canvas.cover(gap + np.float32(wall_mm)), hu)
    if organ:
        canvas.label(box, gap < 0, organ)


def _vessels(canvas: Canvas, thorax: Thorax) -> None:
    p = thorax.patient
    for tube in thorax.veins:
        _solid(canvas, tube, p.right_hu)
    for tube in thorax.pulmonary:
        _solid(canvas, tube, p.right_hu)
    for tube in thorax.branches:
        _solid(canvas, tube, p.blood_hu)
    _solid(canvas, thorax.appendage, p.blood_hu * 0.95, organ="atrial_appendage_left")
    _solid(canvas, thorax.aorta, p.blood_hu, organ="aorta", wall_mm=1.2, wall_hu=48.0)
    points, radii = thorax.esophagus
    _solid(canvas, (points, radii), 40.0, organ="esophagus")
    gas = np.sin(p.tree % 100 + 0.9 * np.arange(len(points))) > 0.2
    air = np.where(gas, 0.34, 0.06) * radii
    box, cover = canvas.thread((points, air))
    if box is not None:
        canvas.paint(box, cover, -800.0)


def _airway(canvas: Canvas, thorax: Thorax) -> None:
    """Trachea and main bronchi with walls; they are no lung."""
    for tube in thorax.airway:
        box, gap = canvas.tube(tube, reach_mm=2.0)
        if box is None:
            continue
        canvas.paint(box, canvas.cover(gap - 1.5), 25.0)
        canvas.paint(box, canvas.cover(gap), -990.0)
        view = canvas.organs[box]
        view[(gap < 1.5) & (view <= len(LOBES))] = 0


def _scan(canvas: Canvas, rng: np.random.Generator) -> None:
    """Kernel, and correlated noise that is strongest where the body is thick; thicker voxels are quieter."""
    p = canvas.patient
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    sigma = np.array([p.sharpness + 0.7, p.sharpness + 0.7, 0.4]) / canvas.spacing
    if sigma.max() > 0.2:
        noise = gaussian_filter(noise, sigma, truncate=3.0)
    quiet = min(1.0, (1.5 * 1.5 * 3.0 / float(canvas.spacing.prod())) ** 0.33)
    noise *= np.float32(p.noise_hu * quiet / max(float(noise.std()), 1e-6))
    far = canvas.x * canvas.x / np.float32(130.0**2) + canvas.y * canvas.y / np.float32(105.0**2)
    noise *= np.float32(0.55) + np.float32(0.6) * np.exp(-far)
    blur = np.array([p.sharpness, p.sharpness, 0.0]) * 0.55 / canvas.spacing
    hu = gaussian_filter(canvas.hu, blur, truncate=3.0) if blur.max() > 0.2 else canvas.hu
    canvas.hu = np.clip(hu + noise, -1024, 3071).astype(np.float32)
