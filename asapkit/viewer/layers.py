"""Layers described as (data, settings, kind), which needs neither napari nor a display, and a viewer model made of them.

Arrays are turned from x, y, z to z, y, x here and nowhere else; every layer has its scale, its affine and its unit, so that the world is
millimetres. The camera shows planes as radiologists see them: the patient's right on the left, anterior or superior up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps

from asapkit import analysis, drawing, overlays, planes
from asapkit.types import ORGANS

if TYPE_CHECKING:
    import napari.components

Layer = tuple[np.ndarray | list[np.ndarray], dict, str]
"""data, settings, kind: what napari calls a layer data tuple."""
Grid = tuple[int, int, int]
UNITS, AXES = ("mm",) * 3, ("z", "y", "x")
SPOT = {"name": "spot", "colors": overlays.SPOT(np.linspace(0, 1, 64))}
COOL = {"name": "cool spot", "colors": np.c_[colormaps["viridis"](np.linspace(0.15, 1, 64))[:, :3], np.linspace(0, 1, 64) ** 0.7 * 0.85]}
"""Maps over CT: the lower end is transparent, so that anatomy stays visible."""
LABELLED = 10  # frames that say rank and similarity; more would hide the scan


def placed(affine: np.ndarray) -> dict:
    """napari's placing of an array that was turned to z, y, x: scale (mm per step), the rest of the affine, unit and axis names."""
    turned = np.eye(4)
    turned[:3, :3] = affine[2::-1, 2::-1]
    turned[:3, 3] = affine[2::-1, 3]
    scale = np.sqrt((turned[:3, :3] ** 2).sum(0))
    return {"scale": scale, "affine": turned @ np.diag([*(1 / scale), 1.0]), "units": UNITS, "axis_labels": AXES}


def zyx(array: np.ndarray) -> np.ndarray:
    """x, y, z turned to napari's z, y, x; a view."""
    return array.transpose(2, 1, 0)


def volume_layers(
    ct: np.ndarray, affine: np.ndarray, *, organs: np.ndarray | None = None, truth: np.ndarray | None = None,
    names: Mapping[int, str] | None = None, metadata: Mapping | None = None,
) -> list[Layer]:  # fmt: skip
    """CT in HU, organ outlines by name, and the truth's instances (bits) as outlines."""
    where = placed(affine)
    look = {"name": "CT, HU", "colormap": "gray", "contrast_limits": planes.WINDOWS["lung"], "interpolation2d": "cubic"}
    made: list[Layer] = [(zyx(ct), where | look | {"metadata": {"role": "ct", **(metadata or {})}}, "image")]
    if organs is not None:
        colours = {None: "transparent", 0: "transparent"} | {i + 1: c for i, c in enumerate(drawing.ORGANS)}
        known = {"index": range(len(ORGANS) + 1), "organ": ["", *ORGANS]}
        look = {"name": "organs", "colormap": colours, "opacity": 0.7, "features": known, "metadata": {"role": "organs"}}
        made.append((zyx(organs), where | look, "labels"))
    if truth is not None and truth.any():
        made += truth_layers(truth, affine, names=names or {})
    return made


def truth_layers(truth: np.ndarray, affine: np.ndarray, *, names: Mapping[int, str]) -> list[Layer]:
    """Instances of findings (bits) as outlines, in as few layers as overlapping ones allow, cut to where any lies.

    A label's feature `finding` is its instance's name, which napari shows under the cursor.
    """
    box = [(hit.min(), hit.max() + 1) for hit in np.nonzero(truth)]
    part, where = truth[tuple(slice(*b) for b in box)], placed(affine @ shift([low for low, _ in box]))
    packed: list[tuple[np.ndarray, dict[int, str]]] = []
    for number, bit in enumerate(planes.bits_of(truth), start=1):
        inside = (part >> np.uint32(bit)) & 1 > 0
        free = next((one for one in packed if not one[0][inside].any()), None)
        if free is None:
            free = np.zeros(part.shape, np.uint8), {}
            packed.append(free)
        free[0][inside] = number
        free[1][number] = names.get(bit, f"instance {bit}")
    made = []
    for count, (labels, said) in enumerate(packed, start=1):
        colours = {None: "transparent", 0: "transparent"} | {n: drawing.TRUTH[(n - 1) % len(drawing.TRUTH)] for n in said}
        look = {"name": "truth" if count == 1 else f"truth {count}", "colormap": colours, "opacity": 0.9, "metadata": {"role": "truth"}}
        known = {"index": [0, *said], "finding": ["", *said.values()]}
        made.append((zyx(labels), where | look | {"features": known}, "labels"))
    return made


def shift(voxels: Sequence[float]) -> np.ndarray:
    """(4, 4): moves by these voxels."""
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def _on_patches(patch: Grid, affine: np.ndarray) -> np.ndarray:
    """(4, 4): index of a patch -> world mm of its centre, where `affine` is that of the crop the encoder saw."""
    size = np.asarray(patch, float)
    return affine @ shift((size - 1) / 2) @ np.diag([*size, 1.0])


def frames(chosen: np.ndarray, grid: Grid, *, plane: str = "axial") -> np.ndarray:
    """Corners (K, 4, 3) in patch indices z, y, x of a rectangle around each chosen patch, lying in its middle plane of that name.

    napari draws a rectangle on the planes that its own plane rounds to: every slice of the patch.
    """
    fixed = 2 - planes.PLANES[plane][0]
    first, second = (axis for axis in range(3) if axis != fixed)
    middle = np.stack(np.unravel_index(np.asarray(chosen, int), grid)[::-1], -1).astype(float)
    corners = np.repeat(middle[:, None], 4, axis=1)
    for number, (a, b) in enumerate(((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))):
        corners[:, number, first] += a
        corners[:, number, second] += b
    return corners


def inward(plane: str) -> np.ndarray:
    """By how many patches z, y, x a frame's writing, which ends at its left edge on the screen, has to move to end at its right one."""
    moved = np.zeros(3)
    moved[2 - planes.PLANES[plane][1]] = -1.0
    return moved


def _framed(chosen: np.ndarray, grid: Grid, *, where: Mapping, name: str, colour: str, role: str, features: Mapping, text: str = "") -> Layer:
    """Frames around patches as a shapes layer; its metadata holds those of each plane, for the linked views."""
    drawn = {"shape_type": "rectangle", "face_color": "transparent", "edge_color": colour, "edge_width": 0.05, "features": dict(features)}
    if text:
        drawn["text"] = {"string": text, "color": "black", "size": 8, "anchor": "lower_right", "translation": inward("axial")}
    held = {"role": role, "frames": {plane: frames(chosen, grid, plane=plane) for plane in planes.PLANES}}
    return held["frames"]["axial"], {**where, **drawn, "name": name, "metadata": held}, "shapes"


def sentence_layers(
    similarity: np.ndarray, affine: np.ndarray, *, grid: Grid, patch: Grid, k: int, sentence: str
) -> list[Layer]:  # fmt: skip
    """Similarity of a sentence per patch as an image, frames around the top k patches on every plane of theirs, and their ranks at their centres.

    `affine` is that of the crop that the encoder saw. Frames and points carry rank, similarity and the centre in world RAS mm; the first ten
    frames say rank and similarity.
    """
    where = placed(_on_patches(patch, affine))
    top = analysis.top_patches(similarity, k)
    centres = analysis.patch_centres_mm(grid, patch, affine)[top]
    told = {"rank": np.arange(1, len(top) + 1), "similarity": similarity[top].astype(float)}
    told |= dict(zip(("x_mm", "y_mm", "z_mm"), centres.T, strict=True))
    said = [f"{rank}: {value:.2f}" if rank <= LABELLED else "" for rank, value in zip(told["rank"], told["similarity"], strict=True)]
    middle = float(np.nanmedian(similarity))
    limits = middle, max(float(np.nanmax(similarity)), middle + 1e-6)
    field = zyx(np.asarray(similarity, np.float32).reshape(grid))
    look = {"name": f"similarity: {sentence}", "colormap": SPOT, "opacity": 0.65, "interpolation2d": "nearest"}
    points = {"face_color": "transparent", "border_color": "white", "size": 2.0, "visible": False, "metadata": {"role": "sentence"}}
    flat = {"scale": np.ones(3), "affine": np.eye(4), "units": UNITS, "axis_labels": AXES}
    named = {"name": f"top {len(top)} patches", "colour": "white", "role": "sentence", "features": told | {"label": said}, "text": "{label}"}
    return [
        (field, where | look | {"contrast_limits": limits, "metadata": {"role": "sentence"}}, "image"),
        _framed(top, grid, where=where, **named),
        (centres[:, ::-1].copy(), flat | points | {"name": "ranks", "features": told}, "points"),
    ]


def attention_layers(attention: np.ndarray, affine: np.ndarray, *, grid: Grid, patch: Grid, asked: int, name: str) -> list[Layer]:
    """How much the patch `asked` looks at every patch, (N,), as an image, and a frame around that patch."""
    where = placed(_on_patches(patch, affine))
    field = zyx(np.asarray(attention, np.float32).reshape(grid))
    limits = 0.0, max(float(np.percentile(attention, 99.5)), 1e-9)
    look = {"name": f"attention: {name}", "colormap": COOL, "opacity": 0.65, "interpolation2d": "nearest"}
    centre = analysis.patch_centres_mm(grid, patch, affine)[[asked]]
    told = {"patch": [asked]} | dict(zip(("x_mm", "y_mm", "z_mm"), centre.T, strict=True))
    return [
        (field, where | look | {"contrast_limits": limits, "metadata": {"role": "attention"}}, "image"),
        _framed(np.array([asked]), grid, where=where, name="patch that looks", colour=drawing.TRUTH[0], role="attention", features=told),
    ]


def colour_layers(colours: np.ndarray, affine: np.ndarray, *, patch: Grid, name: str) -> list[Layer]:
    """Patch features as colours (gx, gy, gz, 3) in [0, 1]: the first three principal components as red, green, blue."""
    look = {"name": name, "rgb": True, "opacity": 0.6, "interpolation2d": "nearest", "metadata": {"role": "colours"}}
    return [(colours.transpose(2, 1, 0, 3).astype(np.float32), placed(_on_patches(patch, affine)) | look, "image")]


def layers(described: Sequence[Layer], *, viewer: napari.components.ViewerModel | None = None) -> napari.components.ViewerModel:
    """Adds described layers to a viewer, by default to a new model that needs no display, and turns the camera the radiologists' way.

    Planes are set to the first top patch if there is one; with a CT, to its middle.
    """
    from napari.components import ViewerModel
    from napari.layers import Layer as Made

    viewer = ViewerModel(title="asapkit") if viewer is None else viewer
    for data, settings, kind in described:
        layer = viewer.add_layer(Made.create(data, dict(settings), kind))
        if kind == "labels":
            layer.contour = 1  # outlines: what lies inside stays visible
    viewer.scene.camera.orientation2d = ("up", "left")
    viewer.dims.axis_labels = AXES
    viewer.canvas.overlays.scale_bar.visible = True
    best = [data[0] for data, settings, kind in described if kind == "points" and len(data)]
    if best:
        viewer.dims.point = tuple(best[-1])
    shown = [layer for layer in viewer.layers if layer.metadata.get("role") == "ct"]
    if shown:
        viewer.layers.selection.active = shown[-1]  # its window is what the controls should offer
    return viewer
