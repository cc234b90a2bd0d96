"""What lies on a plane of a page, pixel by pixel: outlines, a sentence's map, frames of patches, crosshair, side marks, legend. Used by `sheet`.

Tiles are RGB arrays (rows, columns, 3), uint8, as they stand on the page: the patient's right (or anterior) on the left, up is up.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from asapkit.overlays import SPOT
from asapkit.planes import EDGES, PLANES, Cut

INK, SHADE, AIM = (34, 34, 34), (0, 0, 0, 140), (255, 236, 120)
LINE = 19  # pixels of a line of text
CHIP, SPACE = 14, 16  # pixels of a legend's colour, and between its entries
RAMP = np.rint(SPOT(np.linspace(0, 1, 256)) * 255).astype(np.uint8)  # (256, 4): what a similarity looks like


@lru_cache(maxsize=8)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The house's font, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def outline(tile: np.ndarray, inside: np.ndarray, colour: str, *, thick: bool = False) -> None:
    """The smooth border of a small Boolean plane, painted onto its tile; two pixels wide, or four with a dark rim, to be told from thin ones."""
    if not inside.any():
        return
    size = tile.shape[1], tile.shape[0]
    large = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    edge = np.zeros_like(large)
    for axis in (0, 1):
        step = np.diff(large, axis=axis)
        before, after = (np.s_[:-1, :], np.s_[1:, :]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        edge[before] |= step
        edge[after] |= step
    if thick:
        edge = _wider(edge)
        tile[_wider(edge) & ~edge] //= 3
    tile[edge] = ImageColor.getrgb(colour)


def _wider(edge: np.ndarray) -> np.ndarray:
    """One pixel more to each side."""
    wide = edge.copy()
    for turn in (1, -1):
        wide |= np.roll(edge, turn, axis=0) | np.roll(edge, turn, axis=1)
    return wide


def glow(tile: np.ndarray, cut: Cut, found) -> None:
    """The similarity of the patches that a plane cuts, blended between their centres: from clear at the median to bright at the highest."""
    low, high = float(np.nanmedian(found.similarity)), float(np.nanmax(found.similarity))
    index = cut.index // found.patch[cut.axes[0]]
    values = np.nan_to_num(found.similarity, nan=low).reshape(found.grid).astype(np.float32)
    slab = np.swapaxes(np.take(values, index, axis=cut.axes[0]), 0, 1)[::-1, ::-1]
    large = np.asarray(Image.fromarray(np.ascontiguousarray(slab)).resize((tile.shape[1], tile.shape[0]), Image.Resampling.BILINEAR))
    colours = RAMP[np.clip((large - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)]
    share = colours[..., 3:].astype(np.uint16)
    tile[...] = ((colours[..., :3] * share + tile * (255 - share)) // 255).astype(np.uint8)


def frames(image: Image.Image, cut: Cut, found) -> None:
    """A white frame with its rank around each top patch that the plane cuts; the best one bold."""
    pen = ImageDraw.Draw(image)
    through, across, up = cut.axes
    wide, tall = image.width / found.grid[across], image.height / found.grid[up]
    for rank, place in reversed(list(enumerate(zip(*np.unravel_index(found.top, found.grid), strict=True), start=1))):
        if place[through] == cut.index // found.patch[through]:
            left, upper = image.width - (place[across] + 1) * wide, image.height - (place[up] + 1) * tall
            box = [round(v) for v in (left, upper, left + wide - 1, upper + tall - 1)]
            pen.rectangle(box, outline="white", width=4 if rank == 1 else 2)
            pen.text((box[0] + 5, box[1] + 3), str(rank), fill="white", font=font(12), stroke_width=2, stroke_fill="black")


def crosshair(tile: np.ndarray, x: float, y: float, *, gap: int = 14) -> None:
    """Thin lines through a pixel, open around it, so that what they point at stays in sight."""
    row, column = int(y), int(x)
    for line in (tile[row, : max(column - gap, 0)], tile[row, column + gap :], tile[: max(row - gap, 0), column], tile[row + gap :, column]):
        line[...] = (line * 0.35 + np.array(AIM) * 0.65).astype(np.uint8)


def marks(image: Image.Image, plane: str, scale: float) -> None:
    """Side letters at the edges and a scale bar; `scale` is pixels per mm."""
    pen = ImageDraw.Draw(image, "RGBA")
    places = {"left": 4, "center": image.width // 2 - 5, "right": image.width - 15}
    heights = {"top": 3, "center": image.height // 2 - 8, "bottom": image.height - 19}
    for letter, (_, _, across, along) in zip(PLANES[plane][3], EDGES, strict=True):
        _written(pen, (places[across], heights[along]), letter)
    length = 50 if image.width / scale > 160 else 20 if image.width / scale > 60 else 5
    end, down = 8 + round(length * scale), image.height - 8
    pen.rectangle((7, down - 2, end + 1, down + 3), fill="black")
    pen.rectangle((8, down - 1, end, down + 2), fill="white")
    _written(pen, (8, down - 22), f"{length} mm")


def _written(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str) -> None:
    left, top, right, bottom = pen.textbbox(at, text, font=font(13))
    pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=SHADE)
    pen.text(at, text, fill="white", font=font(13))


def placed(entries: Sequence[tuple[str, str]], width: int) -> tuple[list[tuple[int, int]], int]:
    """Where the entries (colour or "" or "ramp", text) of a legend stand, and how high it is."""
    places, x, y = [], 2, 0
    for colour, text in entries:
        needed = (0 if not colour else 66 if colour == "ramp" else CHIP + 6) + round(font(13).getlength(text)) + SPACE
        if x > 2 and x + needed > width:
            x, y = 2, y + LINE
        places.append((x, y))
        x += needed
    return places, y + LINE


def legend(page: Image.Image, entries: Sequence[tuple[str, str]], *, top: int) -> None:
    """Colours and what they mean, in rows."""
    pen = ImageDraw.Draw(page)
    for (colour, text), (x, y) in zip(entries, placed(entries, page.width)[0], strict=True):
        if colour == "ramp":
            bar = np.repeat(np.linspace(0, 255, 60).astype(np.uint8)[None], 10, 0)
            page.paste(Image.fromarray((RAMP[bar][..., :3] * (RAMP[bar][..., 3:] / 255)).astype(np.uint8)), (x, top + y + 3))
        elif colour:
            pen.rectangle((x, top + y + 3, x + CHIP, top + y + 12), fill=colour, outline=INK)
        shift = 66 if colour == "ramp" else CHIP + 6 if colour else 0
        pen.text((x + shift, top + y), text, fill=INK, font=font(13))


def titled(page: Image.Image, heading: str, *told: str) -> Image.Image:
    """The page with a heading in bold and lines of text above it, wrapped at its width."""
    lines = [(line, bold) for text, bold in ((heading, True), *((t, False) for t in told)) for line in textwrap.wrap(text, 112 if bold else 132)]
    whole = Image.new("RGB", (page.width, page.height + LINE * len(lines) + 6), "white")
    pen = ImageDraw.Draw(whole)
    for n, (text, bold) in enumerate(lines):
        pen.text((2, n * LINE + 2), text, fill=INK, font=font(14, bold=bold))
    whole.paste(page, (0, LINE * len(lines) + 6))
    return whole
