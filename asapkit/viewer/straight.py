"""Scans that lie askew. napari's planes follow the millimetre axes, but leave out a rotation that tilts data out of the plane, so that layers of
different voxels would drift apart on the screen. Such layers are sampled on a straight millimetre grid, and a frame becomes what each plane cuts
of its patch; scans that lie straight, nearly all, stay untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from asapkit import planes
from asapkit.viewer.layers import AXES, UNITS, Layer

TOLERANCE_MM = 0.5  # how far a layer's far end may lie off its axis before it counts as askew
FINER = 4  # samples per patch and axis of a map, slices per patch of a frame: enough for its edges to lie within an eighth of a patch


def straightened(described: Sequence[Layer]) -> list[Layer]:
    """The same layers on straight grids; those that lie straight as they are."""
    if not any(_off_mm(data, settings) > TOLERANCE_MM for data, settings, kind in described if kind in ("image", "labels")):
        return list(described)
    by_kind = {"image": _sampled, "labels": _sampled, "shapes": _cut}
    return [by_kind[kind](data, settings, kind) if kind in by_kind else (data, settings, kind) for data, settings, kind in described]


def _off_mm(data: np.ndarray, settings: dict) -> float:
    turn = _to_world(settings)[:3, :3]
    return float((np.abs(turn - np.diag(np.diag(turn))) @ np.asarray(data.shape[:3])).max())


def _to_world(settings: dict) -> np.ndarray:
    """(4, 4): index z, y, x of a layer -> world z, y, x in mm."""
    return np.asarray(settings["affine"]) @ np.diag([*settings["scale"], 1.0])


def _sampled(data: np.ndarray, settings: dict, kind: str) -> Layer:
    """Voxels on a straight grid over the same field: linear for a CT, the nearest for labels and maps of patches."""
    from scipy.ndimage import affine_transform

    to_world, role = _to_world(settings), settings["metadata"]["role"]
    step = np.asarray(settings["scale"], float) / (1 if role in ("ct", "organs", "truth") else FINER)
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in data.shape[:3])))) @ to_world[:3, :3].T + to_world[:3, 3]
    first = ends.min(0) + step / 2
    shape = tuple(np.ceil(np.ptp(ends, axis=0) / step - 1e-6).astype(int))
    back = np.linalg.inv(to_world)
    turn, offset = back[:3, :3] * step, back[:3, :3] @ first + back[:3, 3]
    outside = data.min() if role == "ct" else 0 if kind == "labels" or data.ndim == 4 else np.nan
    how = {"output_shape": shape, "order": int(role == "ct"), "mode": "constant", "cval": outside}
    channels = np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]
    made = np.stack([affine_transform(channel, turn, offset, **how) for channel in channels], -1)
    where = {"scale": step, "affine": _placed_at(first)}
    name = f"{settings['name']} (straightened)" if role == "ct" else settings["name"]
    return made if data.ndim == 4 else made[..., 0], settings | where | {"name": name}, kind


def _placed_at(first: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = first
    return matrix


def _cut(data: np.ndarray, settings: dict, kind: str) -> Layer:
    """Frames as polygons: for each plane name, what every slice cuts of each framed patch."""
    to_world, held = _to_world(settings), settings["metadata"]
    step = np.asarray(settings["scale"], float) / FINER
    corners = np.array(list(product((-0.5, 0.5), repeat=3)))
    made, owners = {}, {}
    for plane, (fixed, _, _, _) in planes.PLANES.items():
        pieces = []
        for owner, middle in enumerate(held["frames"]["axial"].mean(1)):
            block = ((middle + corners) @ to_world[:3, :3].T + to_world[:3, 3]) / step
            pieces += [(owner, polygon) for polygon in polygons(block, axis=2 - fixed)]
        owners[plane], made[plane] = [owner for owner, _ in pieces], [polygon for _, polygon in pieces]
    features = {name: np.asarray(column)[owners["axial"]] for name, column in settings["features"].items()}
    told = {"frames": made, "owners": owners, "features": settings["features"]}
    where = {"scale": step, "affine": np.eye(4), "units": UNITS, "axis_labels": AXES}
    text = {"text": settings["text"] | {"translation": settings["text"]["translation"] * FINER}} if "text" in settings else {}
    look = {"shape_type": "polygon", "edge_width": 0.05 * FINER, "features": features, "metadata": {**held, **told}}
    return made["axial"], settings | where | text | look, kind


EDGES = [(a, b) for a, b in product(range(8), repeat=2) if a < b and bin(a ^ b).count("1") == 1]


def polygons(block: np.ndarray, *, axis: int) -> list[np.ndarray]:
    """Outlines (n, 3) that the planes at whole numbers along `axis` cut out of a block, (8, 3): its corners in the order of `itertools.product`."""
    cut = []
    for at in range(int(np.ceil(block[:, axis].min())), int(np.floor(block[:, axis].max())) + 1):
        met = [_where(block[a], block[b], at, axis=axis) for a, b in EDGES if (block[a, axis] - at) * (block[b, axis] - at) < 0]
        if len(met) < 3:
            continue
        met = np.array(met)
        first, second = (met[:, other] - met[:, other].mean() for other in range(3) if other != axis)
        cut.append(met[np.argsort(np.arctan2(second, first))])
    return cut


def _where(a: np.ndarray, b: np.ndarray, at: float, *, axis: int) -> np.ndarray:
    """The point between a and b whose coordinate along `axis` is `at`, exactly."""
    point = a + (b - a) * (at - a[axis]) / (b[axis] - a[axis])
    point[axis] = at
    return point
