"""Planes through a scan: one slice on a page, the right way round, in millimetres, with window, outlines, side marks and scale bar.

Slices follow the radiologists' convention: the patient's right is on the left of axial and coronal pictures, anterior is up on axial
pictures and left on sagittal ones. Distances on the page are millimetres, so pictures keep the patient's proportions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from asapkit.drawing import ORGANS, SHADE

WINDOWS = {"lung": (-1350.0, 150.0), "mediastinal": (-160.0, 240.0), "bone": (-500.0, 1300.0), "full": (-1000.0, 1000.0)}  # HU at black and at white
PLANES = {"axial": (2, 0, 1, "RLAP"), "coronal": (1, 0, 2, "RLSI"), "sagittal": (0, 1, 2, "APSI")}  # sliced axis, across, up, marks
EDGES = ((0.012, 0.5, "left", "center"), (0.988, 0.5, "right", "center"), (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))


def window_hu(name: str) -> tuple[float, float]:
    """HU at black and at white.  Raises: ValueError for a window that is none of `WINDOWS`."""
    if name not in WINDOWS:
        raise ValueError(f"unknown window {name!r}; there are {', '.join(WINDOWS)}")
    return WINDOWS[name]


def window_text(name: str) -> str:
    low, high = window_hu(name)
    return f"{name} window, W\u00a0{high - low:.0f} L\u00a0{(high + low) / 2:.0f}\u00a0HU"


@dataclass(frozen=True)
class Cut:
    """One plane through an array (X, Y, Z); page coordinates are millimetres from the array's first voxel edge."""

    plane: str  # a key of PLANES
    index: int
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def axes(self) -> tuple[int, int, int]:
        return PLANES[self.plane][:3]

    @property
    def size_mm(self) -> tuple[float, float]:
        _, across, up, _ = PLANES[self.plane]
        return self.shape[across] * self.spacing_mm[across], self.shape[up] * self.spacing_mm[up]

    def take(self, array: np.ndarray) -> np.ndarray:
        """The plane as rows from the bottom of the page, columns along the array's axis (`Cut.show` turns the page's axis round)."""
        return np.swapaxes(np.take(array, self.index, axis=self.axes[0]), 0, 1)

    def show(self, ax: Axes, array: np.ndarray, **how) -> None:
        """imshow of the plane, in millimetres, right way round."""
        width, height = self.size_mm
        ax.imshow(self.take(array), origin="lower", extent=(0, width, 0, height), **({"interpolation": "bicubic"} | how))

    def outline(self, ax: Axes, mask: np.ndarray, *, color: str, width: float = 1.0, style: str = "solid") -> bool:
        """Draws the border of a Boolean volume on this plane; False if the plane holds none of it."""
        flat = self.take(mask)
        if not flat.any():
            return False
        step = [self.spacing_mm[a] for a in self.axes[1:]]
        x, y = ((np.arange(-1, n + 1) + 0.5) * s for n, s in zip(flat.shape[::-1], step, strict=True))
        ax.contour(x, y, np.pad(flat.astype(np.float32), 1), levels=[0.5], colors=[color], linewidths=width, linestyles=style)
        return True

    def boxes(self, ax: Axes, patches: np.ndarray | Sequence[int], grid: tuple[int, int, int], patch: tuple[int, int, int], **how) -> int:
        """A frame around each of these patches (row-major indices) that this plane cuts; how many there were."""
        drawn = 0
        for place in zip(*np.unravel_index(np.asarray(patches, dtype=int), grid), strict=True):
            through, across, up = (place[a] for a in self.axes)
            if through == self.index // patch[self.axes[0]]:
                size = [patch[a] * self.spacing_mm[a] for a in self.axes[1:]]
                frame = {"fill": False, "edgecolor": "white", "linewidth": 1.0, "joinstyle": "miter"} | how
                ax.add_patch(Rectangle((across * size[0], up * size[1]), *size, **frame))
                drawn += 1
        return drawn


def position(cut: Cut) -> str:
    """Where the plane lies: millimetres from the left, posterior or inferior edge of the array, which is RAS. It knows no patient coordinates."""
    axis = cut.axes[0]
    return f"{(cut.index + 0.5) * cut.spacing_mm[axis]:.0f}\u00a0mm from\u00a0{'LPI'[axis]}"


def busiest(plane: str, mask: np.ndarray) -> int:
    """The slice index with most True voxels; the middle if there are none."""
    axis = PLANES[plane][0]
    count = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    return int(count.argmax()) if count.any() else mask.shape[axis] // 2


def cuts(array: np.ndarray, spacing_mm: Sequence[float], planes: Sequence[str], *, at: Sequence[int] | np.ndarray | None = None) -> list[Cut]:
    """One Cut per plane through the voxel `at` (x, y, z), by default the middle."""
    at = [n // 2 for n in array.shape[:3]] if at is None else at
    return [Cut(p, int(np.clip(at[PLANES[p][0]], 0, array.shape[PLANES[p][0]] - 1)), tuple(spacing_mm), array.shape[:3]) for p in planes]


def frame(ax: Axes, cut: Cut, *, marks: bool = True, bar: bool = True) -> None:
    """After drawing: centres the plane in its tile without distortion, writes side marks and a scale bar."""
    width, height = cut.size_mm
    box = ax.get_window_extent()
    tall, wide = max(height, width * box.height / box.width), max(width, height * box.width / box.height)
    ax.set(xlim=((width + wide) / 2, (width - wide) / 2), ylim=((height - tall) / 2, (height + tall) / 2), aspect="auto")
    write = {"color": "white", "fontsize": 6.8, "bbox": SHADE, "transform": ax.transAxes}
    for text, (x, y, across, along) in zip(PLANES[cut.plane][3] if marks else "", EDGES, strict=False):
        ax.text(x, y, text, ha=across, va=along, **write)
    if bar:
        length = 50 if wide > 160 else 20 if wide > 60 else 5
        x, y = (width + wide) / 2 - 0.03 * wide, (height - tall) / 2 + 0.03 * tall
        glow = [Stroke(linewidth=3.4, foreground="black"), Normal()]
        ax.plot([x, x - length], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=glow)
        ax.text(0.03, 0.045, f"{length} mm", ha="left", va="bottom", **write)


def ct(ax: Axes, cut: Cut, volume: np.ndarray, window: str, *, dim: float = 1.0, **how) -> None:
    """The plane in a window's greys; `dim` stretches the window upwards, so that white becomes grey and colours stand out on it."""
    low, high = window_hu(window)
    cut.show(ax, volume, cmap="gray", vmin=low, vmax=low + dim * (high - low), **how)


def organ_outlines(ax: Axes, cut: Cut, organs: np.ndarray | None) -> None:
    for label in np.unique(cut.take(organs)[cut.take(organs) > 0]) if organs is not None else ():
        cut.outline(ax, organs == label, color=ORGANS[label - 1], width=0.9)


def bits_of(truth: np.ndarray) -> list[int]:
    """Bits set anywhere, without a pass over the volume per bit."""
    joined = int(np.bitwise_or.reduce(truth, axis=None))
    return [b for b in range(32) if joined >> b & 1]


def truth_outlines(ax: Axes, cut: Cut, truth: np.ndarray | None, colours: Mapping[int, str]) -> None:
    for bit, colour in colours.items() if truth is not None else ():
        cut.outline(ax, (truth >> np.uint32(bit)) & 1 > 0, color=colour, width=1.3)


def richest(volume: np.ndarray, *, organs: np.ndarray | None = None, truth: np.ndarray | None = None) -> list[int]:
    """The voxel x, y, z whose planes show most: of the truth's instances first, then of their voxels; else of the heart; else the middle."""
    if truth is not None and truth.any():
        return [_busiest_by_bits(plane, truth) for plane in ("sagittal", "coronal", "axial")]
    if organs is not None:
        return [busiest(plane, organs == 6) for plane in ("sagittal", "coronal", "axial")]
    return [n // 2 for n in volume.shape]


def _busiest_by_bits(plane: str, truth: np.ndarray) -> int:
    across = tuple(a for a in range(3) if a != PLANES[plane][0])
    instances = np.bitwise_count(np.bitwise_or.reduce(truth, axis=across)).astype(float)
    voxels = np.count_nonzero(truth, axis=across)
    return int((instances + voxels / (voxels.max() + 1)).argmax())
