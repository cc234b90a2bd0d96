"""Solids as signed distances in mm (negative inside), tubes as points, and random fields that do not depend on the voxel grid.

Every function takes coordinate arrays that broadcast together, so that the same solid can be asked at scattered points and on a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Tube = tuple[Array, Array]
"""Points (n, 3) in mm and the radius at each (n,)."""
FAR = np.float32(1e3)


def rotation(*, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """Rows are the axes of a body turned about z, then x, then y (radians)."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    first = (cr * cy - sr * sp * sy, cr * sy + sr * sp * cy, -sr * cp)
    third = (sr * cy + cr * sp * sy, sr * sy - cr * sp * cy, cr * cp)
    return tuple(tuple(float(v) for v in row) for row in (first, (-cp * sy, cp * cy, sp), third))


def ellipsoid(x: Array, y: Array, z: Array, *, centre: Sequence[float], radii: Sequence[float], axes=None) -> Array:
    """Signed distance, good to first order near the surface."""
    dx, dy, dz = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    if axes is not None:
        dx, dy, dz = (np.float32(a[0]) * dx + np.float32(a[1]) * dy + np.float32(a[2]) * dz for a in axes)
    a, b, c = (np.float32(1 / max(float(r), 0.1)) for r in radii)
    dx, dy, dz = dx * a, dy * b, dz * c
    dx2, dy2, dz2 = dx * dx, dy * dy, dz * dz
    near = np.sqrt(dx2 + dy2 + dz2)
    slope = np.sqrt(dx2 * (a * a) + dy2 * (b * b) + dz2 * (c * c)) + np.float32(1e-6)
    return near * (near - 1) / slope


def capsule(x: Array, y: Array, z: Array, *, a: Sequence[float], b: Sequence[float], ra: float, rb: float) -> Array:
    """Signed distance to a round-ended cone from `a` to `b`."""
    d = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    n = (d / max(float(d @ d), 1e-9)).astype(np.float32)
    dx, dy, dz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
    t = np.clip(dx * n[0] + dy * n[1] + dz * n[2], 0, 1)
    d = d.astype(np.float32)
    dx, dy, dz = dx - t * d[0], dy - t * d[1], dz - t * d[2]
    return np.sqrt(dx * dx + dy * dy + dz * dz) - (np.float32(ra) + t * np.float32(rb - ra))


def chain(x: Array, y: Array, z: Array, *, tube: Tube) -> Array:
    """Signed distance to a tube: the nearest of its capsules."""
    points, radii = tube
    best = None
    for k in range(len(points) - 1):
        d = capsule(x, y, z, a=points[k], b=points[k + 1], ra=float(radii[k]), rb=float(radii[k + 1]))
        best = d if best is None else np.minimum(best, d, out=best)
    return best


def union(a: Array, b: Array, *, blend_mm: float) -> Array:
    """Union of two solids with a rounded seam."""
    h = np.clip(np.float32(0.5) + (b - a) * np.float32(0.5 / blend_mm), 0, 1)
    return b + (a - b) * h - np.float32(blend_mm) * h * (1 - h)


def oval(u: Array, v: Array) -> Array:
    """Norm whose unit ball is between a circle and a box: a chest's cross-section."""
    u, v = u * u, v * v
    return np.sqrt(np.sqrt(u * u + v * v + np.float32(0.9) * u * v))


def smooth_tube(points, radii, *, step_mm: float = 8.0) -> Tube:
    """A tube along a Catmull-Rom curve through the points."""
    p, r = np.asarray(points, np.float64), np.asarray(radii, np.float64)
    q = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    out, width = [], []
    for k in range(len(p) - 1):
        n = max(1, round(float(np.linalg.norm(p[k + 1] - p[k])) / step_mm))
        t = (np.arange(n) / n)[:, None]
        a, b, c, d = q[k : k + 4]
        out.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
        width.append(r[k] + (r[k + 1] - r[k]) * t[:, 0])
    return np.vstack([*out, p[-1:]]), np.concatenate([*width, r[-1:]])


class Segments(NamedTuple):
    """Straight pieces from `starts` to `ends` (n, 3) in mm with the radii at both ends (n,)."""

    starts: Array
    ends: Array
    r0: Array
    r1: Array


def evenly(starts, ends, radius: float | Array) -> Segments:
    """Segments that do not taper."""
    starts, ends = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
    radius = np.broadcast_to(np.asarray(radius, np.float64), (len(starts),))
    return Segments(starts, ends, radius, radius)


def beads(segments: Segments, *, step_mm: float) -> tuple[Array, Array, Array]:
    """Points every `step_mm` along the segments (n, 3), their radii, and the segment each belongs to."""
    starts, ends, r0, r1 = segments
    length = np.sqrt(((ends - starts) ** 2).sum(1))
    count = np.maximum(1, np.ceil(length / step_mm).astype(np.int64))
    which = np.repeat(np.arange(len(starts)), count)
    t = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
    return starts[which] + (ends - starts)[which] * t[:, None], r0[which] + (r1 - r0)[which] * t, which


def _along(lattice: Array, where: Array, axis: int) -> Array:
    """Smooth interpolation of a lattice with unit spacing along one axis."""
    low = np.clip(np.floor(where).astype(np.int64), 0, lattice.shape[axis] - 2)
    t = np.clip(where - low, 0, 1)
    t = (t * t * (3 - 2 * t)).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = len(where)
    t = t.reshape(shape)
    a = np.take(lattice, low, axis=axis)
    b = np.take(lattice, low + 1, axis=axis)
    b -= a
    b *= t
    b += a
    return b


def random_field(seed: Sequence[int], axes_mm: Sequence[Array], *, length_mm: float, reach_mm: float = 260.0) -> Array:
    """Value noise of unit variance on the grid of three coordinate vectors; the same function of place at every spacing.

    `reach_mm`: coordinates lie in [-reach, reach].
    """
    n = int(np.ceil(2 * reach_mm / length_mm)) + 2
    lattice = np.random.default_rng(seed).standard_normal((n, n, n), dtype=np.float32)
    for axis in (2, 1, 0):
        lattice = _along(lattice, (np.asarray(axes_mm[axis]) + reach_mm) / length_mm, axis)
    return lattice * np.float32(1.55)  # interpolation lowers the variance
