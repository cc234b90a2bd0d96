"""Pictures of scans: arrays in, a matplotlib figure out. Nothing is read, computed by a network, or written except by `save`.

Volumes are (X, Y, Z) in RAS+ and HU, with their voxel size in mm. Charts of numbers live in `charts`, and are offered here too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from asapkit.charts import effective_rank, grounding_bars, history, k_extent, patient_dependence, probe_bars, probe_dots, selected_k, spectra
from asapkit.drawing import EDGE, GREY, INK, ORGANS, TRUTH, Picture, caption_inches, corner, legend, legend_inches, mosaic, save, styled, words
from asapkit.overlays import attention, organ_proportions, patch_grid, reconstruction, sentence_map, sentence_maps
from asapkit.planes import bits_of, ct, cuts, frame, organ_outlines, position, richest, truth_outlines, window_text
from asapkit.plates import attention_sheet, pca_maps, sentence_patches
from asapkit.ranks import attention_reach
from asapkit.types import ORGANS as ORGAN_NAMES

__all__ = [
    "Step", "attention", "attention_reach", "attention_sheet", "effective_rank", "gallery", "grounding_bars", "history", "k_extent",
    "organ_proportions", "patch_grid", "patient_dependence", "pca_maps", "preprocess_steps", "probe_bars", "probe_dots", "reconstruction", "save",
    "scan_sheet", "selected_k", "sentence_map", "sentence_maps", "sentence_patches", "slices", "spectra",
]  # fmt: skip
PLANES = ("axial", "coronal", "sagittal")
GALLERY = (("axial", "lung"), ("axial", "mediastinal"), ("coronal", "lung"))  # plane and window of each row


@styled
def slices(
    volume: np.ndarray, *, spacing_mm: Sequence[float], at: Sequence[int] | None = None, planes: Sequence[str] = PLANES,
    windows: Sequence[str] = ("lung", "mediastinal"), organs: np.ndarray | None = None, truth: np.ndarray | None = None,
    names: Mapping[int, str] | None = None, title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """One row per window, one column per plane, all at one millimetre scale; organs outlined and, if given, the truth by its bits.

    `organs` uint8 labels 1..9, `truth` uint32 bits, `names` what a bit is called. `at` is the voxel x, y, z that the planes meet in,
    by default where most truth, or the heart, is seen.
    """
    views = cuts(volume, spacing_mm, planes, at=richest(volume, organs=organs, truth=truth) if at is None else at)
    colours = {b: TRUTH[i % len(TRUTH)] for i, b in enumerate(bits_of(truth))} if truth is not None else {}
    shown = {ORGAN_NAMES[o - 1]: ORGANS[o - 1] for o in np.unique(organs) if o} if organs is not None else {}
    entries = shown | {(names or {}).get(b, f"finding {b}"): c for b, c in colours.items()}
    tall, top = max(v.size_mm[1] for v in views), 0.3 if title else EDGE
    width = min(10.0, 1.6 + 2.8 * len(views))
    bottom = legend_inches(caption, len(entries), width=width)
    page, tiles = mosaic([v.size_mm[0] for v in views], [tall] * len(windows), width=width, top=top, bottom=bottom)
    for row, window in zip(tiles, windows, strict=True):
        for ax, cut in zip(row, views, strict=True):
            ct(ax, cut, volume, window)
            organ_outlines(ax, cut, organs)
            truth_outlines(ax, cut, truth, colours)
            frame(ax, cut)
            corner(ax, f"{cut.plane}, {position(cut)}")
        corner(row[-1], window_text(window), where="bottom right")
    words(page, title=title, caption=caption)
    if entries:
        legend(page, entries, caption=caption)
    return page


@styled
def scan_sheet(
    volume: np.ndarray, *, spacing_mm: Sequence[float], sentences: Sequence[str], bits: Sequence[int] = (), organs: np.ndarray | None = None,
    truth: np.ndarray | None = None, at: Sequence[int] | None = None, title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """The start-here picture: a scan in two windows, its organs, and beside it the report; a sentence has the colour of what it states.

    `bits` holds one mask of truth bits per sentence (0 states nothing that has voxels).
    """
    at = richest(volume, organs=organs, truth=truth) if at is None else at
    axial, coronal = cuts(volume, spacing_mm, ("axial", "coronal"), at=at)
    stated = [i for i, b in enumerate(bits) if b and truth is not None]
    colours = {i: TRUTH[n % len(TRUTH)] for n, i in enumerate(stated)}
    entries = {ORGAN_NAMES[o - 1]: ORGANS[o - 1] for o in np.unique(organs) if o} if organs is not None else {}
    top = 0.3 if title else EDGE
    heights, bottom = [axial.size_mm[1], coronal.size_mm[1]], legend_inches(caption, len(entries))
    page, tiles = mosaic([axial.size_mm[0]] * 2, heights, right=3.9, top=top, bottom=bottom)
    for row, cut in zip(tiles, (axial, coronal), strict=True):
        ct(row[0], cut, volume, "lung")
        ct(row[1], cut, volume, "mediastinal")
        for index, colour in colours.items():
            cut.outline(row[0], (truth & np.uint32(bits[index])) > 0, color=colour, width=1.4)
        organ_outlines(row[1], cut, organs)
        for ax, text in zip(row, ("lung window", "mediastinal window"), strict=True):
            frame(ax, cut)
            corner(ax, f"{cut.plane}, {text}")
    _report(page, sentences, colours, left=10 - 3.75)
    words(page, title=title, caption=caption)
    if entries:
        legend(page, entries, caption=caption)
    return page


def _report(page: Picture, sentences: Sequence[str], colours: Mapping[int, str], *, left: float) -> None:
    """Report sentences down the right side, a coloured bar before each that states something visible; shortened where the page ends."""

    width, height = page.get_size_inches()
    y = height - 0.34
    page.text(left / width, y / height, "Report", fontsize=9, fontweight="bold", va="top")
    y -= 0.26
    for number, sentence in enumerate(sentences):
        lines = textwrap.wrap(sentence, 56)
        if y - 0.15 * len(lines) < 0.35:
            page.text((left + 0.14) / width, y / height, f"... and {len(sentences) - number} more sentences", fontsize=7.5, va="top", color=GREY)
            return
        if number in colours:
            span = [(y + 0.01) / height, (y - 0.145 * len(lines) + 0.03) / height]
            page.add_artist(Line2D([(left + 0.04) / width] * 2, span, color=colours[number], linewidth=3.5, solid_capstyle="butt"))
        ink = INK if number in colours else "#666666"
        page.text((left + 0.14) / width, y / height, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.3, color=ink)
        y -= 0.15 * len(lines) + 0.055


@styled
def gallery(items: Sequence[Mapping], *, views: Sequence[tuple[str, str]] = GALLERY, title: str = "", caption: str = "") -> Picture:
    """Scans side by side at one millimetre scale, one column each. An item holds name, volume, spacing_mm, credit and perhaps at (x, y, z)."""
    columns = [cuts(i["volume"], i["spacing_mm"], [p for p, _ in views], at=i.get("at")) for i in items]
    heights = [max(c[r].size_mm[1] for c in columns) for r in range(len(views))]
    widths = [max(cut.size_mm[0] for cut in c) for c in columns]
    page, tiles = mosaic(widths, heights, top=0.52 if title else 0.28, bottom=caption_inches(caption) + 0.3)
    height = page.get_size_inches()[1]
    for number, (item, column) in enumerate(zip(items, columns, strict=True)):
        for ax, cut, (plane, window) in zip(tiles[:, number], column, views, strict=True):
            ct(ax, cut, item["volume"], window)
            frame(ax, cut)
            if number == 0:
                corner(ax, f"{plane}, {window} window")
        tiles[0, number].set_title(item["name"], pad=3)
        box = tiles[-1, number].get_position()
        letters = int(box.width * page.get_figwidth() * 72 / (0.52 * 6.3))
        credit = textwrap.fill(item.get("credit", ""), letters)
        page.text(box.x0, box.y0 - 0.05 / height, credit, fontsize=6.3, va="top", color=GREY)
    words(page, title=title, caption=caption)
    return page


@dataclass(frozen=True)
class Step:
    """One state of a scan on its way to the contract. `oriented` False: the axes are as stored, so sides are not written."""

    name: str
    volume: np.ndarray
    spacing_mm: tuple[float, float, float]
    note: str = ""
    oriented: bool = True


@styled
def preprocess_steps(steps: Sequence[Step], *, title: str = "", caption: str = "") -> Picture:
    """From the file to the contract: axial and coronal plane of every step with its own voxels, and how its values are distributed."""
    views = [cuts(s.volume, s.spacing_mm, ("axial", "coronal")) for s in steps]
    wide = max(v.size_mm[0] for pair in views for v in pair)
    heights = [max(pair[r].size_mm[1] for pair in views) for r in range(2)]
    page, tiles = mosaic([wide] * len(steps), [*heights, 0.55 * wide], top=0.68 if title else 0.42, bottom=caption_inches(caption) + 0.4)
    for step, pair, column in zip(steps, views, tiles.T, strict=True):
        for cut, ax in zip(pair, column, strict=False):
            ct(ax, cut, step.volume, "full", interpolation="nearest")
            frame(ax, cut, marks=step.oriented)
        size = " x ".join(map(str, step.volume.shape)) + " voxels of " + " x ".join(f"{s:.3g}" for s in step.spacing_mm) + " mm"
        column[0].set_title(f"{step.name}\n", fontweight="bold", pad=2)
        column[0].text(0, 1.02, size, transform=column[0].transAxes, fontsize=6.5, color=GREY)
        corner(column[0], step.note)
        _values(column[2], step.volume)
    words(page, title=title, caption=caption)
    return page


def _values(ax: Axes, volume: np.ndarray) -> None:
    """Histogram of HU in a tile of a mosaic."""
    box = ax.get_position()
    ax.set_position((box.x0 + 0.03 * box.width, box.y0, 0.94 * box.width, box.height * 0.86))
    ax.autoscale(axis="y")
    ax.set(facecolor="white", xlim=(-1500, 2100), xticks=[-1000, 0, 1000, 2000])
    some = volume.ravel()[:: max(1, volume.size // 400_000)]
    ax.hist(np.clip(some, -1500, 2099), bins=90, range=(-1500, 2100), color="#0072B2", log=True)
    ax.axvspan(-1000, 1000, color="#0072B2", alpha=0.07, linewidth=0)
    ax.set_yticks([], [])
    ax.minorticks_off()
    ax.set_ylabel("voxels, log scale", fontsize=6.5, color=GREY, labelpad=1)
    ends = " and ".join(which for which, there in (("first", (some < -1500).any()), ("last", (some > 2099).any())) if there)
    ax.set_xlabel("HU (shaded: -1000 to 1000" + (f"; the {ends} bar holds all beyond)" if ends else ")"), labelpad=1)
    ax.spines["bottom"].set_visible(True)
