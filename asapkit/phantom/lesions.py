"""One lesion: an instance with the numbers that draw it, and what all kinds of lesions share when they are drawn and placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import Instance
from .anatomy import LOBES
from .canvas import Box, Canvas
from .shapes import Array
from .thorax import Thorax

LOBE_WORDS = {
    "lung_upper_lobe_left": "left upper lobe", "lung_lower_lobe_left": "left lower lobe", "lung_upper_lobe_right": "right upper lobe",
    "lung_middle_lobe_right": "right middle lobe", "lung_lower_lobe_right": "right lower lobe",
}  # fmt: skip
_LOBE_SHARE = np.array([0.24, 0.22, 0.2, 0.10, 0.24])


@dataclass(frozen=True)
class Lesion(Instance):
    """`numbers` and `centre` in mm in the body frame; `seed` draws what has no number of its own (positions of holes, ripples of an edge)."""

    centre: tuple[float, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict, hash=False)
    seed: int = 0

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def lesion(
    rng: np.random.Generator, finding: str, level: int, *, side: str = "none", lobe: str = "", place: str = "", count: int = 1,
    size_mm: float = float("nan"), centre: Sequence[float] = (), **numbers: float,
) -> Lesion:  # fmt: skip
    """A lesion; its bit is given later."""
    return Lesion(
        finding, 0, side, lobe, place, int(level), int(count), float(size_mm), centre=tuple(float(c) for c in centre),
        numbers={k: float(v) for k, v in numbers.items()}, seed=int(rng.integers(1 << 31)),
    )  # fmt: skip


def in_lobe(rng: np.random.Generator, thorax: Thorax, finding: str, *, level: int, label: int, margin_mm: float = 10.0, **values) -> Lesion:
    """A lesion centred somewhere in a lobe (1..5)."""
    lobe = LOBES[label - 1]
    centre = values.pop("centre", None)
    centre = thorax.inside(rng, 1, label=label, margin_mm=margin_mm)[0] if centre is None else centre
    return lesion(rng, finding, level, side=side_of(label), lobe=lobe, place=LOBE_WORDS[lobe], centre=centre, **values)


def side_of(label: int) -> str:
    return "left" if label <= 2 else "right"


def some_lobes(rng: np.random.Generator, low: int, high: int, *, liking: Sequence[float] = _LOBE_SHARE) -> list[int]:
    """Between `low` and `high` different lobes (1..5), in order."""
    share = np.asarray(liking, np.float64)
    return sorted(int(n) + 1 for n in rng.choice(5, int(rng.integers(low, high + 1)), replace=False, p=share / share.sum()))


def size_by(rng: np.random.Generator, level: int, *ranges: tuple[float, float]) -> float:
    """A size from the range of a severity (1, 2, 3)."""
    return float(rng.uniform(*ranges[level - 1]))


# --- drawing


def label_of(one: Lesion) -> int:
    return LOBES.index(one.lobe) + 1


def room(canvas: Canvas, thorax: Thorax, box: Box, one: Lesion) -> Array:
    """Share of each voxel that is lung of the lesion's lobe."""
    share = canvas.lung[box]
    return share * (thorax.lobe(*canvas.at(box)) == label_of(one)) if one.lobe else share


def lobe_box(canvas: Canvas, one: Lesion) -> Box | None:
    """The voxels around a lobe."""
    inside = canvas.organs == label_of(one)
    if not inside.any():
        return None
    spans = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)


def ripple(one: Lesion, canvas: Canvas, box: Box, *, length_mm: float) -> Array:
    """A wavy field about the lesion, of about unit amplitude, the same at every spacing."""
    rng, (x, y, z) = np.random.default_rng([one.seed, 7]), canvas.at(box)
    out = np.float32(0)
    for scale in (1.0, 1.0, 1.0, 0.45, 0.45, 0.45):
        wave = rng.normal(0, 1, 3).astype(np.float32) * np.float32(3.6 / (length_mm * scale))
        out = out + np.float32(scale) * np.sin(wave[0] * x + wave[1] * y + wave[2] * z + np.float32(rng.uniform(0, 6.28)))
    return out * np.float32(0.55)


def fill(canvas: Canvas, one: Lesion, box: Box | None, *, cover: Array | None, hu: float | Array, least: float = 0.5) -> None:
    """Paints and marks."""
    if box is not None:
        canvas.paint(box, cover, hu)
        canvas.mark(one.bit, box, cover, least=least)


def balls(canvas: Canvas, one: Lesion, points: Array, *, radii: Array, hu: float, inside: bool = False) -> None:
    """Paints and marks many balls; with `inside` only where there is lung."""
    box, cover = canvas.splat(np.atleast_2d(points), np.atleast_1d(radii), ball=True)
    if box is not None:
        fill(canvas, one, box, cover=cover * canvas.lung[box] if inside else cover, hu=hu, least=0.35)


def soft_hu(thorax: Thorax, *, plain: float, enhanced: float) -> float:
    """HU of a tissue that takes up contrast."""
    return plain if thorax.patient.phase == "none" else enhanced
