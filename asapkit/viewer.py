"""napari: a volume of a store with its organs, its truth, and where a sentence is seen. The only file that knows napari and Qt.

Everything is first described as layers (data, settings, kind), which needs neither napari nor a display; `layers` makes a viewer model
of them without a display, `show` a window. Arrays are turned from x, y, z to z, y, x here and nowhere else; every layer has its scale,
its affine and its unit, so that the world is millimetres. The camera shows axial planes as radiologists see them: the patient's right
on the left, anterior up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asapkit import analysis, drawing, planes
from asapkit.types import ORGANS, Refused

if TYPE_CHECKING:
    import napari.components
    import napari.viewer

Layer = tuple[np.ndarray, dict, str]
UNITS, AXES = ("mm",) * 3, ("z", "y", "x")


def placed(affine: np.ndarray) -> dict:
    """napari's placing of an array that was turned to z, y, x: scale (mm per step), the rest of the affine, unit and axis names."""
    turned = np.eye(4)
    turned[:3, :3] = affine[2::-1, 2::-1]
    turned[:3, 3] = affine[2::-1, 3]
    scale = np.sqrt((turned[:3, :3] ** 2).sum(0))
    return {"scale": scale, "affine": turned @ np.diag([*(1 / scale), 1.0]), "units": UNITS, "axis_labels": AXES}


def _zyx(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 1, 0)


def volume_layers(
    ct: np.ndarray, affine: np.ndarray, *, organs: np.ndarray | None = None, truth: np.ndarray | None = None,
    names: Mapping[int, str] | None = None, metadata: Mapping | None = None,
) -> list[Layer]:  # fmt: skip
    """CT in HU, organ outlines by name, and each truth instance (bit) as its own outline, cut to where it lies."""
    where = placed(affine)
    look = {
        "name": "CT, HU",
        "colormap": "gray",
        "contrast_limits": planes.WINDOWS["lung"],
        "interpolation2d": "cubic",
        "metadata": dict(metadata or {}),
    }
    made: list[Layer] = [(_zyx(ct), where | look, "image")]
    if organs is not None:
        colours = {None: "transparent", 0: "transparent"} | {i + 1: c for i, c in enumerate(drawing.ORGANS)}
        known = {"index": range(len(ORGANS) + 1), "organ": ["", *ORGANS]}
        made.append((_zyx(organs), where | {"name": "organs", "colormap": colours, "opacity": 0.7, "features": known}, "labels"))
    joined = int(np.bitwise_or.reduce(truth, axis=None)) if truth is not None else 0
    for count, bit in enumerate(b for b in range(32) if joined >> b & 1):
        inside = (truth >> np.uint32(bit)) & 1
        box = [(hit.min(), hit.max() + 1) for hit in np.nonzero(inside)]
        shifted = affine @ _shift([low for low, _ in box])
        colours = {None: "transparent", 1: drawing.TRUTH[count % len(drawing.TRUTH)]}
        name = f"truth: {(names or {}).get(bit, f'instance {bit}')}"
        part = inside[tuple(slice(*b) for b in box)].astype(np.uint8)
        made.append((_zyx(part), placed(shifted) | {"name": name, "colormap": colours, "opacity": 0.9}, "labels"))
    return made


def _shift(voxels: Sequence[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def sentence_layers(
    similarity: np.ndarray, affine: np.ndarray, *, grid: tuple[int, int, int], patch: tuple[int, int, int], k: int, sentence: str
) -> list[Layer]:
    """Similarity of a sentence per patch as an image, frames around the top k patches on every plane of theirs, and their ranks at their centres.

    `affine` is that of the crop that the encoder saw. Frames and points carry rank, similarity and the centre in world RAS mm.
    """
    size = np.asarray(patch, float)
    where = placed(affine @ _shift((size - 1) / 2) @ np.diag([*size, 1.0]))
    top = analysis.top_patches(similarity, k)
    centres = analysis.patch_centres_mm(grid, patch, affine)[top]
    told = {"rank": np.arange(1, len(top) + 1), "similarity": similarity[top].astype(float)}
    told |= dict(zip(("x_mm", "y_mm", "z_mm"), centres.T, strict=True))
    middle = float(np.nanmedian(similarity))
    limits = middle, max(float(np.nanmax(similarity)), middle + 1e-6)
    z, y, x = np.stack(np.unravel_index(top, grid))[::-1].astype(float)
    frames = np.stack([np.stack([z, y + a, x + b], -1) for a, b in ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))], 1)
    field = _zyx(np.asarray(similarity, np.float32).reshape(grid))
    look = {"name": f"similarity: {sentence}", "colormap": "inferno", "blending": "additive", "opacity": 0.6, "interpolation2d": "nearest"}
    drawn = {"shape_type": "rectangle", "face_color": "transparent", "edge_color": "white", "edge_width": 0.05}
    text = {"string": "{rank}", "color": "white", "size": 10}
    points = {"face_color": "transparent", "border_color": "white", "size": 2.0, "text": text, "visible": False}
    flat = {"scale": np.ones(3), "affine": np.eye(4), "units": UNITS, "axis_labels": AXES}
    return [
        (field, where | look | {"contrast_limits": limits}, "image"),
        (frames, where | drawn | {"name": f"top {len(top)} patches", "features": told}, "shapes"),
        (centres[:, ::-1].copy(), flat | points | {"name": "ranks", "features": told}, "points"),
    ]


def layers(described: Sequence[Layer], *, viewer: napari.components.ViewerModel | None = None) -> napari.components.ViewerModel:
    """Adds described layers to a viewer, by default to a new model that needs no display, and turns the camera the radiologists' way.

    Planes are set to the first top patch if there is one, else to the middle.
    """
    from napari.components import ViewerModel
    from napari.layers import Layer as Made

    viewer = ViewerModel(title="asapkit") if viewer is None else viewer
    for data, settings, kind in described:
        layer = viewer.add_layer(Made.create(data, settings, kind))
        if kind == "labels":
            layer.contour = 1  # outlines: what lies inside stays visible
    viewer.scene.camera.orientation2d = ("up", "left")
    viewer.dims.axis_labels = AXES
    viewer.canvas.overlays.scale_bar.visible = True
    best = [data[0] for data, settings, kind in described if kind == "points"]
    if best:
        viewer.dims.point = tuple(best[-1])
    return viewer


def stored(store, id: str, *, dim: float = 1.0) -> list[Layer]:
    """The layers of one volume of a store: the full field at the contract's spacing; `dim` darkens the CT, so that colours stand out on it.

    Raises: Refused for an unknown volume.
    """
    names = None
    if store.instances is not None:
        rows = store.instances[store.instances["id"] == id]
        names = {int(b): f"{f}, {s}" if s != "none" else f for b, f, s in zip(rows["bit"], rows["finding"], rows["side"], strict=True)}
    metadata = {"store": str(store.root), "id": id}
    described = volume_layers(store.ct(id), store.affine(id), organs=store.organs(id), truth=store.truth(id), names=names, metadata=metadata)
    low, high = planes.WINDOWS["lung"]
    described[0][1]["contrast_limits"] = (low, low + dim * (high - low))
    return described


def found(store, id: str, *, run: str | Path, sentence: str) -> list[Layer]:
    """The layers of a sentence in one volume, by the trained method of a run.

    Raises: Refused for a run that cannot be read, was made under another contract than the store, or aligns no sentences.
    """
    from asapkit import checkpoint, examples

    method = checkpoint.load_method(Path(run))
    if not hasattr(method, "match"):
        raise Refused(f"{run}: its recipe aligns no sentences; give a run of asap or another recipe with `match`")
    encoder, contract = method.encoder, method.encoder.contract
    if contract.hash != store.contract.hash:
        raise Refused(f"{run} was trained under contract {contract.hash}, the store follows {store.contract.hash}; use the store of the same scale")
    hu, affine = store.cropped(id)
    (similarity,), (k,) = examples.matched(method, hu, [sentence], contract=contract, shape=store.layer(id, "ct").shape)
    patch = tuple(c // g for c, g in zip(contract.crop, encoder.grid, strict=True))
    return sentence_layers(similarity, affine, grid=tuple(encoder.grid), patch=patch, k=k, sentence=sentence)


def show(store, id: str, *, run: str | Path | None = None, sentence: str | None = None, wait: bool = True) -> napari.viewer.Viewer:
    """Opens a window on one volume and, given a run and a sentence, where that sentence is seen. Returns when the window is closed.

    Raises: Refused without napari or without a display; ValueError if only one of run and sentence is given.
    """
    described = _described(store, id, run=run, sentence=sentence)
    napari = _napari()
    viewer = layers(described, viewer=napari.Viewer(title=f"asapkit {id}"))
    if wait:
        napari.run()
    return viewer


def screenshot(
    store, id: str, path: str | Path, *, run: str | Path | None = None, sentence: str | None = None, size: tuple[int, int] = (900, 1100)
) -> Path:
    """Writes the canvas of what `show` would show, in a window of `size` (height, width) pixels, as PNG. Needs a display, real or xvfb."""
    described = _described(store, id, run=run, sentence=sentence)
    viewer = _napari().Viewer(title=f"asapkit {id}")  # a window that is never shown draws nothing
    try:
        layers(described, viewer=viewer)
        viewer.window.resize(size[1], size[0])
        viewer.fit_to_view(margin=0.02)
        viewer.screenshot(str(path), canvas_only=True, flash=False)
    finally:
        viewer.close()
    return Path(path)


def _described(store, id: str, *, run: str | Path | None, sentence: str | None) -> list[Layer]:
    if (run is None) != (sentence is None):
        raise ValueError("run and sentence belong together: give both, or neither")
    if sentence is None:
        return stored(store, id)
    return stored(store, id, dim=1.7) + found(store, id, run=run, sentence=sentence)


def _napari():
    """napari, if it and a display are there."""
    try:
        import napari
    except ImportError as error:
        raise Refused("napari is not installed; pip install 'asapkit[view]'") from error
    if os.name == "posix" and os.uname().sysname == "Linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise Refused("no display for napari; start it on a desktop or with `xvfb-run -a`, or use `asapkit look`, which writes pictures")
    return napari


def reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """npe2: reads a store's folder (its first volume) or one <store>/ct/<id>.b2nd; None for anything else."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if paths and all(_located(Path(p)) for p in paths) else None


def read(path: str | list[str]) -> list[Layer]:
    """The layers behind one or several paths that `reader` accepted."""
    from asapkit import store

    made: list[Layer] = []
    for root, id in (_located(Path(p)) for p in ([path] if isinstance(path, str) else path)):
        opened = store.open(root)
        made += stored(opened, id or opened.ids[0])
    return made


def _located(path: Path) -> tuple[Path, str] | None:
    """Store folder and volume id ("" for a whole store) that a path stands for."""
    if (path / "preprocess.json").is_file():
        return path, ""
    if path.suffix == ".b2nd" and (path.parent.parent / "preprocess.json").is_file():
        return path.parent.parent, path.stem
    return None


def find_sentence(viewer: napari.components.ViewerModel, *, run: str | Path, sentence: str) -> None:
    """Matches a sentence with the volume in the viewer by the method of a run, and adds what it found as layers.

    Raises: Refused if no layer comes from a store, or nothing is typed.
    """
    from asapkit import store

    known = [layer.metadata for layer in viewer.layers if "store" in layer.metadata]
    if not known:
        raise Refused("no layer here comes from an asapkit store; open a store's folder or one of its .b2nd files first")
    if not sentence.strip():
        raise Refused("type a sentence, such as: a nodule in the right upper lobe")
    opened = store.open(known[-1]["store"])
    layers(found(opened, known[-1]["id"], run=run, sentence=sentence), viewer=viewer)


def sentence_widget():
    """The plugin's widget in the window last opened: choose a run folder, type a sentence, press the button and see where it is found."""
    import napari
    from magicgui.widgets import Container, FileEdit, LineEdit, PushButton

    run, sentence, button = FileEdit(mode="d", label="run folder"), LineEdit(label="sentence"), PushButton(text="Find")
    viewer = napari.current_viewer()
    button.changed.connect(lambda _: find_sentence(viewer, run=run.value, sentence=sentence.value))
    return Container(widgets=[run, sentence, button])
