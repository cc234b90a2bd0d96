"""The house style of every picture: paper size, colours, one slice of a CT with its marks, and how a figure is written to disk.

Slices follow the radiologists' convention: the patient's right is on the left of axial and coronal pictures, anterior is up on axial
pictures and left on sagittal ones. Distances on the page are millimetres, so pictures keep the patient's proportions.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "axes.titlelocation": "left", "axes.titlepad": 6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": "#444444", "axes.labelcolor": "#222222",
    "xtick.color": "#444444", "ytick.color": "#444444", "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.major.size": 3, "text.color": "#222222", "axes.grid": False, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.5, "legend.frameon": False, "figure.facecolor": "white", "savefig.facecolor": "white", "image.cmap": "gray",
    "svg.hashsalt": "asapkit", "axes.prop_cycle": "cycler('color', ['0072B2', 'D55E00', '009E73', 'CC79A7', 'E69F00', '56B4E9', '7A5195', '666666'])",
}  # fmt: skip
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#666666")  # told apart by colour-blind readers
ENCODERS = {
    "asap": "#0072B2", "asap_paper": "#56B4E9", "mae": "#E69F00", "random": "#8C8C8C", "supervised": "#222222", "simcrop": "#CC79A7",
    "mrm": "#009E73", "m3ae": "#D55E00",
}  # fmt: skip
"""The colour that an encoder keeps through all charts; others take what is left of `CYCLE`."""
ORGANS = ("#56B4E9", "#3D7FE0", "#B7E07A", "#F0E442", "#35B779", "#F2674A", "#F7A6C4", "#FFA630", "#E0355E")  # order of types.ORGANS
TRUTH = ("#00E5D0", "#FFD23F", "#FF6B9D", "#8CFF66", "#FF9F45", "#B79CFF", "#5EC8FF", "#F5F5F5")  # on dark CT; cycles over findings
WINDOWS = {"lung": (-1350.0, 150.0), "mediastinal": (-160.0, 240.0), "bone": (-500.0, 1300.0), "full": (-1000.0, 1000.0)}  # HU at black and at white
PLANES = {"axial": (2, 0, 1, "RLAP"), "coronal": (1, 0, 2, "RLSI"), "sagittal": (0, 1, 2, "APSI")}  # sliced axis, across, up, marks
LIMIT = 400_000  # bytes of a saved picture
GREY, INK = "#777777", "#222222"


class Picture(Figure):
    """A Figure that Jupyter shows without pyplot, hence without global state and at the same size everywhere."""

    def _repr_png_(self) -> bytes:
        return _png(self, dpi=110)


def styled(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Runs a drawing function in the house style, whatever the caller's settings are."""

    @functools.wraps(draw)
    def inner(*args, **kwargs):
        with rc_context():
            import matplotlib

            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return inner


def window_text(name: str) -> str:
    low, high = WINDOWS[name]
    return f"{name} window, W {high - low:.0f} L {(high + low) / 2:.0f} HU"


def encoder_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per encoder: the known ones keep theirs, others get an unused one each."""
    free = [c for c in CYCLE if c not in {ENCODERS.get(n) for n in names}] or list(CYCLE)
    others = [n for n in names if n not in ENCODERS]
    return {n: ENCODERS[n] if n in ENCODERS else free[others.index(n) % len(free)] for n in names}


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

    def boxes(self, ax: Axes, patches: Sequence[int], grid: tuple[int, int, int], patch: tuple[int, int, int], **how) -> int:
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


def busiest(plane: str, mask: np.ndarray) -> int:
    """The slice index with most True voxels; the middle if there are none."""
    axis = PLANES[plane][0]
    count = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    return int(count.argmax()) if count.any() else mask.shape[axis] // 2


def cuts(array: np.ndarray, spacing_mm: Sequence[float], planes: Sequence[str], *, at: Sequence[int] | None = None) -> list[Cut]:
    """One Cut per plane through the voxel `at` (x, y, z), by default the middle."""
    at = [n // 2 for n in array.shape[:3]] if at is None else at
    return [Cut(p, int(np.clip(at[PLANES[p][0]], 0, array.shape[PLANES[p][0]] - 1)), tuple(spacing_mm), array.shape[:3]) for p in planes]


def mosaic(
    widths_mm: Sequence[float], heights_mm: Sequence[float], *, width: float = 10.0, top: float = 0.6, bottom: float = 0.3,
    left: float = 0.0, right: float = 0.0, gap: float = 0.05, rows_gap: float = 0.05,
) -> tuple[Picture, np.ndarray]:  # fmt: skip
    """A picture of black tiles at one millimetre scale: columns and rows of these sizes, margins in inches. Returns it with its axes (R, C)."""
    scale = (width - left - right - gap * (len(widths_mm) - 1)) / sum(widths_mm)
    height = top + bottom + scale * sum(heights_mm) + rows_gap * (len(heights_mm) - 1)
    page = Picture(figsize=(width, height))
    tiles = np.empty((len(heights_mm), len(widths_mm)), dtype=object)
    y = height - top
    for row, tall in enumerate(heights_mm):
        y, x = y - tall * scale, left
        for column, wide in enumerate(widths_mm):
            tiles[row, column] = tile = page.add_axes((x / width, y / height, wide * scale / width, tall * scale / height), facecolor="black")
            tile.set(xticks=[], yticks=[], xlim=(wide, 0), ylim=(0, tall))
            tile.spines[:].set_visible(False)
            x += wide * scale + gap
        y -= rows_gap
    return page, tiles


def frame(ax: Axes, cut: Cut, *, marks: bool = True, bar: bool = True) -> None:
    """After drawing: centres the plane in its tile without distortion, writes side marks and a scale bar."""
    width, height = cut.size_mm
    box = ax.get_window_extent()
    tall, wide = max(height, width * box.height / box.width), max(width, height * box.width / box.height)
    ax.set(xlim=((width + wide) / 2, (width - wide) / 2), ylim=((height - tall) / 2, (height + tall) / 2), aspect="auto")
    glow = [Stroke(linewidth=1.6, foreground="black"), Normal()]
    if marks:
        near, far, up, down = PLANES[cut.plane][3]
        for text, x, y in ((near, 0.025, 0.5), (far, 0.975, 0.5), (up, 0.5, 0.965), (down, 0.5, 0.035)):
            ax.text(x, y, text, color="#E8E8E8", fontsize=7, ha="center", va="center", transform=ax.transAxes, path_effects=glow)
    if bar:
        length = 50 if wide > 160 else 20 if wide > 60 else 5
        x, y = (width + wide) / 2 - 0.04 * wide, (height - tall) / 2 + 0.035 * tall
        ax.plot(
            [x, x - length],
            [y, y],
            color="white",
            linewidth=2,
            solid_capstyle="butt",
            path_effects=[Stroke(linewidth=3.2, foreground="black"), Normal()],
        )
        ax.text(x, y + 0.018 * tall, f"{length} mm", color="white", fontsize=6.5, ha="left", va="bottom", path_effects=glow)


def corner(ax: Axes, text: str, *, where: str = "top left", color: str = "white") -> None:
    """Small writing inside a tile."""
    up, side = where.split()
    ax.text(
        0.02 if side == "left" else 0.98, 0.975 if up == "top" else 0.025, text, color=color, fontsize=6.8, ha=side, va=up,
        transform=ax.transAxes, path_effects=[Stroke(linewidth=1.6, foreground="black"), Normal()],
    )  # fmt: skip


def words(page: Figure, *, title: str = "", caption: str = "", left: float = 0.0, columns: int = 0) -> None:
    """Title above and caption below the whole picture; long captions wrap at the picture's width."""
    width, height = page.get_size_inches()
    if title:
        page.text(left / width, 1 - 0.05 / height, title, fontsize=10, fontweight="bold", ha="left", va="top", color=INK)
    if caption:
        wrapped = "\n".join(textwrap.wrap(caption, columns or int((width - left) * 17)))
        page.text(left / width, 0.05 / height, wrapped, fontsize=7, ha="left", va="bottom", color=GREY, linespacing=1.35)


def caption_inches(caption: str, *, width: float = 10.0) -> float:
    """Room that `words` needs below the tiles."""
    return 0.1 + 0.135 * len(textwrap.wrap(caption, int(width * 17))) if caption else 0.05


def ct(ax: Axes, cut: Cut, volume: np.ndarray, window: str, **how) -> None:
    low, high = WINDOWS[window]
    cut.show(ax, volume, cmap="gray", vmin=low, vmax=high, **how)


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


def legend(page: Picture, entries: Mapping[str, str], *, caption: str, left: float = 0.0) -> None:
    """Coloured names above the caption."""
    width, height = page.get_size_inches()
    lines = [Line2D([], [], color=colour, linewidth=2.5, label=name.replace("_", " ")) for name, colour in entries.items()]
    page.legend(
        handles=lines, loc="lower left", bbox_to_anchor=(left / width, caption_inches(caption) / height), ncols=5, handlelength=1.2,
        columnspacing=1.6, borderaxespad=0, borderpad=0.1,
    )  # fmt: skip


def legend_inches(caption: str, entries: int) -> float:
    return caption_inches(caption) + 0.04 + 0.175 * -(-entries // 5)


def richest(volume: np.ndarray, *, organs: np.ndarray | None = None, truth: np.ndarray | None = None) -> list[int]:
    """The voxel that shows most: of the truth, else of the heart, else the middle."""
    mask = truth > 0 if truth is not None and truth.any() else organs == 6 if organs is not None else None
    return [n // 2 for n in volume.shape] if mask is None else [busiest(p, mask) for p in ("sagittal", "coronal", "axial")]


def save(figure: Figure, name: str, numbers: pd.DataFrame, *, out: str | Path) -> Path:
    """Writes out/<name>.png (at most 400 kB) and out/<name>.csv, the numbers drawn. Same figure, same bytes. Returns the picture's path.

    `name` begins with the notebook's number: "31_effective_rank". Raises: ValueError if no resolution down to 70 dpi fits.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for dpi, colours in ((200, 0), (200, 256), (170, 256), (140, 256), (110, 256), (90, 256), (70, 128)):
        data = _png(figure, dpi=dpi, colours=colours)
        if len(data) <= LIMIT:
            break
    else:
        raise ValueError(f"{name}: the picture is larger than {LIMIT // 1000} kB even at 70 dpi; draw fewer panels")
    path = folder / f"{name}.png"
    path.write_bytes(data)
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return path


def _png(figure: Figure, *, dpi: int, colours: int = 0) -> bytes:
    from PIL import Image

    raw = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    if colours:
        image = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()
