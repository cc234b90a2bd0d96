"""What a CT shows at 4 mm: are its values HU, does it hold two lungs, which way round does it lie. Rules on voxels, no learning.

Every limit below was set on real scans of five origins (chests, and an abdomen as the wrong input) and is held by tests on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asapkit import ct
from asapkit.types import ORGANS, Volume

COARSE_MM = 4.0
TISSUE_HU = -350.0  # above: body, below: air or lung
LUNG_HU = -400.0
BONE_HU = 180.0  # of a 4 mm voxel
MIN_LUNGS_ML = 900.0
MIN_LUNG_ML = 150.0  # the smaller side; below, the larger one must be whole
MIN_LUNG_HEIGHT_MM = 120.0
OFFSETS = {1024: "intercept forgotten", 1000: "intercept forgotten", 8192: "intercept forgotten", 7168: "wrong intercept",
           -1024: "scaled twice", -1000: "scaled twice", -8192: "scaled twice"}  # fmt: skip


def hu_fault(array: np.ndarray) -> tuple[str, str]:
    """Why values are not HU, and the fix; two empty strings when they are. Looks at a sample of the voxels."""
    if ct.hu_score(array) >= 0.02:
        return "", ""
    score, offset = max((ct.hu_score(array, float(o)), o) for o in OFFSETS)
    if score >= 0.05:
        fix = f"subtract {offset}" if offset > 0 else f"add {-offset}"
        return f"values are not HU: they look like HU {offset:+d} ({OFFSETS[offset]})", f"{fix}, or give the right slope and intercept"
    low, middle, high = (float(v) for v in np.percentile(array[::3, ::3, ::3], (1, 50, 99)))
    if high - low <= 4:
        return f"values are not HU: they span {low:.2g} to {high:.2g}, as after scaling for a network", "use the original file"
    if low >= 0 and high <= 255:
        return f"values are not HU: they span {low:.0f} to {high:.0f}, as 8-bit grey values", "use the original file"
    if high < -700:
        return f"values are not HU: 99 % lie below {high:.0f} (scaled twice and cut off?)", "use the original file, or drop slope and intercept"
    return f"values are not HU: 1 %, 50 %, 99 % lie at {low:.0f}, {middle:.0f}, {high:.0f}", "give slope and intercept, or use the original file"


@dataclass(frozen=True)
class Chest:
    """A volume at 4 mm: HU, the body with its cavities filled, and air inside the body. `lung_ml` is by side of the image: low x, high x."""

    hu: np.ndarray
    inside: np.ndarray
    lung: np.ndarray
    lung_ml: tuple[float, float]
    lung_height_mm: tuple[float, float]

    @property
    def lung_slices(self) -> slice:
        """From the lowest to the highest slice with more than 10 cm2 of lung."""
        found = np.flatnonzero(self.lung.sum((0, 1)) * (COARSE_MM / 10) ** 2 > 10)
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def survey(volume: Volume) -> Chest:
    """Body and lungs of a volume in HU, whichever way round it lies (axis 2 along the body)."""
    from scipy import ndimage

    step = [max(1, int(COARSE_MM / 2 / s)) for s in volume.spacing_mm[:2]] + [1]
    thinned = volume.with_array(volume.array[:: step[0], :: step[1]], volume.affine @ np.diag([*step, 1.0]))
    hu = ct.resample(thinned, (COARSE_MM,) * 3, window_hu=(-1024.0, 1500.0)).array
    body, count = ndimage.label(hu > TISSUE_HU)
    if count == 0:
        nothing = np.zeros(hu.shape, bool)
        return Chest(hu, nothing, nothing, (0.0, 0.0), (0.0, 0.0))
    body = body == np.bincount(body.ravel())[1:].argmax() + 1
    inside = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], 2)
    air, count = ndimage.label(inside & ~body & (hu < LUNG_HU))
    voxel_ml = COARSE_MM**3 / 1000
    large = np.flatnonzero(np.bincount(air.ravel(), minlength=count + 1) * voxel_ml > 20)
    lung = np.isin(air, large[large > 0])
    middle = int(np.argwhere(body)[:, 0].mean())
    sides = (lung[:middle], lung[middle:])
    heights = tuple(float((side.sum((0, 1)) * (COARSE_MM / 10) ** 2 > 5).sum() * COARSE_MM) for side in sides)
    return Chest(hu, inside, lung, tuple(float(side.sum() * voxel_ml) for side in sides), heights)


def not_a_chest(chest: Chest) -> str:
    """Why this is no chest CT, '' when it is one: two lungs full of air, or one that is whole (pneumonectomy, white lung)."""
    smaller, larger = sorted(chest.lung_ml)
    tall = max(chest.lung_height_mm)
    if smaller + larger < MIN_LUNGS_ML or tall < MIN_LUNG_HEIGHT_MM or (smaller < MIN_LUNG_ML and larger < 1000):
        return f"not a chest: {smaller + larger:.0f} ml of air inside the body ({larger:.0f} and {smaller:.0f} by side), {tall:.0f} mm high"
    return ""


def remarks(chest: Chest, volume: Volume) -> list[str]:
    """What a reader of a chest CT should know of its field of view."""
    found = []
    smaller, larger = sorted(chest.lung_ml)
    if smaller < MIN_LUNG_ML:
        found.append(f"one lung holds hardly any air ({smaller:.0f} ml; the other {larger:.0f} ml)")
    if smaller + larger > 12_000:
        found.append(f"{(smaller + larger) / 1000:.0f} litres of lung: is the spacing right?")
    field = [n * s for n, s in zip(volume.array.shape, volume.spacing_mm, strict=True)]
    if not (140 < field[0] < 800 and 100 < field[1] < 800 and field[2] < 1300):
        found.append(f"field of {field[0]:.0f} x {field[1]:.0f} x {field[2]:.0f} mm is no chest's: is the spacing right?")
    area = chest.lung.sum((0, 1))
    if len(area) and area[-1] > 0.5 * area.max():
        found.append("the lungs are cut off at the top of the field")
    return found


def upright(chest: Chest) -> dict[str, tuple[str, str]]:
    """Axis -> (state, evidence) by what CT alone shows; state is right | reversed | unknown. Left and right cannot be told from it.

    y: the table lies behind the patient, and the spine near the back. z: trachea and the gap above the heart put air in the midline above.
    """
    states = {"x": ("unknown", "left and right look alike without organ masks")}
    where = chest.lung_slices
    if where.stop - where.start < 6:
        return states | dict.fromkeys("yz", ("unknown", "no lungs to judge by"))
    hu, inside = chest.hu[:, :, where], chest.inside[:, :, where]
    middle = int(np.median([np.flatnonzero(s.any(1))[[0, -1]].mean() for s in np.moveaxis(chest.lung[:, :, where], 2, 0) if s.any()]))
    central = slice(max(0, middle - 5), middle + 5)
    bone, within = hu[central] > BONE_HU, inside[central]

    def near(depth: np.ndarray) -> float:
        ring = (depth >= 4) & (depth <= 18) & within
        return float((bone & ring).sum() / max(1, ring.sum()))

    back, front = near(np.cumsum(within, 1)), near(np.cumsum(within[:, ::-1], 1)[:, ::-1])
    behind, before = _outside_halves(chest)
    votes = [_vote(behind, before, ratio=5, least=1000), _vote(back, front, ratio=2, least=0.05)]
    states["y"] = (_agreed(votes), f"table behind / before {behind:.0f} / {before:.0f} voxels, bone near back / front {back:.2f} / {front:.2f}")
    column = (chest.lung | ((chest.hu < LUNG_HU) & chest.inside))[max(0, middle - 4) : middle + 5].sum((0, 1))
    third = (where.stop - where.start) // 3
    above, below = column[where.stop - third : where.stop].mean(), column[where.start : where.start + third].mean()
    states["z"] = (_agreed([_vote(above, below, ratio=1.5, least=8)]), f"air in the midline above / below {above:.0f} / {below:.0f} voxels per slice")
    return states


def _outside_halves(chest: Chest) -> tuple[float, float]:
    """Voxels of something outside the body on its low-y and high-y side: the table, blankets."""
    from scipy import ndimage

    rows = np.flatnonzero(chest.inside.any((0, 2)))
    middle = int((rows[0] + rows[-1]) / 2)
    outside = (chest.hu > -800) & ~ndimage.binary_dilation(chest.inside, iterations=2)
    return float(outside[:, :middle].sum()), float(outside[:, middle:].sum())


def _vote(for_right: float, for_reversed: float, *, ratio: float, least: float) -> int:
    if for_right >= least and for_right > ratio * for_reversed:
        return 1
    return -1 if for_reversed >= least and for_reversed > ratio * for_right else 0


def _agreed(votes: list[int]) -> str:
    total = sum(votes)
    return "right" if total > 0 else "reversed" if total < 0 else "unknown"


def placed(labels: np.ndarray, affine: np.ndarray) -> dict[str, tuple[str, str]]:
    """Axis -> (state, evidence) by organ masks (X, Y, Z) uint8: left lobes left, lower lobes low, the heart before the descending aorta.

    With the heart alone, left and right are judged by nothing: its middle may lie on either side of the field.
    """
    middles = {name: np.argwhere(labels == k + 1) @ affine[:3, :3].T for k, name in enumerate(ORGANS) if (labels == k + 1).sum() >= 20}
    middles = {name: points.mean(0) for name, points in middles.items()}

    def mean(*words: str) -> np.ndarray | None:
        found = [m for name, m in middles.items() if all(w in name for w in words)]
        return np.mean(found, 0) if found else None

    pairs = {
        "x": [(mean("lobe", "right"), mean("lobe", "left"), "right lobes, left lobes"), (mean("heart"), mean("atrial"), "heart, left appendage")],
        "y": [(mean("heart"), mean("aorta"), "heart, aorta"), (mean("heart"), mean("esophagus"), "heart, esophagus")],
        "z": [(mean("upper"), mean("lower"), "upper lobes, lower lobes"), (mean("aorta"), mean("heart"), "aorta, heart")],
    }
    states = {}
    for axis, (name, known) in enumerate(pairs.items()):
        seen = [(float(a[axis] - b[axis]), what) for a, b, what in known if a is not None and b is not None]
        votes = [_vote(max(d, 0), max(-d, 0), ratio=1, least=5) for d, _ in seen]
        states[name] = (_agreed(votes), "; ".join(f"{what} {d:+.0f} mm" for d, what in seen) or "the organs that would tell are missing")
    return states
