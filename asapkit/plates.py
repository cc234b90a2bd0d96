"""Pictures as the paper prints them: features as colours (figure 7), sentences and the patches they take (figure 2c); and attention."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import Normal, Stroke

from asapkit.analysis import sentence_map as spread
from asapkit.analysis import top_patches
from asapkit.drawing import EDGE, GREY, INK, SHADE, TRUTH, Picture, caption_inches, corner, mosaic, styled, words
from asapkit.overlays import QUERY, SPOT
from asapkit.planes import Cut, bits_of, busiest, ct, cuts, frame, position

Patch = tuple[int, int, int]
FOCAL = 0.01  # of a volume's voxels: an instance of a finding that fills more is too spread out to point at
MOST_ARROWS = 3  # on one slice
MARK_MM = 22.0  # from the middle of an edge, where the side marks stand
ARROW_MM = 38.0


def _grid(volume: np.ndarray, patch: Patch) -> tuple[int, int, int]:
    if any(n % p for n, p in zip(volume.shape, patch, strict=True)):
        raise ValueError(f"a volume of {volume.shape} voxels does not divide into patches of {tuple(patch)}: give the crop the encoder saw")
    return tuple(n // p for n, p in zip(volume.shape, patch, strict=True))


def body_of(flat: np.ndarray) -> np.ndarray:
    """The body on one axial slice (X, Y) in HU, lungs included, table and air left out."""
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    solid = binary_opening(flat > -400, iterations=1)
    pieces, count = label(solid)
    if not count:
        return np.zeros(flat.shape, bool)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return binary_fill_holes(np.pad(largest, 1, mode="edge"))[1:-1, 1:-1]


def lesion_slices(truth: np.ndarray, *, patch: Patch, count: int) -> list[int]:
    """Axial slices that show the truth's focal instances best, from below to above: the largest instances first, one slice per slab of patches.

    `truth` (X, Y, Z) uint32 bits. Where there are fewer than `count` such slabs, the rest are spread evenly over the volume.
    """
    slabs: dict[int, int] = {}
    for mask in sorted((m for m in _focal(truth).values()), key=lambda m: -int(m.sum())):
        z = busiest("axial", mask)
        if len(slabs) < count:
            slabs.setdefault(z // patch[2], z)
    number = truth.shape[2] // patch[2]
    for slab in np.linspace(0, number - 1, min(count, number) + 2).round().astype(int)[1:-1].tolist() + list(range(number)):
        if len(slabs) < min(count, number):
            slabs.setdefault(slab, slab * patch[2] + patch[2] // 2)
    return sorted(slabs.values())


def _focal(truth: np.ndarray) -> dict[int, np.ndarray]:
    """Boolean volumes of the instances that an arrow can point at, by bit."""
    found = {bit: (truth >> np.uint32(bit)) & 1 > 0 for bit in bits_of(truth)}
    return {bit: mask for bit, mask in found.items() if mask.sum() <= FOCAL * truth.size}


def _arrow(ax: Axes, cut: Cut, place: np.ndarray) -> None:
    """An arrow to a place (mm on the page): from outside if there is room, else from another side, and clear of the side marks where it can be."""
    size = np.array(cut.size_mm)
    middle = size / 2
    way = place - middle
    way = way / max(np.hypot(*way), 1e-6) if np.hypot(*way) > 0.15 * min(size) else np.array([0.7, 0.7])
    marks = np.array([[middle[0], 0], [middle[0], size[1]], [0, middle[1]], [size[0], middle[1]]])
    long = min(ARROW_MM, 0.2 * min(size))
    tails = [place + long * np.array(side) for side in (way, -way, (way[1], -way[0]), (-way[1], way[0]))]
    within = [tail for tail in tails if ((tail > 0.02 * size) & (tail < 0.98 * size)).all()] or tails[1:2]
    tail = next((t for t in within if np.hypot(*(marks - t).T).min() > min(MARK_MM, 0.12 * min(size))), within[0])
    glow = [Stroke(linewidth=2.6, foreground="black"), Normal()]
    how = {"arrowstyle": "-|>,head_length=3.2,head_width=1.7", "shrinkA": 0, "shrinkB": 2.5, "linewidth": 1.1, "color": "white", "path_effects": glow}
    ax.add_patch(FancyArrowPatch(tail, place, **how))


def _arrows(truth: np.ndarray | None, views: Sequence[Cut]) -> list[dict[int, np.ndarray]]:
    """Per slice: bit -> where to point (mm on the page), for the largest focal instances that show there."""
    found: list[dict[int, np.ndarray]] = []
    focal = _focal(truth) if truth is not None else {}
    for cut in views:
        shown = {}
        for bit, mask in focal.items():
            flat, most = cut.take(mask), mask.sum((0, 1)).max()
            if flat.sum() > 0.3 * most:
                rows, columns = np.nonzero(flat)
                nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
                step = [cut.spacing_mm[a] for a in cut.axes[1:]]
                shown[bit] = (int(flat.sum()), (np.array([columns[nearest], rows[nearest]]) + 0.5) * step)
        largest = sorted(shown, key=lambda b: -shown[b][0])[:MOST_ARROWS]
        found.append({bit: shown[bit][1] for bit in largest})
    return found


def _slab(colours: np.ndarray, cut: Cut, patch: Patch, interpolation: str) -> np.ndarray:
    """Colours (Y, X, 3) of one axial slice. "linear" blends between patch centres, within what is coloured only."""
    if interpolation == "nearest":
        return np.swapaxes(colours[:, :, cut.index // patch[2]], 0, 1)
    from scipy.ndimage import distance_transform_edt

    empty = ~colours.any(-1)
    if not empty.all():
        nearest = distance_transform_edt(empty, sampling=patch, return_distances=False, return_indices=True)
        colours = colours[tuple(nearest)]
    grid = colours.shape[:3]
    return np.stack([cut.take(spread(colours[..., c].ravel(), grid, patch=patch, interpolation="linear")) for c in range(3)], -1)


@styled
def pca_maps(
    volume: np.ndarray, maps: Mapping[str, np.ndarray], *, spacing_mm: Sequence[float], patch: Patch, levels: int = 5,
    at: Sequence[int] | None = None, truth: np.ndarray | None = None, names: Mapping[int, str] | None = None,
    interpolation: str = "nearest", window: str = "mediastinal", title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """Rows: the CT, then one encoder each with its PCA colours (gx, gy, gz, 3). Columns: axial slices from below to above.

    Slices are `at` (voxels), by default those that show the lesions of `truth` (X, Y, Z; uint32 bits), or else spread over what is coloured.
    An arrow points at every focal lesion on a slice, in all rows; `names` says what a bit is. "nearest" paints whole patches; "linear" blends
    between their centres within the body's outline, which adds no resolution.
    """
    grid, patch = _grid(volume, patch), tuple(patch)
    views = [Cut("axial", int(z), tuple(spacing_mm), volume.shape) for z in (_levels(maps, grid, patch, levels, truth) if at is None else at)]
    size = views[0].size_mm
    room = {"top": 0.3 if title else EDGE, "left": 0.3, "bottom": caption_inches(caption)}
    page, tiles = mosaic([size[0]] * len(views), [size[1]] * (1 + len(maps)), **room)
    arrows = _arrows(truth, views)
    for row, (name, colours) in zip(tiles, {"CT": None, **maps}.items(), strict=True):
        row[0].text(-0.03, 0.5, name, rotation=90, ha="right", va="center", fontsize=9, transform=row[0].transAxes, parse_math=False)
        for ax, cut, places in zip(row, views, arrows, strict=True):
            if colours is None:
                ct(ax, cut, volume, window)
                corner(ax, position(cut))
                told = dict.fromkeys((names or {}).get(b, "") for b in places)
                said = "\n".join(line for name in told for line in textwrap.wrap(name, 16))
                ax.text(0.985, 0.02, said, color="white", fontsize=5.8, ha="right", va="bottom", transform=ax.transAxes, bbox=SHADE if said else None)
            else:
                _colours(ax, cut, volume, _slab(colours, cut, patch, interpolation), interpolation)
            for place in places.values():
                _arrow(ax, cut, place)
            frame(ax, cut, marks=colours is None, bar=colours is None)
    words(page, title=title, caption=caption, left=0.3)
    return page


def _levels(maps: Mapping[str, np.ndarray], grid, patch: Patch, levels: int, truth: np.ndarray | None) -> list[int]:
    if truth is not None and truth.any():
        return lesion_slices(truth, patch=patch, count=levels)
    coloured = np.stack([m.any(-1) for m in maps.values()]).any(0).any((0, 1))
    usable = np.flatnonzero(coloured) if coloured.any() else np.arange(grid[2])
    slabs = usable[np.unique(np.linspace(0, len(usable) - 1, min(levels, len(usable))).round().astype(int))]
    return [int(s * patch[2] + patch[2] // 2) for s in slabs]


def _colours(ax: Axes, cut: Cut, volume: np.ndarray, slab: np.ndarray, interpolation: str) -> None:
    """A slice of colours, black outside the body where they are blended; organs' borders faint above."""
    width, height = cut.size_mm
    if interpolation == "linear":
        slab = np.where(body_of(cut.take(volume).T).T[..., None], slab, 0.0)
    inside = slab.any(-1, keepdims=True)
    shown = 0.82 * slab + 0.1 * slab.mean(-1, keepdims=True) + 0.08 * inside  # less loud than pure red, green and blue, and never black in the body
    ax.imshow(np.clip(shown, 0, 1), origin="lower", extent=(0, width, 0, height), interpolation="nearest")
    cut.outline(ax, volume > -400, color="#FFFFFF66", width=0.45)


@styled
def sentence_patches(
    rows: Sequence[Mapping], *, spacing_mm: Sequence[float], patch: Patch, window: str = "lung", title: str = "", caption: str = ""
) -> Picture:
    """Sentences two to a line: what each says, its K, and an axial and a coronal slice that show most of the K patches it selects, framed.

    A row holds `sentence`, `similarity` (N,), NaN where nothing can be seen, `k`, `volume` (X, Y, Z) in HU, and where known `truth` (Boolean),
    `note`, `window`. Colour is the similarity, bare below the scan's median; every sentence has its own scale. Raises: ValueError for no rows.
    """
    if not rows:
        raise ValueError("no sentence to show")
    columns = min(2, len(rows))
    axial, coronal = (c.size_mm for c in cuts(rows[0]["volume"], spacing_mm, ("axial", "coronal")))
    widths = [axial[0], coronal[0], 12.0, axial[0], coronal[0]][: 3 * columns - 1]
    tall, width = max(axial[1], coronal[1]), 10.0 if columns == 2 else 5.6
    room = {"top": 0.9 if title else 0.64, "right": 0.5, "rows_gap": 0.66, "bottom": caption_inches(caption, width=width)}
    page, tiles = mosaic(widths, [tall] * -(-len(rows) // columns), width=width, **room)
    pairs = [line[c : c + 2] for line in tiles for c in range(0, 3 * columns, 3)]
    for pair, row in zip(pairs, rows, strict=False):
        _sentence(page, pair, row, spacing_mm, tuple(patch), row.get("window", window))
    for unused in [*tiles[:, 2::3].ravel(), *(ax for pair in pairs[len(rows) :] for ax in pair)]:
        unused.remove()
    _similarity_bar(page, tiles[0, -1])
    words(page, title=title, caption=caption)
    return page


def _sentence(page: Picture, pair: np.ndarray, row: Mapping, spacing_mm: Sequence[float], patch: Patch, window: str) -> None:
    volume, similarity, truth = row["volume"], np.asarray(row["similarity"], float), row.get("truth")
    grid, top = _grid(volume, patch), top_patches(similarity, row["k"])
    painted = spread(np.nan_to_num(similarity, nan=np.nanmin(similarity)), grid, patch=patch, interpolation="linear")
    norm = Normalize(float(np.nanmedian(similarity)), float(np.nanmax(similarity)))
    for ax, plane in zip(pair, ("axial", "coronal"), strict=True):
        cut = _fullest(plane, volume, spacing_mm, top, patch, truth)
        ct(ax, cut, volume, window, dim=1.5)
        cut.show(ax, painted, cmap=SPOT, norm=norm, interpolation="bilinear")
        drawn = cut.boxes(ax, top, grid, patch, linewidth=2.4, edgecolor="black", alpha=0.6)
        cut.boxes(ax, top, grid, patch, linewidth=1.1)
        if truth is not None:
            cut.outline(ax, truth, color=TRUTH[0], width=1.3)
        frame(ax, cut)
        corner(ax, f"{cut.plane}, {position(cut)}")
        corner(ax, f"{drawn} of {len(top)}", where="bottom right")
    _says(page, pair[0], row, similarity.size)


def _fullest(plane: str, volume: np.ndarray, spacing_mm: Sequence[float], top: np.ndarray, patch: Patch, truth: np.ndarray | None) -> Cut:
    """The slice that cuts most of the patches `top` (of equals the one through the best); within its slab, where most of the truth lies."""
    (cut,) = cuts(volume, spacing_mm, (plane,))
    axis = cut.axes[0]
    slab = np.unravel_index(top, _grid(volume, patch))[axis]
    counts = np.bincount(slab)
    chosen = int(slab[0] if counts[slab[0]] == counts.max() else counts.argmax())
    inside = slice(chosen * patch[axis], (chosen + 1) * patch[axis])
    shown = np.zeros(patch[axis]) if truth is None else np.moveaxis(truth, axis, 0)[inside].sum((1, 2))
    within = int(shown.argmax()) if shown.any() else patch[axis] // 2
    return Cut(plane, inside.start + within, tuple(spacing_mm), volume.shape)


def _says(page: Picture, ax: Axes, row: Mapping, patches: int) -> None:
    """K, the sentence and its note above a pair of slices."""
    box, height = ax.get_position(), page.get_size_inches()[1]
    width = page.get_size_inches()[0]
    page.text(box.x0, box.y1 + 0.19 / height, f"K = {row['k']}", fontsize=12, fontweight="bold", va="bottom", color=INK)
    lines = textwrap.wrap(row["sentence"], 66)
    said = "\n".join(lines[:2]) + (" ..." if len(lines) > 2 else "")
    page.text(box.x0 + 0.72 / width, box.y1 + 0.19 / height, f"“{said}”", fontsize=7.5, va="bottom", style="italic", parse_math=False)
    page.text(
        box.x0, box.y1 + 0.04 / height, row.get("note", "") or f"{row['k'] / patches:.1%} of {patches} patches", fontsize=6.8, va="bottom", color=GREY
    )


def _similarity_bar(page: Picture, beside: Axes) -> None:
    from matplotlib.cm import ScalarMappable

    box, width = beside.get_position(), page.get_size_inches()[0]
    place = page.add_axes((box.x1 + 0.06 / width, box.y0 + 0.2 * box.height, 0.08 / width, 0.6 * box.height), facecolor="black")
    bar = page.colorbar(ScalarMappable(Normalize(0, 1), SPOT), cax=place, ticks=[])
    bar.outline.set_linewidth(0.4)
    for y, text, up in ((1.03, "highest", "bottom"), (-0.03, "median", "top")):
        place.text(0, y, text, fontsize=6.5, color=GREY, ha="left", va=up, transform=place.transAxes)
    place.text(1.5, 0.5, "similarity", fontsize=7, rotation=90, ha="left", va="center", transform=place.transAxes)


@styled
def attention_sheet(
    volume: np.ndarray, rows: Mapping[str, Mapping[str, np.ndarray]], *, query: int, spacing_mm: Sequence[float], patch: Patch,
    window: str = "lung", title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """What one patch looks at, many maps at once: a row per encoder, a column per layer or head, on the axial slice through the patch `query`.

    `rows` maps a row's name to its maps (N,) by name, any number of them. The patch that looks is framed on all, and alone on the CT at the left:
    axial and coronal by turns. Colour says how many times its even share, 1 / N, a patch gets: one scale for all maps, bare below an even share.
    A dot marks the patch looked at most, where the slice cuts it. Raises: ValueError for no maps.
    """
    if not rows or not all(rows.values()):
        raise ValueError("no attention to show")
    grid, patch = _grid(volume, patch), tuple(patch)
    at = (np.array(np.unravel_index(query, grid)) * patch + np.array(patch) // 2).tolist()
    axial, coronal = cuts(volume, spacing_mm, ("axial", "coronal"), at=at)
    times = {name: {c: np.asarray(m, float) * np.prod(grid) for c, m in maps.items()} for name, maps in rows.items()}
    norm = Normalize(1.0, max(1.5, float(np.percentile([m for maps in times.values() for m in maps.values()], 99))))
    columns = 1 + max(len(maps) for maps in rows.values())
    room = {"top": 0.3 if title else EDGE, "left": 0.3, "right": 0.55, "bottom": caption_inches(caption)}
    page, tiles = mosaic([axial.size_mm[0]] * columns, [axial.size_mm[1]] * len(rows), **room)
    for number, (line, (name, maps)) in enumerate(zip(tiles, times.items(), strict=True)):
        line[0].text(-0.04, 0.5, name, rotation=90, ha="right", va="center", fontsize=8, transform=line[0].transAxes, parse_math=False)
        for ax, column in zip(line, (None, *maps), strict=False):
            cut = axial if column or number % 2 == 0 else coronal
            ct(ax, cut, volume, window, dim=1.6 if column else 1.0)
            if column:
                _looks(ax, cut, maps[column], grid, patch, norm)
            cut.boxes(ax, [query], grid, patch, linewidth=2.8, edgecolor="black")
            cut.boxes(ax, [query], grid, patch, linewidth=1.5, edgecolor=QUERY)
            frame(ax, cut, marks=not column, bar=not column)
            corner(ax, column or f"{cut.plane}, {position(cut)}")
        for ax in line[1 + len(maps) :]:
            ax.remove()
    _times_bar(page, tiles[0, -1], norm)
    words(page, title=title, caption=caption, left=0.3)
    return page


def _looks(ax: Axes, cut: Cut, times: np.ndarray, grid, patch: Patch, norm: Normalize) -> None:
    painted = spread(times, grid, patch=patch, interpolation="nearest")
    cut.show(ax, painted, cmap=SPOT, norm=norm, interpolation="nearest")
    most = np.unravel_index(int(times.argmax()), grid)
    if most[cut.axes[0]] == cut.index // patch[cut.axes[0]]:
        middle = [(most[a] + 0.5) * patch[a] * cut.spacing_mm[a] for a in cut.axes[1:]]
        ax.plot(*middle, "o", markersize=3, color="white", markeredgecolor="black", markeredgewidth=0.6)


def _times_bar(page: Picture, beside: Axes, norm: Normalize) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    box, width = beside.get_position(), page.get_size_inches()[0]
    place = page.add_axes((box.x1 + 0.06 / width, box.y0 + 0.1 * box.height, 0.08 / width, 0.8 * box.height), facecolor="black")
    bar = page.colorbar(ScalarMappable(norm, SPOT), cax=place, ticks=MaxNLocator(4))
    bar.set_label("times an even share", fontsize=6.5, labelpad=2)
    bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    bar.outline.set_linewidth(0.4)
