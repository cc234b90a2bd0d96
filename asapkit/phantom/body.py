"""Draws what lies around and below the lungs: table, skin, fat, muscle, bones, abdomen."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .shapes import Array, beads, ellipsoid, evenly, oval, random_field, rotation, smooth_tube
from .thorax import Thorax

FAT_HU = -102.0
RIBS = 11


def draw_body(canvas: Canvas, thorax: Thorax) -> None:
    """Everything but the lungs and what lies between them."""
    wall = _soft_tissue(canvas, thorax)
    _shoulders(canvas, thorax)
    _abdomen(canvas, thorax, wall)
    _ribs(canvas, thorax)
    _spine(canvas, thorax)
    _sternum(canvas, thorax)


def rib_path(thorax: Thorax, k: int, *, side: float, outward_mm: float = 5.0) -> Array:
    """Points (n, 3) of rib `k` (0 highest) from the spine round to its front end."""
    p = thorax.patient
    pitch = (p.apex - p.bottom) / 10.6
    start = p.apex - 2 - k * pitch
    last = np.deg2rad(163 if k < 7 else 150 - 14 * (k - 6) if k < 9 else 105 - 25 * (k - 9))
    angle = np.linspace(np.deg2rad(17), last, 40)
    drop = pitch * (1.7 + 1.9 * min(k, 6) / 6)
    z = start - drop * (1 - np.cos(np.minimum(angle * 1.05, np.pi))) / 2 + (k > 5) * 0.35 * drop * np.clip(angle - 2, 0, 1)
    a, b, c = (v.astype(np.float64) for v in thorax.profile(z))
    u, v = np.sin(angle), -np.cos(angle)
    length = oval(u / (a + outward_mm), v / (b + outward_mm))
    return np.stack([side * u / length, c + v / length, z], axis=1)


def sternum_y(thorax: Thorax, z: Array) -> Array:
    _, b, c = thorax.profile(z)
    return c + b - np.float32(3.0)


def _soft_tissue(canvas: Canvas, thorax: Thorax) -> Array:
    """Table, skin, fat, breasts, muscle with planes of fat; returns the signed distance to the cavity."""
    p, (x, y, z) = thorax.patient, canvas.at(canvas.full)
    wall = thorax.cavity(x, y, z)
    t = np.clip(z / p.apex, 0, 1.6)
    wide = p.width * 1.04 + 9 + p.muscle + p.fat * 0.8 + 20 * np.clip(t - 0.25, 0, 0.8) - 26 * np.clip(t - 1.15, 0, 1)
    thick = p.depth * (1.02 - 0.14 * np.clip(t - 0.2, 0, 1)) + 10 + 0.75 * p.muscle + 0.75 * p.fat - 24 * np.clip(t - 1.1, 0, 1)
    middle = np.float32(-4.0 - 0.1 * p.fat) + np.float32(0.04 * p.fat) * np.clip(-z / 60, 0, 2)
    outer = (oval(x / wide, (y - middle) / thick) - 1) * np.minimum(wide, thick)
    if p.breast > 0:
        for side in (-1, 1):
            centre = (side * 0.62 * p.width, p.depth * 0.86 + 4, -0.45 * p.apex)
            radii = (p.breast, 0.55 * p.breast + 0.6 * p.fat, 1.05 * p.breast)
            outer = np.minimum(outer, ellipsoid(x, y, z, centre=centre, radii=radii))
    if p.table:
        lowest = -float(np.max(thick)) - 7 + float(np.min(middle))
        bed = np.abs(y + p.shift[1] - lowest - 1.1e-3 * (x * x)) - 4
        canvas.paint(canvas.full, canvas.cover(np.maximum(bed, np.abs(x) - 215), width_mm=canvas.spacing[1]), -790.0)
        canvas.paint(canvas.full, canvas.cover(np.maximum(np.abs(bed) - 0.8, np.abs(x) - 215), width_mm=canvas.spacing[1]), -300.0)
    strands = random_field([p.tree, 11], canvas.still, length_mm=19.0)
    canvas.paint(canvas.full, canvas.cover(outer), 20.0)
    canvas.paint(canvas.full, canvas.cover(outer + 2.2), FAT_HU + 9 * np.clip(strands - 1, 0, 2))
    if p.breast > 0:
        _glands(canvas, thorax, outer, wall)
    coat = p.muscle * (0.75 + 0.25 * np.abs(x) / p.width + 0.30 * np.clip(-y / p.depth, 0, 1)) + 9 + 1.6 * strands
    coat = coat + np.clip(t - 0.3, 0, 0.9) * (8 + 36 * np.clip(np.abs(x) / p.width - 0.25, 0, 1))
    muscle = np.maximum(wall - coat, outer + 2.2 + p.fat * (0.55 + 0.1 * strands))
    canvas.paint(canvas.full, canvas.cover(muscle), np.float32(p.muscle_hu) - 14 * np.clip(strands - 0.6, 0, 2))
    plane = np.maximum(np.abs(wall - (11.5 + 1.5 * strands)) - 1.6, -(wall - 7))
    canvas.paint(canvas.full, canvas.cover(plane) * canvas.cover(muscle) * np.float32(0.75), FAT_HU + 25)
    canvas.paint(canvas.full, canvas.cover(wall + 1.0), FAT_HU + 8)
    return wall


def _glands(canvas: Canvas, thorax: Thorax, outer: Array, wall: Array) -> None:
    p, b = thorax.patient, thorax.patient.breast
    for side in (-1, 1):
        centre = np.array([side * 0.62 * p.width, p.depth * 0.86 + 0.45 * b, -0.45 * p.apex])
        box = canvas.around(centre, 1.3 * b)
        if box is None:
            continue
        x, y, z = canvas.at(box)
        web = random_field([p.tree, 12], [a[s] for a, s in zip(canvas.still, box, strict=True)], length_mm=11.0)
        gland = ellipsoid(x, y, z, centre=centre, radii=(0.62 * b, 0.36 * b, 0.6 * b))
        canvas.paint(box, canvas.cover(np.maximum(np.maximum(gland, outer[box] + 7), 16 - wall[box])) * np.clip(web * 0.8 + 0.15, 0, 0.9), 15.0)


def _shoulders(canvas: Canvas, thorax: Thorax) -> None:
    """Shoulder blades, collar bones, heads of the arm bones, fat of the armpits."""
    p = thorax.patient
    a, b, c = (float(v[0]) for v in thorax.profile(np.array([0.45 * p.apex])))
    for side in (-1.0, 1.0):
        pit = dict(centre=(side * (a + 13), 10, 0.42 * p.apex), radii=(11 + 0.2 * p.fat, 24, 46))
        box = canvas.around(pit["centre"], 52)
        if box is not None:
            canvas.paint(box, canvas.cover(ellipsoid(*canvas.at(box), **pit)), FAT_HU)
        _blade(canvas, thorax, side)
        ends = [[side * 16, c + b - 5, 0.72 * p.apex], [side * 60, b * 0.72, 0.92 * p.apex], [side * 125, -14, 1.14 * p.apex]]
        collar = smooth_tube(ends, [7, 5.5, 6])
        canvas_bone(canvas, collar, p.bone_hu, rim_mm=2.0)
        ball = np.array([side * (p.width + 22), -12.0, 1.22 * p.apex])
        box = canvas.around(ball, 26)
        if box is not None:
            d = ellipsoid(*canvas.at(box), centre=ball, radii=(22, 22, 25))
            canvas.paint(box, canvas.cover(d), p.bone_hu + 330)
            canvas.paint(box, canvas.cover(d + 3), p.bone_hu)


def _blade(canvas: Canvas, thorax: Thorax, side: float) -> None:
    """A shoulder blade: a thin bent triangle on the back of the ribs."""
    p = thorax.patient
    t = np.linspace(0, 1, int(92 / (0.5 * canvas.edge)))[:, None]
    s = np.linspace(0, 1, int(85 / (0.5 * canvas.edge)))[None, :]
    z = 0.95 * p.apex - 92 * t
    a, b, c = thorax.profile(z)
    angle = np.deg2rad(36 + 50 * s)
    u, v = np.sin(angle), -np.cos(angle)
    n = oval(u / (a + 17), v / (b + 17))
    points = np.stack([side * u / n, c + v / n, z + 0 * n], -1)[np.broadcast_to(s < 1.12 - 0.8 * t, n.shape)]
    box, cover = canvas.splat(points, np.full(len(points), 2.2))
    if box is not None:
        canvas.paint(box, np.minimum(1, cover * 2), p.bone_hu + 230)


def canvas_bone(canvas: Canvas, tube, marrow_hu: float, *, rim_mm: float) -> None:
    """A tube of compact bone filled with marrow."""
    for grow, hu in ((0.0, marrow_hu + 420), (-rim_mm, marrow_hu)):
        if float(np.min(tube[1])) + grow > 0.8:
            box, cover = canvas.thread(tube, grow_mm=grow)
            if box is not None:
                canvas.paint(box, cover, hu)


def _ribs(canvas: Canvas, thorax: Thorax) -> None:
    p = thorax.patient
    for r, hu, part in ((4.6, p.bone_hu + 400, 0), (2.6, p.bone_hu * 0.8, 1)):
        points, bone = [], []
        for side in (-1.0, 1.0):
            for k in range(RIBS):
                path = rib_path(thorax, k, side=side)
                for up in (-2.6, 0.0, 2.6):  # higher than thick
                    q, _, which = beads(evenly(path[:-1] + [0, 0, up], path[1:] + [0, 0, up], 1.0), step_mm=0.6 * canvas.edge)
                    points.append(q)
                    bone.append(np.where((which > 30) & (k < 9), 0.0, 1.0))  # the front end is cartilage
        points, bone = np.vstack(points), np.concatenate(bone)
        for kind, value in ((bone > 0, hu), (bone == 0, 95.0 + 40 * (1 - part))):
            box, cover = canvas.splat(points[kind], np.full(int(kind.sum()), r * p.size))
            if box is not None:
                canvas.paint(box, cover, value)


def _spine(canvas: Canvas, thorax: Thorax) -> None:
    """Vertebral bodies and discs, canal, arches, spinous and transverse processes."""
    p = thorax.patient
    box = canvas.box((-46, -p.depth - 42, -400), (46, -p.depth + 80, 400))
    if box is None:
        return
    x, y, z = canvas.at(box)
    sx, sy = thorax.spine(z)
    pitch, q = np.float32((p.apex - p.bottom) / 10.6), np.float32(p.size)
    t = np.abs((z - np.float32(p.apex)) / pitch % 1 - np.float32(0.5)) * pitch  # 0 in the middle of a body
    du, dv = x - sx, y - sy
    waist = 1.6 * (1 - (2 * t / pitch) ** 2)
    body = np.sqrt((du / np.float32(1.18)) ** 2 + dv * dv) - 15.0 * q + waist
    flat = t - np.float32(0.5) * pitch + 2.6
    canvas.paint(box, canvas.cover(body), 85.0)
    canvas.paint(box, canvas.cover(np.maximum(body, flat)), p.bone_hu + 300)
    canvas.paint(box, canvas.cover(np.maximum(body + 2.2, flat + 2.0)), p.bone_hu)
    canal = np.sqrt(du * du + (dv + 22 * q) ** 2) - 8.0 * q
    arch = np.maximum(np.abs(canal - 3.2) - 3.0, t - 9)
    wings = np.maximum(np.maximum(np.abs(dv + 27 * q + 0.25 * np.abs(du)) - 4.2, np.abs(du) - 31 * q), np.abs(t - 2) - 5)
    thorn = np.maximum(np.maximum(np.abs(du) - 3.6, np.abs(dv + 43 * q) - 13 * q), np.abs(t - 5) - 6)
    bone = np.minimum(np.minimum(arch, wings), thorn)
    canvas.paint(box, canvas.cover(bone), p.bone_hu + 260)
    canvas.paint(box, canvas.cover(bone + 2.5), p.bone_hu + 60)
    canvas.paint(box, canvas.cover(canal), 28.0)


def _sternum(canvas: Canvas, thorax: Thorax) -> None:
    p = thorax.patient
    box = canvas.box((-36, 0, -0.95 * p.apex), (36, p.depth + 30, 0.85 * p.apex))
    if box is None:
        return
    x, y, z = canvas.at(box)
    t = z / np.float32(p.apex)
    half = np.where(t > 0.42, 15 + 22 * np.clip(t - 0.42, 0, 0.35), 13.5 + 3 * np.cos(9 * t)) * np.float32(p.size)
    d = np.maximum(np.abs(x) - half, np.abs(y - sternum_y(thorax, z)) - 5.2)
    d = np.maximum(d, np.maximum(t - 0.74, -t - 0.80) * np.float32(p.apex))
    canvas.paint(box, canvas.cover(d), p.bone_hu + 300)
    canvas.paint(box, canvas.cover(d + 2.4), p.bone_hu * 0.75)


def _abdomen(canvas: Canvas, thorax: Thorax, wall: Array) -> None:
    """Liver on the right, stomach with air and bowel on the left, spleen behind, fat between."""
    p, q = thorax.patient, thorax.patient.size
    box = canvas.box((-300, -300, -400), (300, 300, max(p.right_dome, p.left_dome) + 6))
    if box is None:
        return
    x, y, z = canvas.at(box)
    floor = np.where(x > -30, np.maximum(thorax.dome(x, y, right=True), thorax.dome(x, y, right=False)), thorax.dome(x, y, right=False))
    below = np.maximum(wall[box] + 2, (z - floor) * np.float32(0.78))
    # sheet of muscle between chest and belly, then fat
    canvas.paint(box, canvas.cover(below), p.muscle_hu)
    canvas.paint(box, canvas.cover(below + 2.5), FAT_HU)
    depth = np.clip(p.right_dome - z, 0, 200)
    lump = 5 * random_field([p.tree, 13], [a[s] for a, s in zip(canvas.still, box, strict=True)], length_mm=36.0)
    sx, sy = thorax.spine(z)
    back = 34 * q - np.sqrt((0.8 * (x - sx)) ** 2 + (y - sy - 4) ** 2)  # spine, great vessels and the fat about them
    crus = np.maximum(np.abs(back + 3) - 3, below + 3)
    canvas.paint(box, canvas.cover(crus) * np.float32(0.8), p.muscle_hu)
    liver = np.maximum(np.maximum(below + 3.0, back), -(x + 46 * q - 0.30 * depth + 0.42 * np.clip(-y + 20, 0, 90)) + lump)
    bubble = p.left_dome - 30
    lean = rotation(yaw=0.35, roll=0.25 + 0.1 * np.sin(p.tree % 7))
    pouch = ellipsoid(x, y, z, centre=(-58 * q, 20, bubble), radii=(38 * q, 42 * q, 36 * q), axes=lean)
    stomach = np.maximum(below + 4, pouch + 0.5 * lump)
    spleen = ellipsoid(x, y, z, centre=(-0.80 * p.width, -0.42 * p.depth, p.left_dome - 38), radii=(24 * q, 42 * q, 44 * q))
    spleen = np.maximum(below + 3, spleen + 0.4 * lump)
    gut = ellipsoid(x, y, z, centre=(-0.74 * p.width, 0.30 * p.depth, p.left_dome - 62), radii=(27, 30, 24))
    gut = np.maximum(below + 5, gut + lump)
    canvas.paint(box, canvas.cover(gut), 35.0)
    canvas.paint(box, canvas.cover(gut + 3) * np.float32(0.9), np.where(lump > 0, -850.0, -60.0).astype(np.float32))
    canvas.paint(box, canvas.cover(spleen), p.spleen_hu)
    canvas.paint(box, canvas.cover(stomach), 45.0)
    canvas.paint(box, canvas.cover(stomach + 4), 22.0 + 2 * lump)
    canvas.paint(box, canvas.cover(np.maximum(stomach + 4, 26 + 4 * np.sin(p.tree) - y)), -960.0)
    canvas.paint(box, canvas.cover(liver), p.liver_hu)
