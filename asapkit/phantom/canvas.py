"""A voxel grid laid over a patient: coordinates in the body frame, HU, organ labels, truth bits, and the ways to draw on them.

Edges are one voxel wide (partial volume); tubes and balls finer than a voxel keep their mass and fade instead of vanishing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import ORGANS
from .anatomy import Patient
from .shapes import Array, Segments, Tube, beads

AIR_HU = -1000.0
Box = tuple[slice, slice, slice]


class Canvas:
    """`hu` float32, `organs` uint8, `truth` uint32, all (X, Y, Z) in RAS+; `lung` float32 is the share of a voxel that is lung."""

    def __init__(self, patient: Patient, spacing_mm: Sequence[float]):
        self.patient = patient
        self.spacing = np.array([float(s) for s in spacing_mm])
        self.shape = tuple(max(4, round(f / s)) for f, s in zip(patient.field, self.spacing, strict=True))
        self.axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(self.shape, self.spacing, strict=True)]
        self.edge = float(np.cbrt(self.spacing.prod()))
        c, s = np.cos(patient.turn), np.sin(patient.turn)
        self.turned = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])  # world -> body
        self.shift = np.array(patient.shift) + np.array([0.0, 0.0, patient.low])
        self.hu = np.full(self.shape, AIR_HU, np.float32)
        self.organs = np.zeros(self.shape, np.uint8)
        self.truth = np.zeros(self.shape, np.uint32)
        self.lung = np.zeros(self.shape, np.float32)
        self.full: Box = tuple(slice(0, n) for n in self.shape)
        x, y, z = (a - o for a, o in zip(self.axes, self.shift, strict=True))
        self.x = (c * x[:, None] + s * y[None, :])[:, :, None].astype(np.float32)
        self.y = (-s * x[:, None] + c * y[None, :])[:, :, None].astype(np.float32)
        self.z = z[None, None, :].astype(np.float32)
        self.still = (x, y, z)  # coordinate vectors about the body's origin, not turned: for random fields

    @property
    def affine(self) -> Array:
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = [axis[0] for axis in self.axes]
        return affine

    def at(self, box: Box) -> tuple[Array, Array, Array]:
        """Body coordinates x, y (X, Y, 1) and z (1, 1, Z) of a box's voxels."""
        return self.x[box[0], box[1]], self.y[box[0], box[1]], self.z[:, :, box[2]]

    def index(self, points: Array) -> Array:
        """Fractional voxel indices (n, 3) of body-frame points."""
        world = np.asarray(points, np.float64) @ self.turned + self.shift
        return world / self.spacing + (np.array(self.shape) - 1) / 2

    def box(self, low: Sequence[float], high: Sequence[float], *, margin_mm: float = 0.0) -> Box | None:
        """Voxels around a body-frame box, or None if it lies outside the field."""
        a, b = np.asarray(low, np.float64) - margin_mm, np.asarray(high, np.float64) + margin_mm
        corners = np.array([[(a, b)[i][0], (a, b)[j][1], (a, b)[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        where = self.index(corners)
        reach = 0.5 * self.edge / self.spacing
        first = np.maximum(np.floor(where.min(0) - reach).astype(int), 0)
        last = np.minimum(np.ceil(where.max(0) + reach).astype(int) + 1, self.shape)
        return None if (first >= last).any() else tuple(slice(int(i), int(j)) for i, j in zip(first, last, strict=True))

    def around(self, centre: Sequence[float], radius_mm: float) -> Box | None:
        c = np.asarray(centre, np.float64)
        return self.box(c - radius_mm, c + radius_mm)

    def cover(self, distance: Array, *, width_mm: float | None = None) -> Array:
        """Share of a voxel inside a solid."""
        return np.clip(np.float32(0.5) - distance * np.float32(1 / (width_mm or self.edge)), 0, 1)

    def paint(self, box: Box, cover: Array, hu: float | Array) -> None:
        view = self.hu[box]
        view += cover * ((hu if isinstance(hu, np.ndarray) else np.float32(hu)) - view)

    def label(self, box: Box, inside: Array, organ: str) -> None:
        view = self.organs[box]
        view[np.broadcast_to(inside, view.shape)] = ORGANS.index(organ) + 1 if organ else 0

    def mark(self, bit: int, box: Box, cover: Array, *, least: float = 0.5) -> None:
        """Voxels covered at least by `least` belong to the instance; where none is, the fullest ones do."""
        view = self.truth[box]
        cover = np.broadcast_to(cover, view.shape)
        top = float(cover.max()) if cover.size else 0.0
        if top > 0.03:
            view[cover >= min(least, 0.8 * top)] |= np.uint32(1 << bit)

    # --- tubes

    def tube(self, tube: Tube, *, reach_mm: float = 0.0) -> tuple[Box | None, Array | None]:
        """Box and signed distance of a tube; distances are exact up to `reach_mm` outside, and large further away."""
        points, radii = tube
        most, reach = float(np.max(radii)), reach_mm + 1.5 * self.edge + float(self.spacing.max())
        box = self.box(points.min(0) - most, points.max(0) + most, margin_mm=reach_mm)
        if box is None:
            return None, None
        x, y, z = self.at(box)
        out = np.full(self.hu[box].shape, 1e3, np.float32)
        offset = np.array([s.start for s in box])
        ends = np.stack([points[:-1], points[1:]])
        low = self.index(np.vstack(ends)).reshape(2, -1, 3)
        grow = (np.maximum(radii[:-1], radii[1:])[:, None] + reach) / self.spacing
        first = np.maximum(np.floor(low.min(0) - grow).astype(int) - offset, 0)
        last = np.minimum(np.ceil(low.max(0) + grow).astype(int) + 1 - offset, out.shape)
        for k in range(len(points) - 1):
            if (first[k] >= last[k]).any():
                continue
            i, j, m = (slice(int(a), int(b)) for a, b in zip(first[k], last[k], strict=True))
            a, d = points[k].astype(np.float32), (points[k + 1] - points[k]).astype(np.float32)
            n = d / max(float(d @ d), 1e-9)
            dx, dy, dz = x[i, j] - a[0], y[i, j] - a[1], z[:, :, m] - a[2]
            t = np.clip((dx * n[0] + dy * n[1]) + dz * n[2], 0, 1)
            gap = np.sqrt((dx - t * d[0]) ** 2 + (dy - t * d[1]) ** 2 + (dz - t * d[2]) ** 2)
            gap -= np.float32(radii[k]) + t * np.float32(radii[k + 1] - radii[k])
            view = out[i, j, m]
            np.minimum(view, gap, out=view)
        return box, out

    def splat(self, points: Array, radii: Array, *, ball: bool = False) -> tuple[Box | None, Array | None]:
        """Box and share of voxels covered by many small balls strung along thin tubes (or, with `ball`, lying alone)."""
        where = self.index(points)
        radii = np.asarray(radii, np.float64)
        wide = np.maximum(radii, 0.5 * self.edge)
        ratio = radii / self.edge
        mass = np.minimum(1.0, 6 * ratio**3 if ball else 3 * ratio**2)
        reach = np.ceil((wide + 0.5 * self.edge)[:, None] / self.spacing).astype(int)
        inside = ((where > -reach - 1) & (where < np.array(self.shape) + reach)).all(1)
        if not inside.any():
            return None, None
        where, wide, mass, reach = where[inside], wide[inside], mass[inside], reach[inside]
        nearest = np.rint(where).astype(np.int64)
        first = np.maximum((nearest - reach).min(0), 0)
        last = np.minimum((nearest + reach).max(0) + 1, self.shape)
        if (first >= last).any():
            return None, None
        size = last - first
        out = np.zeros(int(size.prod()), np.float32)
        key = reach @ np.array([10_000, 100, 1])
        for one in sorted(set(key.tolist())):
            chosen = key == one
            same = [a[chosen] for a in (where, nearest, wide, mass)]
            self._splat_class(out, same, size=size, first=first, reach=reach[chosen][0])
        return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)), out.reshape(size)

    def _splat_class(self, out: Array, same: list[Array], *, size: Array, first: Array, reach: Array) -> None:
        """Adds (by maximum) the balls that share one neighbourhood of voxels."""
        offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
        stride = np.array([size[1] * size[2], size[2], 1])
        step = max(1, 1_500_000 // len(offsets))
        for start in range(0, len(same[0]), step):
            where, nearest, wide, mass = (a[start : start + step] for a in same)
            gap = ((nearest - where) * self.spacing).astype(np.float32)
            d = np.zeros((len(where), len(offsets)), np.float32)
            ok = np.ones(d.shape, bool)
            for axis in range(3):
                d += (gap[:, axis, None] + (offsets[:, axis] * self.spacing[axis]).astype(np.float32)) ** 2
                at = nearest[:, axis, None] - first[axis] + offsets[:, axis]
                ok &= (at >= 0) & (at < size[axis])
            cover = np.clip((wide.astype(np.float32)[:, None] - np.sqrt(d)) / np.float32(self.edge) + np.float32(0.5), 0, 1)
            cover *= mass.astype(np.float32)[:, None]
            ok &= cover > 0
            flat = ((nearest - first) @ stride)[:, None] + offsets @ stride
            np.maximum.at(out, flat[ok], cover[ok])

    def thread(self, tube: Tube, *, grow_mm: float = 0.0) -> tuple[Box | None, Array | None]:
        """`splat` of one thin tube."""
        points, radii = tube
        p, r, _ = beads(Segments(points[:-1], points[1:], radii[:-1] + grow_mm, radii[1:] + grow_mm), step_mm=0.45 * self.edge)
        return self.splat(p, r)
