"""Solids -> voxels: HU with partial volume at edges, organ labels, and the truth's bits, at any spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from asapkit.phantom import anatomy
from asapkit.phantom.anatomy import Array, Patient, Tube

AIR, FAT = -1000.0, -95.0
TABLE_GAP_MM = 6.0


class Canvas:
    """A voxel grid laid over a patient: coordinates of every voxel in the body frame, HU, organ labels and truth bits."""

    def __init__(self, patient: Patient, spacing_mm: Sequence[float]):
        self.patient, self.spacing = patient, np.array(spacing_mm, float)
        self.shape = tuple(int(round(f / s)) for f, s in zip(patient.field, spacing_mm, strict=True))
        self.axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(self.shape, self.spacing, strict=True)]
        self.soft = float(np.cbrt(self.spacing.prod()))  # width of an edge, mm
        c, s = np.cos(patient.turn), np.sin(patient.turn)
        self.turned = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        self.shift = np.array(patient.shift)
        self.hu = np.full(self.shape, AIR, np.float32)
        self.organs = np.zeros(self.shape, np.uint8)
        self.truth = np.zeros(self.shape, np.uint32)
        self.everywhere = (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))
        self.lungs: Array | None = None  # share of each voxel that is aerated lung

    @property
    def affine(self) -> Array:
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = [axis[0] for axis in self.axes]
        return affine

    def coordinates(self, box=None) -> tuple[Array, Array, Array]:
        """u, v (x, y, 1) and z (1, 1, z) of the voxels of a box, float32."""
        box = self.everywhere if box is None else box
        x, y, z = (axis[part] for axis, part in zip(self.axes, box, strict=True))
        x, y = (x - self.shift[0])[:, None, None], (y - self.shift[1])[None, :, None]
        m = self.turned
        u, v = m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y
        return u.astype(np.float32), v.astype(np.float32), (z - self.shift[2])[None, None, :].astype(np.float32)

    def box(self, low: Array, high: Array, *, margin: float = 0.0) -> tuple[slice, slice, slice] | None:
        """Voxels around a body-frame box, or None outside the field."""
        corners = np.array([[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        world = corners @ self.turned + self.shift  # inverse of the rotation: transpose
        first = np.floor((world.min(0) - margin - self.soft) / self.spacing + (np.array(self.shape) - 1) / 2).astype(int)
        last = np.ceil((world.max(0) + margin + self.soft) / self.spacing + (np.array(self.shape) - 1) / 2).astype(int) + 1
        first, last = np.maximum(first, 0), np.minimum(last, self.shape)
        return None if (first >= last).any() else tuple(slice(a, b) for a, b in zip(first, last, strict=True))

    def cover(self, distance: Array) -> Array:
        """Share of a voxel inside a solid, from its signed distance."""
        return np.clip(0.5 - distance / self.soft, 0, 1)

    def paint(self, box, cover: Array, hu: float | Array) -> None:
        view = self.hu[box]
        view += cover * (hu - view)

    def tube_distance(self, tube: Tube, box) -> Array:
        """Signed distance to a chain of cones."""
        u, v, z = self.coordinates(box)
        points, radii = tube
        best = None
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            d = b - a
            t = np.clip(((u - a[0]) * d[0] + (v - a[1]) * d[1] + (z - a[2]) * d[2]) / max(d @ d, 1e-6), 0, 1)
            gap = np.sqrt((u - a[0] - t * d[0]) ** 2 + (v - a[1] - t * d[1]) ** 2 + (z - a[2] - t * d[2]) ** 2) - (ra + t * (rb - ra))
            best = gap if best is None else np.minimum(best, gap)
        return best

    def tube_box(self, tube: Tube, *, margin: float = 0.0):
        points, radii = tube
        return self.box(points.min(0) - radii.max(), points.max(0) + radii.max(), margin=margin)

    def tube(self, tube: Tube, hu: float, *, organ: str = "", grow: float = 0.0) -> None:
        """A solid tube; each of its segments is drawn in its own small box. Thin ones fade instead of vanishing."""
        points, radii = tube
        for n in range(len(points) - 1):
            part = points[n : n + 2], radii[n : n + 2] + grow
            box = self.tube_box(part)
            if box is None:
                continue
            distance = self.tube_distance(part, box)
            thin = min(1.0, float((2 * part[1].mean() / self.soft) ** 2))
            self.paint(box, self.cover(np.maximum(distance, -0.5 * self.soft)) * thin, hu)
            if organ:
                self.label(box, distance < 0, organ)

    def label(self, box, inside: Array, organ: str) -> None:
        from asapkit.types import ORGANS

        self.organs[box][np.broadcast_to(inside, self.organs[box].shape)] = ORGANS.index(organ) + 1

    def mark(self, bit: int, box, cover: Array) -> None:
        """Voxels at least half inside belong to the instance; where none is, the fullest one does."""
        cover = np.broadcast_to(cover, self.truth[box].shape)
        if cover.size == 0 or cover.max() <= 0.05:
            return
        inside = cover >= min(0.5, float(cover.max()))
        self.truth[box][inside] |= np.uint32(1 << bit)

    def smooth_noise(self, rng: np.random.Generator, length_mm: float) -> Array:
        """A random field with the given correlation length, about unit variance."""
        coarse = [max(3, int(np.ceil(n * s / length_mm)) + 3) for n, s in zip(self.shape, self.spacing, strict=True)]
        field = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 0.7)
        field = zoom(field, [n / c for n, c in zip(self.shape, coarse, strict=True)], order=1, grid_mode=True, mode="nearest")
        return (field / max(field.std(), 1e-6)).astype(np.float32)


def render(patient: Patient, instances: Sequence, *, spacing_mm: Sequence[float], rng_noise: np.random.Generator):
    """Draws a study: HU float32 (X, Y, Z), organs uint8 (1..9 in `types.ORGANS` order), truth uint32 (bit per instance), affine (4, 4) RAS mm.

    The same patient and instances give the same solids at every spacing; noise and kernel come from `rng_noise`.
    """
    from asapkit.phantom import findings

    canvas = Canvas(patient, spacing_mm)
    heart_scale = findings.heart_scale(instances)
    if heart_scale != 1.0:
        from dataclasses import replace

        canvas.patient = patient = replace(patient, heart_size=patient.heart_size * heart_scale)
    draw_trunk(canvas)
    draw_lungs(canvas)
    draw_abdomen(canvas)
    draw_mediastinum(canvas)
    draw_tubes(canvas)
    for instance in instances:
        findings.draw(canvas, instance)
    finish(canvas, rng_noise)
    return canvas.hu, canvas.organs, canvas.truth, canvas.affine


def draw_trunk(canvas: Canvas) -> None:
    """Skin, fat, muscle, mediastinal fat, ribs, spine, sternum, shoulder blades and the table."""
    p, box = canvas.patient, canvas.everywhere
    u, v, z = canvas.coordinates()
    wall = p.cavity(u, v, z)
    shoulders = 30 * np.clip((z - 0.30 * p.lung_height) / (0.3 * p.lung_height), 0, 1) * np.clip(np.abs(u) / p.half_width, 0, 1)
    outer = wall - p.muscle - p.fat * (1 + 0.35 * v / p.half_depth) - shoulders
    canvas.paint(box, canvas.cover(outer), 20.0)  # skin
    canvas.paint(box, canvas.cover(outer + 2.5), FAT)
    muscle = wall - p.muscle - shoulders * 0.8
    canvas.paint(box, canvas.cover(muscle), p.muscle_hu)
    canvas.paint(box, canvas.cover(wall - 1.0), FAT + 20)
    # ribs: bands that slope down to the front, in a shell around the cavity, open at the sternum
    pitch = 27.0 * p.size
    band = np.abs((z + 0.42 * v - 0.02 * np.abs(u)) / pitch % 1.0 - 0.5) * pitch - 5.0
    shell = np.abs(wall - 5.5) - 4.0
    open_front = 26 - np.abs(u) + np.clip(-v, 0, None)
    rib = np.maximum(np.maximum(band, shell), np.maximum(open_front * (v > 0.5 * p.half_depth), z - p.apex - 8))
    canvas.paint(box, canvas.cover(rib), p.bone_hu * 0.9)
    canvas.paint(box, canvas.cover(rib + 3.0), p.bone_hu * 0.45)
    # spine: bodies and discs, canal, spinous processes
    body = np.sqrt((u / 1.15) ** 2 + (v - p.spine_v) ** 2) - 15.5 * p.size
    disc = np.abs(z / (25 * p.size) % 1.0 - 0.5) * 25 * p.size - 9.5 * p.size
    canvas.paint(box, canvas.cover(body), 95.0)
    canvas.paint(box, canvas.cover(np.maximum(body, disc)), p.bone_hu * 0.75)
    canvas.paint(box, canvas.cover(np.maximum(body + 3.5, disc + 3)), p.bone_hu * 0.42)
    arch = np.maximum(np.sqrt(u**2 + (v - p.spine_v + 24) ** 2) - 14, disc - 2)
    canvas.paint(box, canvas.cover(arch), p.bone_hu * 0.6)
    process = np.maximum(np.maximum(np.abs(u) - 4, np.abs(v - p.spine_v + 38) - 14), disc)
    canvas.paint(box, canvas.cover(process), p.bone_hu * 0.6)
    canvas.paint(box, canvas.cover(np.sqrt(u**2 + (v - p.spine_v + 22) ** 2) - 7.5), 25.0)
    sternum = np.maximum(np.maximum(np.abs(u) - 15, np.abs(wall - 4) - 5.5), np.maximum(0.3 * p.half_depth - v, -z - 0.12 * p.lung_height))
    canvas.paint(box, canvas.cover(sternum), p.bone_hu * 0.8)
    canvas.paint(box, canvas.cover(sternum + 3), p.bone_hu * 0.35)
    blade = np.maximum(np.abs(wall - p.muscle - 4 - 0.1 * v) - 3, np.maximum(np.abs(np.abs(u) - 0.72 * p.half_width) - 26, v + 0.25 * p.half_depth))
    blade = np.maximum(blade, np.abs(z - 0.28 * p.lung_height) - 50)
    canvas.paint(box, canvas.cover(blade), p.bone_hu * 0.8)
    if p.table:
        lowest = -(p.half_depth + p.muscle + p.fat * 0.75) - TABLE_GAP_MM
        bed = np.abs(v - lowest + (u / 210) ** 2 * -40 + 10) - 5
        canvas.paint(box, canvas.cover(np.maximum(bed, np.abs(u) - 190)) * (np.broadcast_to(outer, canvas.shape) > 0), -780.0)


def draw_lungs(canvas: Canvas) -> None:
    """Air, gravity and texture of the parenchyma, five lobes, fissures."""
    p, box = canvas.patient, canvas.everywhere
    u, v, z = canvas.coordinates()
    lungs = np.maximum(p.lungs(u, v, z), -p.heart(u, v, z, grown=3.0))
    canvas.lungs = canvas.cover(lungs)
    rng = np.random.default_rng([p.tree, 3])
    texture = 14 * canvas.smooth_noise(rng, 22.0) + 9 * canvas.smooth_noise(rng, 9.0)
    dependent = np.clip(0.5 - v / (2 * p.half_depth), 0, 1) ** 2
    canvas.paint(box, canvas.lungs, p.lung_hu + p.gravity_hu * dependent + texture)
    oblique, horizontal = p.fissures(u, v, z)
    on_right = (u > 0) & (oblique > 0)
    line = np.minimum(np.abs(oblique), np.where(on_right, np.abs(horizontal), 1e3))
    canvas.paint(box, canvas.cover(np.maximum(line - 0.7, lungs)) * min(1.0, 2.2 / canvas.soft), p.lung_hu + 260)
    inside = lungs < 0
    canvas.organs[inside] = np.broadcast_to(p.lobe(u, v, z), canvas.shape)[inside]


def draw_abdomen(canvas: Canvas) -> None:
    """Below the diaphragm: liver on the right, stomach with its air on the left, spleen behind it, fat between."""
    p, box = canvas.patient, canvas.everywhere
    u, v, z = canvas.coordinates()
    below = np.maximum(p.cavity(u, v, z) + 2, z - p.diaphragm(u, v) + 3)
    canvas.paint(box, canvas.cover(below), FAT)
    liver = np.maximum(below + 2, -(u + 28 + 0.25 * v) + 0.25 * np.clip(p.bottom - z, 0, None))
    canvas.paint(box, canvas.cover(liver), p.liver_hu)
    stomach = np.maximum(below + 4, np.sqrt(((u + 62 * p.size) / 42) ** 2 + ((v - 12) / 46) ** 2 + ((z - p.bottom + 8) / 46) ** 2) * 42 - 42)
    canvas.paint(box, canvas.cover(stomach), 38.0)
    canvas.paint(box, canvas.cover(np.maximum(stomach + 3, 22 - v)), -930.0)
    spleen = np.maximum(below + 3, np.sqrt(((u + 88 * p.size) / 34) ** 2 + ((v + 38) / 32) ** 2 + ((z - p.bottom + 12) / 44) ** 2) * 32 - 32)
    canvas.paint(box, canvas.cover(spleen), p.liver_hu * 0.6 + 22)


def draw_mediastinum(canvas: Canvas) -> None:
    """Heart with muscle, two ventricles, pericardial fat and left atrial appendage; great vessels; esophagus."""
    p = canvas.patient
    low, high = p.heart_centre - p.heart_radii * 1.7, p.heart_centre + p.heart_radii * 1.7
    box = canvas.box(low, high)
    if box is not None:
        u, v, z = canvas.coordinates(box)
        heart = p.heart(u, v, z)
        canvas.paint(box, canvas.cover(heart - 3.0) * canvas.cover(p.cavity(u, v, z) + 2), FAT + 25)
        canvas.paint(box, canvas.cover(heart), 48.0)
        c, r = p.heart_centre, p.heart_radii
        for centre, size in (((-0.38, 0.05, -0.12), 0.42), ((0.12, 0.42, -0.05), 0.40), ((0.10, -0.42, 0.38), 0.40), ((0.55, 0.05, 0.15), 0.36)):
            m = c + np.array(centre) * r
            chamber = (np.sqrt(((u - m[0]) / r[0]) ** 2 + ((v - m[1]) / r[1]) ** 2 + ((z - m[2]) / r[2]) ** 2) - size) * r.min()
            canvas.paint(box, canvas.cover(np.maximum(chamber, heart + 4)), p.blood_hu)
        canvas.label(box, heart < 0, "heart")
    canvas.tube(p.vena_cava, p.blood_hu + 4)
    for tube in p.pulmonary_trunk:
        canvas.tube(tube, p.blood_hu + 8)
    appendage = smooth_appendage(p)
    canvas.tube(appendage, p.blood_hu, organ="atrial_appendage_left")
    canvas.tube(p.aorta, 52.0)
    canvas.tube(p.aorta, p.blood_hu, organ="aorta", grow=-1.6)
    canvas.tube(p.esophagus, 40.0, organ="esophagus")
    top = p.esophagus[0][: len(p.esophagus[0]) // 2 + 1]
    canvas.tube((top, np.full(len(top), 2.2)), -600.0)


def smooth_appendage(p: Patient) -> Tube:
    c, r = p.heart_centre, p.heart_radii
    return anatomy.smooth([c + [-0.30, -0.05, 0.80] * r, c + [-0.62, 0.28, 0.78] * r, c + [-0.72, 0.52, 0.55] * r], [11, 9, 6])


def draw_tubes(canvas: Canvas) -> None:
    """Pulmonary vessels, then the airways with their walls."""
    p = canvas.patient
    for tube in p.vessels:
        canvas.tube(tube, 20 + p.vessel_hu + 0.5 * p.blood_hu)
    for n, tube in enumerate(p.airways):
        canvas.tube(tube, 10.0 if n < 3 else -120.0, grow=1.6 if n < 3 else 1.1)
        canvas.tube(tube, -990.0)
        if n < 3:  # airways are no lung
            box = canvas.tube_box(tube, margin=3)
            if box is not None:
                inside = (canvas.tube_distance(tube, box) < 1.6) & (canvas.organs[box] <= 5)
                canvas.organs[box][inside] = 0


def finish(canvas: Canvas, rng: np.random.Generator) -> None:
    """Kernel and noise: correlated, stronger where the body is thick."""
    p = canvas.patient
    blur = p.sharpness * rng.uniform(0.8, 1.2)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (blur, blur, 0.35 * blur))
    noise *= p.noise_hu * rng.uniform(0.8, 1.25) / max(float(noise.std()), 1e-6)
    u, v, _ = canvas.coordinates()
    centre = 0.65 + 0.5 * np.exp(-(u**2 + v**2) / (2 * 90.0**2))
    canvas.hu = np.clip(gaussian_filter(canvas.hu, (0.35 * blur, 0.35 * blur, 0.0)) + noise * centre, -1024, 3071).astype(np.float32)
