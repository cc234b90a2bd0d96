"""The house style of every picture: fonts, colours, a page of black tiles, words on it, and how a figure is written to disk."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from asapkit.types import Refused

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
ORGANS = ("#56B4E9", "#3D7FE0", "#B7E07A", "#F0E442", "#35B779", "#FF6A4D", "#C9A0FF", "#FFA630", "#FF2E88")  # order of types.ORGANS
TRUTH = ("#00E5D0", "#FFD23F", "#FF6B9D", "#8CFF66", "#FF9F45", "#B79CFF", "#5EC8FF", "#F5F5F5")  # on dark CT; cycles over findings
LIMIT = 400_000  # bytes of a saved picture
LADDER = (
    (200, 0, 1.0), (200, 96, 0.6), (200, 64, 0.5), (170, 64, 0.4), (150, 64, 0.35), (150, 48, 0.3), (130, 48, 0.24), (110, 48, 0.18),
    (90, 48, 0.13), (70, 32, 0.0),
)  # fmt: skip
"""Dots per inch, grey levels (0: all) and the size to hope for as a share of the first rung's, so that hopeless rungs are not tried."""
SAMPLE = 11  # every so many coloured pixels make the palette: as good as all, in a third of the time
EDGE = 0.08  # inches around a picture
GREY, INK = "#777777", "#222222"
SHADE = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.2}  # behind writing on a scan


class Picture(Figure):
    """A Figure that Jupyter shows without pyplot, hence without global state and at the same size everywhere. `alt` is what it says to the blind."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        return {"image/png": self._repr_png_()}, {"image/png": {"alt": self.alt}}

    def _repr_png_(self) -> bytes:
        return _encoded(_pixels(self, dpi=110))


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


def encoder_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per encoder: the known ones keep theirs, others get an unused one each."""
    free = [c for c in CYCLE if c not in {ENCODERS.get(n) for n in names}] or list(CYCLE)
    others = [n for n in names if n not in ENCODERS]
    return {n: ENCODERS[n] if n in ENCODERS else free[others.index(n) % len(free)] for n in names}


def mosaic(
    widths_mm: Sequence[float], heights_mm: Sequence[float], *, width: float = 10.0, top: float = 0.6, bottom: float = 0.3,
    left: float = EDGE, right: float = EDGE, gap: float = 0.05, rows_gap: float = 0.05,
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


def corner(ax: Axes, text: str, *, where: str = "top left") -> None:
    """Small writing inside a tile, wrapped before it reaches the mark in the middle."""
    up, side = where.split()
    inches = ax.get_window_extent().width / ax.get_figure().dpi
    ax.text(
        0.015 if side == "left" else 0.985, 0.985 if up == "top" else 0.015, "\n".join(textwrap.wrap(text, max(9, int(6.6 * inches)))), color="white",
        fontsize=6.8, ha=side, va=up, linespacing=1.25, transform=ax.transAxes, bbox=SHADE,
    )  # fmt: skip


def words(page: Figure, *, title: str = "", caption: str = "", left: float = EDGE) -> None:
    """Title above and caption below the whole picture; long captions wrap at the picture's width."""
    width, height = page.get_size_inches()
    page.alt = ". ".join(part.rstrip(".") for part in (title, caption) if part)
    if title:
        page.text(left / width, 1 - 0.05 / height, title, fontsize=10, fontweight="bold", ha="left", va="top", color=INK)
    if caption:
        wrapped = "\n".join(textwrap.wrap(caption, int((width - 2 * EDGE) * 17)))
        page.text(left / width, 0.05 / height, wrapped, fontsize=7, ha="left", va="bottom", color=GREY, linespacing=1.35)


def caption_inches(caption: str, *, width: float = 10.0) -> float:
    """Room that `words` needs below the tiles."""
    return 0.1 + 0.135 * len(textwrap.wrap(caption, int((width - 2 * EDGE) * 17))) if caption else EDGE


def legend(page: Picture, entries: Mapping[str, str], *, caption: str, left: float = EDGE) -> None:
    """Coloured names above the caption."""
    width, height = page.get_size_inches()
    lines = [Line2D([], [], color=colour, linewidth=2.5, label=name.replace("_", " ")) for name, colour in entries.items()]
    where = {
        "loc": "lower left",
        "bbox_to_anchor": (left / width, caption_inches(caption, width=width) / height),
        "borderaxespad": 0,
        "borderpad": 0.1,
    }
    page.legend(handles=lines, ncols=_columns(width), handlelength=1.2, columnspacing=1.6, **where)


def _columns(width: float) -> int:
    return max(1, int(width / 1.95))


def legend_inches(caption: str, entries: int, *, width: float = 10.0) -> float:
    """Room that `legend` needs below the tiles, the caption included."""
    return caption_inches(caption, width=width) + 0.04 + 0.175 * -(-entries // _columns(width))


def chart_page(width: float, height: float, title: str, caption: str) -> Picture:
    """A picture with constrained layout that leaves room for title and caption."""
    page = Picture(figsize=(width, height), layout="constrained")
    below = 0.02 + 0.14 * (1 + len(caption) // int(width * 17)) * bool(caption)
    above = 0.26 if title else 0.04
    page.get_layout_engine().set(rect=(0.005, below / height, 0.99, 1 - (above + below) / height), w_pad=0.06, h_pad=0.05)
    words(page, title=title, caption=caption, left=0.06)
    return page


def empty_page(said: str, *, title: str = "", caption: str = "") -> Picture:
    """A picture of an empty panel with one line that says what is missing, where a table has no row to draw."""
    page = chart_page(6.8, 1.6, title, caption)
    ax = page.subplots()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#E4E4E4")
    ax.spines[:].set_visible(True)
    ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", color=GREY)
    return page


def require(table: pd.DataFrame, *columns: str) -> None:
    if absent := [c for c in columns if c not in table]:
        raise ValueError(f"the table lacks {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")


def label_ends(ax: Axes, x: float, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Names beside the ends of lines, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    room, last = 0.055 * (high - low), -np.inf
    for name, y in sorted(ends.items(), key=lambda item: item[1]):
        last = max(y, last + room)
        ax.annotate(name, (x, last), xytext=(8, 0), textcoords="offset points", color=colours[name], fontsize=7.5, va="center", annotation_clip=False)


def save(figure: Figure, name: str, numbers: pd.DataFrame, *, out: str | Path, vector: bool = False) -> Path:
    """Writes out/<name>.png (at most 400 kB) and out/<name>.csv, the numbers drawn. Same figure, same bytes. Returns the picture's path.

    `name` begins with the notebook's number: "31_effective_rank". `vector` writes out/<name>.pdf as well, for print: lines and letters stay sharp at
    any size; it is never committed.
    Raises: ValueError if no resolution down to 70 dpi fits, Refused when there is no room.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    first, drawn = 0, functools.cache(lambda dpi: _pixels(figure, dpi=dpi))
    for dpi, greys, share in LADDER:
        if first * share > 1.1 * LIMIT:
            continue
        data = _encoded(drawn(dpi), greys=greys)
        first = first or len(data)
        if len(data) <= LIMIT:
            break
    else:
        raise ValueError(f"{name}: the picture is larger than {LIMIT // 1000} kB even at 70 dpi; draw fewer panels")
    table = numbers.to_csv(None, index=False, float_format="%.6g", lineterminator="\n").encode()
    for ending, content in ((".png", data), (".csv", table), *([(".pdf", _pdf(figure))] if vector else [])):
        _write_whole(folder / (name + ending), content)
    return folder / f"{name}.png"


def _write_whole(path: Path, content: bytes) -> None:
    """Raises: Refused, naming the file, when there is no room; nothing half written stays behind."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Refused(f"{path}: cannot be written ({error.strerror or error}); free some disk space and run again") from error


def _pdf(figure: Figure) -> bytes:
    raw = io.BytesIO()
    with rc_context(STYLE | {"pdf.fonttype": 42}):  # letters stay letters
        figure.savefig(raw, format="pdf", dpi=300, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return raw.getvalue()


def svg(figure: Figure) -> str:
    """The figure as drawn in the house style, in lines and letters; same figure, same text."""
    raw = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
    return raw.getvalue()


def _pixels(figure: Figure, *, dpi: int) -> np.ndarray:
    """[height, width, 3] uint8, the figure as drawn in the house style."""
    from PIL import Image

    raw = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(raw, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return np.asarray(Image.open(raw).convert("RGB"))


def _encoded(rgb: np.ndarray, *, greys: int = 0) -> bytes:
    from PIL import Image

    small = io.BytesIO()
    image = _palette(rgb, greys) if greys else Image.fromarray(rgb)
    image.save(small, format="png", optimize=bool(greys))
    return small.getvalue()


def _palette(rgb: np.ndarray, greys: int):
    """256 colours of which `greys` are an even grey scale: CT and text keep theirs, what is coloured gets the rest to itself."""
    from PIL import Image

    grey = np.ptp(rgb.astype(np.int16), axis=-1) <= 10
    index = np.empty(grey.shape, np.uint8)
    index[grey] = np.rint(rgb[grey].mean(-1) * (greys - 1) / 255)
    palette = [level for step in range(greys) for level in [round(255 * step / (greys - 1))] * 3]
    if not grey.all():
        pixels = rgb[~grey]
        sample = Image.fromarray(np.ascontiguousarray(pixels[::SAMPLE])[None])
        chosen = sample.quantize(256 - greys, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        index[~grey] = np.asarray(Image.fromarray(pixels[None]).quantize(palette=chosen, dither=Image.Dither.NONE))[0] + greys
        palette += chosen.getpalette()
    image = Image.fromarray(index, mode="P")
    image.putpalette(palette)
    return image
