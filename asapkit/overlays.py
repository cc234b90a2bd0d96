"""Pictures of patches over a scan: what is hidden, what was restored, features as colours, a sentence as a map. Offered through `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.ticker import MaxNLocator

from asapkit.analysis import sentence_map as spread
from asapkit.analysis import top_patches
from asapkit.drawing import EDGE, GREY, ORGANS, TRUTH, Picture, caption_inches, corner, empty_page, mosaic, styled, words
from asapkit.planes import Cut, busiest, ct, cuts, frame, organ_outlines, position, richest
from asapkit.types import ORGANS as ORGAN_NAMES

_INFERNO = colormaps["inferno"](np.linspace(0.1, 1, 64))
SPOT = ListedColormap(np.c_[_INFERNO[:, :3], np.linspace(0, 1, 64) ** 0.7 * 0.85], "spot")
"""Similarity over CT: the lower end is transparent, so that anatomy stays visible where a sentence points nowhere."""
HIDDEN = (0.17, 0.18, 0.21, 1.0)
Patch = tuple[int, int, int]


def _grid(volume: np.ndarray, patch: Patch) -> tuple[int, int, int]:
    if any(n % p for n, p in zip(volume.shape, patch, strict=True)):
        raise ValueError(f"a volume of {volume.shape} voxels does not divide into patches of {tuple(patch)}: give the crop the encoder saw")
    return tuple(n // p for n, p in zip(volume.shape, patch, strict=True))


def _painted(values: np.ndarray, volume: np.ndarray, patch: Patch, *, interpolation: str = "nearest") -> np.ndarray:
    """Patch values (N,) over the voxels of `volume`."""
    return spread(np.asarray(values, dtype=np.float32).ravel(), _grid(volume, patch), patch=tuple(patch), interpolation=interpolation)


def _lattice(ax: Axes, cut: Cut, patch: Patch) -> None:
    """Patch borders on a plane."""
    for axis, draw, length in zip(cut.axes[1:], (ax.vlines, ax.hlines), cut.size_mm[::-1], strict=True):
        draw(np.arange(0, cut.shape[axis] + 1, patch[axis]) * cut.spacing_mm[axis], 0, length, color="white", linewidth=0.35, alpha=0.5)


def _cover(ax: Axes, cut: Cut, gone: np.ndarray) -> None:
    """Hidden patches in flat dark grey."""
    width, height = cut.size_mm
    ax.imshow(np.where(cut.take(gone)[..., None], HIDDEN, 0.0), origin="lower", extent=(0, width, 0, height), interpolation="nearest")


def _mm(patch: Patch, spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{p * s:.0f}" for p, s in zip(patch, spacing_mm, strict=True)) + " mm"


@styled
def patch_grid(
    volume: np.ndarray, hidden: np.ndarray, *, spacing_mm: Sequence[float], patch: Patch, window: str = "lung", title: str = "", caption: str = ""
) -> Picture:
    """What the encoder sees: the crop cut into patches, and the same with the hidden patches, (N,) bool, taken away."""
    views = cuts(volume, spacing_mm, ("axial", "coronal"))
    gone = _painted(hidden, volume, patch) > 0.5
    page, tiles = mosaic(
        [views[0].size_mm[0]] * 2, [v.size_mm[1] for v in views], width=7.5, top=0.52 if title else 0.28, bottom=caption_inches(caption, width=7.5)
    )
    for row, cut in zip(tiles, views, strict=True):
        for number, ax in enumerate(row):
            ct(ax, cut, volume, window)
            if number:
                _cover(ax, cut, gone)
            _lattice(ax, cut, patch)
            frame(ax, cut)
        corner(row[0], cut.plane)
    tiles[0, 0].set_title(f"the crop: {hidden.size} patches of {_mm(patch, spacing_mm)}", pad=3)
    tiles[0, 1].set_title(f"what the encoder sees: {int((~hidden.astype(bool)).sum())} patches", pad=3)
    words(page, title=title, caption=caption)
    return page


@styled
def organ_proportions(
    volume: np.ndarray, organs: np.ndarray, proportions: np.ndarray, *, spacing_mm: Sequence[float], patch: Patch,
    plane: str = "coronal", at: Sequence[int] | None = None, title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """One plane with all organ outlines; then the share (N, 9) of patches that each organ fills, on its best plane."""
    (cut,) = cuts(volume, spacing_mm, (plane,), at=richest(volume, organs=organs) if at is None else at)
    page, tiles = mosaic([cut.size_mm[0]] * 5, [cut.size_mm[1]] * 2, top=0.3 if title else EDGE, bottom=caption_inches(caption))
    ct(tiles[0, 0], cut, volume, "mediastinal")
    organ_outlines(tiles[0, 0], cut, organs)
    frame(tiles[0, 0], cut)
    corner(tiles[0, 0], f"{plane}, all organs")
    for label, (ax, name, share) in enumerate(zip(tiles.ravel()[1:], ORGAN_NAMES, proportions.T, strict=True), start=1):
        painted = _painted(share, volume, patch)
        own = replace(cut, index=busiest(plane, organs == label))
        red, green, blue = to_rgb(ORGANS[label - 1])
        ramp = LinearSegmentedColormap.from_list(name, [(red, green, blue, 0.0), (red, green, blue, 0.9)])
        ct(ax, own, volume, "full", dim=1.8)
        own.show(ax, painted, cmap=ramp, vmin=0, vmax=1, interpolation="nearest")
        own.outline(ax, organs == label, color="white", width=0.7)
        frame(ax, own, marks=False, bar=False)
        corner(ax, name.replace("_", " "))
        corner(ax, f"up to {own.take(painted).max():.0%} of a patch" if share.any() else "not in this volume", where="bottom right")
    words(page, title=title, caption=caption)
    return page


@styled
def reconstruction(
    volume: np.ndarray, hidden: np.ndarray, restored: np.ndarray, *, spacing_mm: Sequence[float], patch: Patch,
    window: str = "lung", title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """Input, what was visible, what the decoder restored (visible patches as they were), and how far off it is; HU throughout."""
    views = cuts(volume, spacing_mm, ("axial", "coronal"))
    gone = _painted(hidden, volume, patch) > 0.5
    joined = np.where(gone, restored, volume)
    off = np.abs(joined.astype(np.float32) - volume)
    page, tiles = mosaic(
        [views[0].size_mm[0]] * 4, [v.size_mm[1] for v in views], top=0.52 if title else 0.28, right=0.55, bottom=caption_inches(caption)
    )
    for row, cut in zip(tiles, views, strict=True):
        for ax, shown in zip(row, (volume, volume, joined, None), strict=True):
            if shown is not None:
                ct(ax, cut, shown, window)
        cut.show(row[3], off, cmap="magma", vmin=0, vmax=500, interpolation="nearest")
        _cover(row[3], cut, ~gone)
        _cover(row[1], cut, gone)
        for ax in row:
            frame(ax, cut)
        corner(row[0], f"{cut.plane}, {window} window")
    error = off[gone].mean() if gone.any() else 0.0
    headings = ("input", f"visible, {1 - hidden.mean():.0%}", "restored", f"off by {error:.0f} HU on average")
    for ax, text in zip(tiles[0], headings, strict=True):
        ax.set_title(text, pad=3)
    _bar(page, tiles[-1, 3], "magma", Normalize(0, 500), "absolute difference, HU")
    words(page, title=title, caption=caption)
    return page


def _bar(page: Picture, beside: Axes, colours: str | ListedColormap, norm: Normalize, label: str) -> None:
    """A slim colour bar to the right of a tile."""
    from matplotlib.cm import ScalarMappable

    box = beside.get_position()
    width, _ = page.get_size_inches()
    bar = page.colorbar(
        ScalarMappable(norm, colours), cax=page.add_axes((box.x1 + 0.06 / width, box.y0 + 0.1 * box.height, 0.09 / width, 0.8 * box.height))
    )
    bar.set_label(label, fontsize=7, labelpad=2)
    bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    bar.locator = MaxNLocator(4)
    bar.outline.set_linewidth(0.4)
    if beside.get_facecolor()[:3] == (0, 0, 0) and isinstance(colours, ListedColormap):
        bar.ax.set_facecolor("black")


@styled
def sentence_maps(
    volume: np.ndarray, rows: Sequence[Mapping], *, spacing_mm: Sequence[float], patch: Patch, window: str = "lung",
    interpolation: str = "linear", title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """One row per sentence, axial and coronal: the scan with the truth's outline, then similarity over it through the best patch.

    Both show the same plane, unless that plane misses the truth: then the left one goes to it.

    A row holds `sentence` (text), `similarity` (N,), NaN where nothing can be seen, `k` (patches selected), and where known `truth`
    (Boolean volume), `note`, `volume` (its own), `window`. White frames are those of the top k patches that the plane cuts, a bold one the best.
    """
    if not rows:
        return empty_page("No positive sentence in this report.", title=title, caption=caption)
    size = cuts(volume, spacing_mm, ("axial", "coronal"))
    tall = max(c.size_mm[1] for c in size)
    page, tiles = mosaic(
        [size[0].size_mm[0]] * 4, [tall] * len(rows), top=0.64 if title else 0.38, right=0.72, rows_gap=0.42, bottom=caption_inches(caption)
    )
    for tile, row in zip(tiles, rows, strict=True):
        _sentence_row(page, tile, row.get("volume", volume), row, spacing_mm, patch, row.get("window", window), interpolation)
    words(page, title=title, caption=caption)
    return page


def _sentence_row(page, tiles, volume, row, spacing_mm, patch, window, interpolation) -> None:
    similarity, grid, truth = np.asarray(row["similarity"], float), _grid(volume, patch), row.get("truth")
    top = top_patches(similarity, row["k"])
    best = np.array(np.unravel_index(top[0], grid))
    at = (best * patch + np.array(patch) // 2).tolist()
    painted = _painted(np.nan_to_num(similarity, nan=np.nanmin(similarity)), volume, patch, interpolation=interpolation)
    norm = Normalize(float(np.nanmedian(similarity)), float(np.nanmax(similarity)))
    views = cuts(volume, spacing_mm, ("axial", "axial", "coronal", "coronal"), at=at)
    views = [_truth_in_sight(cut, truth) if n % 2 == 0 else cut for n, cut in enumerate(views)]
    for number, (ax, cut) in enumerate(zip(tiles, views, strict=True)):
        ct(ax, cut, volume, window, dim=1 if number % 2 == 0 else 1.5)
        if number % 2:
            cut.show(ax, painted, cmap=SPOT, norm=norm, interpolation="bilinear" if interpolation == "linear" else "nearest")
            cut.boxes(ax, top, grid, patch, linewidth=0.9)
            cut.boxes(ax, top[:1], grid, patch, linewidth=2.2)
        if truth is not None:
            cut.outline(ax, truth, color=TRUTH[0], width=1.4)
        frame(ax, cut)
        corner(ax, f"{cut.plane}, {position(cut)}")
    share = row["k"] / similarity.size
    told = [f"frames: K = {row['k']} of {similarity.size} patches ({share:.1%}), the best one bold"]
    told += ["outline: truth"] * (truth is not None) + ([row["note"]] if row.get("note") else [])
    box = tiles[0].get_position()
    height = page.get_size_inches()[1]
    page.text(box.x0, box.y1 + 0.17 / height, f"“{row['sentence']}”", fontsize=8.5, va="bottom", style="italic", parse_math=False)
    page.text(box.x0, box.y1 + 0.04 / height, "  ·  ".join(told), fontsize=7, va="bottom", color=GREY)
    _bar(page, tiles[-1], SPOT, norm, "cosine similarity")


def _truth_in_sight(cut: Cut, truth: np.ndarray | None) -> Cut:
    """The same plane, or the one that shows most of the truth where this one misses it."""
    return cut if truth is None or not truth.any() or cut.take(truth).any() else replace(cut, index=busiest(cut.plane, truth))


def sentence_map(
    volume: np.ndarray, similarity: np.ndarray, *, sentence: str, k: int, truth: np.ndarray | None = None, note: str = "", **how
) -> Picture:
    """`sentence_maps` with one row."""
    return sentence_maps(volume, [{"sentence": sentence, "similarity": similarity, "k": k, "truth": truth, "note": note}], **how)


QUERY = "#00E5D0"  # the frame of the patch that looks
EVEN = "times an even share"


@styled
def attention(
    volume: np.ndarray, shares: Mapping[str, np.ndarray], *, query: int, spacing_mm: Sequence[float], patch: Patch,
    window: str = "lung", title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """What one patch looks at: a row per entry of `shares`, (N,) each, over the axial and coronal slice through the patch `query`, which is framed.

    Colours say how many times its even share, 1 / N, a patch gets; each row has its own scale, and what gets less than that stays bare.
    A dot marks the patch looked at most, where a slice cuts it. Raises: ValueError for no shares or of another number; IndexError for no such patch.
    """
    grid = _grid(volume, patch)
    patches = int(np.prod(grid))
    if not shares or any(np.shape(s) != (patches,) for s in shares.values()):
        raise ValueError(f"attention takes one or more rows of {patches} shares, one share for every patch of {grid}")
    if not 0 <= query < patches:
        raise IndexError(f"patch {query}: there are 0 to {patches - 1}")
    at = (np.array(np.unravel_index(query, grid)) * patch + np.array(patch) // 2).tolist()
    views = cuts(volume, spacing_mm, ("axial", "coronal"), at=at)
    tall = max(v.size_mm[1] for v in views)
    room = {"top": 0.46 if title else 0.26, "right": 0.72, "left": 0.3, "rows_gap": 0.22, "bottom": caption_inches(caption, width=7.2)}
    page, tiles = mosaic([v.size_mm[0] for v in views], [tall] * len(shares), width=7.2, **room)
    for row, (name, share) in zip(tiles, shares.items(), strict=True):
        times = np.asarray(share, float) * patches
        norm = Normalize(1.0, max(float(times.max()), 1.001))
        _attention_row(row, volume, times, query=query, views=views, patch=tuple(patch), window=window, norm=norm)
        row[0].text(-0.03, 0.5, name, rotation=90, ha="right", va="center", fontsize=8.5, transform=row[0].transAxes, parse_math=False)
        told = f"most: patch {times.argmax()}, {times.max():.3g} {EVEN}; itself: {times[query]:.3g}"
        row[0].text(0.0, 1.015, told, fontsize=7, color=GREY, va="bottom", transform=row[0].transAxes)
        _bar(page, row[-1], SPOT, norm, EVEN)
    words(page, title=title, caption=caption, left=0.3)
    return page


def _attention_row(
    row: np.ndarray, volume: np.ndarray, times: np.ndarray, *, query: int, views: Sequence[Cut], patch: Patch, window: str, norm: Normalize
) -> None:
    """The two planes of one map: CT, colours, the frame of the patch that looks, a dot on the one it looks at most."""
    grid, painted = _grid(volume, patch), _painted(times, volume, patch)
    most = np.unravel_index(int(times.argmax()), grid)
    for ax, cut in zip(row, views, strict=True):
        ct(ax, cut, volume, window, dim=1.5)
        cut.show(ax, painted, cmap=SPOT, norm=norm, interpolation="nearest")
        cut.boxes(ax, [query], grid, patch, linewidth=3.2, edgecolor="black")
        cut.boxes(ax, [query], grid, patch, linewidth=1.8, edgecolor=QUERY)
        if most[cut.axes[0]] == cut.index // patch[cut.axes[0]]:
            middle = [(most[a] + 0.5) * patch[a] * cut.spacing_mm[a] for a in cut.axes[1:]]
            ax.plot(*middle, "o", markersize=4, color="white", markeredgecolor="black", markeredgewidth=0.8)
        frame(ax, cut)
        corner(ax, f"{cut.plane}, {position(cut)}")
