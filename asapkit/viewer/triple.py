"""Three planes that follow each other: the viewer's own is axial, two more show coronal and sagittal planes of the same layers.

The layers of the two are twins: the same arrays, and what is changed on one (visible, opacity, contrast ...) changes on all. A click in any of
the three moves the crosshair, which is `dims.point` in world millimetres, and with it the other two. Nothing here needs a display.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from asapkit import planes
from asapkit.viewer.layers import AXES, UNITS, inward

if TYPE_CHECKING:
    import napari.components
    import napari.layers

ORDER = {name: (2 - fixed, 2 - up, 2 - across) for name, (fixed, across, up, _) in planes.PLANES.items()}
"""napari's order of the axes z, y, x: the one that is sliced, then down the screen, then across it."""
LINKED = ("visible", "opacity", "blending", "contrast_limits", "gamma", "colormap", "interpolation2d", "contour")
GAP_MM = 12.0  # around the crossing, so that what lies there is seen
CROSSHAIR = "crosshair"


class Triple:
    """`main` and two further viewer models by plane, linked until `close`."""

    def __init__(self, main: napari.components.ViewerModel):
        from napari.components import ViewerModel

        self.main = main
        self.sides = {name: ViewerModel(title=name) for name in ("coronal", "sagittal")}
        self.views = {"axial": main} | self.sides
        self._twins: dict[napari.layers.Layer, dict[str, napari.layers.Layer]] = {}
        self._moving = False
        for name, view in self.views.items():
            _dress(view, name)
        for layer in main.layers:
            self._add(layer)
        self._draw_crosshair()
        main.layers.events.inserted.connect(self._inserted)
        main.layers.events.removed.connect(self._removed)
        main.layers.events.reordered.connect(self._reorder)
        for view in self.views.values():
            view.dims.events.point.connect(self._moved)
            view.mouse_drag_callbacks.append(clicked)
        self._go(main.dims.point)
        self.fit()

    def close(self) -> None:
        """Unlinks everything. The main viewer keeps its layers but the crosshair; those of the other two stay, since Qt may be ending with them."""
        for event, call in (("inserted", self._inserted), ("removed", self._removed), ("reordered", self._reorder)):
            getattr(self.main.layers.events, event).disconnect(call)
        for view in self.views.values():
            view.dims.events.point.disconnect(self._moved)
            view.mouse_drag_callbacks.remove(clicked)
        for layer in list(self._twins):
            self._unlink(layer)
        if CROSSHAIR in self.main.layers:
            self.main.layers.remove(CROSSHAIR)

    # --- layers

    def _add(self, layer: napari.layers.Layer) -> None:
        self._twins[layer] = {name: view.add_layer(twin(layer, name)) for name, view in self.sides.items()}
        link((layer, *self._twins[layer].values()))
        layer.events.data.connect(self._changed)

    def _unlink(self, layer: napari.layers.Layer) -> dict[str, napari.layers.Layer]:
        from napari.experimental import unlink_layers

        twins = self._twins.pop(layer, {})
        if twins:
            layer.events.data.disconnect(self._changed)
            unlink_layers((layer, *twins.values()))
        return twins

    def _forget(self, layer: napari.layers.Layer) -> None:
        for name, one in self._unlink(layer).items():
            self.sides[name].layers.remove(one)

    def _inserted(self, event) -> None:
        was_empty = not [layer for layer in self._twins if layer.name != CROSSHAIR]
        self._add(event.value)
        for name, view in self.views.items():
            view.dims.order = ORDER[name]  # a viewer that was empty has forgotten it
        if CROSSHAIR not in self.main.layers:
            self._draw_crosshair()
        self._reorder()
        self._go(self.main.dims.point)
        if was_empty:
            self.fit()

    def _removed(self, event) -> None:
        self._forget(event.value)

    def _reorder(self, event=None) -> None:
        for name, view in self.sides.items():
            for place, layer in enumerate(self.main.layers):
                if layer in self._twins and view.layers.index(self._twins[layer][name]) != place:
                    view.layers.move(view.layers.index(self._twins[layer][name]), place)

    def _changed(self, event) -> None:
        """New data of a layer (a painted label, a moved crosshair) for its twins."""
        for one in self._twins.get(event.source, {}).values():
            if type(one).__name__ != "Shapes":  # frames differ from plane to plane
                one.data = event.source.data

    # --- the crosshair

    def _moved(self, event) -> None:
        if not self._moving:
            self._go(event.source.point)

    def _go(self, point) -> None:
        """Every view at this world point z, y, x."""
        self._moving = True
        try:
            for view in self.views.values():
                view.dims.point = tuple(point)
            if CROSSHAIR in self.main.layers:
                self.main.layers[CROSSHAIR].data = cross(point, self.main.dims.range)
        finally:
            self._moving = False

    def _draw_crosshair(self) -> None:
        if not self.main.layers:
            return
        from napari.layers import Vectors

        where = {"scale": (1, 1, 1), "units": UNITS, "axis_labels": AXES}
        look = {"edge_color": "#FFD23F", "edge_width": 0.7, "vector_style": "line", "opacity": 0.55, "metadata": {"role": CROSSHAIR}}
        lines = cross(self.main.dims.point, self.main.dims.range)
        active = self.main.layers.selection.active
        layer = self.main.add_layer(Vectors(lines, ndim=3, name=CROSSHAIR, **where, **look))
        self.main.layers.selection.active = active  # the controls stay those of what is looked at
        if layer not in self._twins:
            self._add(layer)

    def fit(self) -> None:
        """Every plane fills its canvas."""
        for view in self.views.values():
            if view.layers:
                view.fit_to_view(margin=0.02)


def _dress(view: napari.components.ViewerModel, name: str) -> None:
    """Plane, camera, side marks and scale bar of one view."""
    from napari.components.overlays import TextOverlay

    view.dims.ndim = 3
    view.dims.axis_labels = AXES
    view.dims.order = ORDER[name]
    view.scene.camera.orientation2d = ("up", "left")
    view.canvas.overlays.scale_bar.visible = True
    overlays = view.canvas.overlays
    for text, place in zip(planes.PLANES[name][3], ("middle_left", "middle_right", "top_center", "bottom_center"), strict=True):
        overlays[f"side_{place}"] = TextOverlay(text=text, position=place, visible=True, font_size=12, color="white", box=False)


def twin(layer: napari.layers.Layer, plane: str) -> napari.layers.Layer:
    """The same layer for another view: the same array, and for frames those of the plane."""
    from napari.layers import Layer as Made

    data, settings, kind = layer.as_layer_data_tuple()
    data = layer.metadata.get("frames", {}).get(plane, data)
    if kind == "shapes":
        settings = {key: value for key, value in settings.items() if key not in ("z_index", "features")}
        for each in ("shape_type", "edge_color", "face_color", "edge_width"):  # one value for all: planes differ in how many frames there are
            settings[each] = settings[each][0] if len(settings[each]) else settings[each]
        text = dict(settings["text"]) | {"translation": inward(plane) * -settings["text"]["translation"].sum()}
        settings |= {"features": features_in(layer, plane), "text": text}
    made = Made.create(data, settings, kind)
    if kind == "labels":
        made.contour = layer.contour
    return made


def features_in(layer: napari.layers.Layer, plane: str):
    """The rows of a frames layer's table that belong to its frames in a plane."""
    if "owners" not in layer.metadata:
        return layer.features.copy()
    return {name: np.asarray(column)[layer.metadata["owners"][plane]] for name, column in layer.metadata["features"].items()}


def link(layers: tuple[napari.layers.Layer, ...]) -> None:
    """What is changed on one of them changes on all, whichever of `LINKED` their kind has."""
    from napari.experimental import link_layers

    link_layers(layers, [name for name in LINKED if hasattr(layers[0], name) and hasattr(layers[0].events, name)])


def cross(point, ranges) -> np.ndarray:
    """Six lines (6, 2, 3), start and direction, from `GAP_MM` beside a world point z, y, x to the ends of the field."""
    point, lines = np.asarray(point, float), []
    for axis, (low, high, _) in enumerate(ranges):
        for sign, end in ((-1, low), (1, high)):
            length = max(sign * (end - point[axis]) - GAP_MM, 0.0)
            start, along = point.copy(), np.zeros(3)
            start[axis] += sign * GAP_MM
            along[axis] = sign * length
            lines.append((start, along))
    return np.array(lines)


def clicked(viewer, event):
    """A click, not a drag, brings the crosshair under the cursor."""
    dragged = event.button != 1
    yield
    while event.type == "mouse_move":
        dragged = True
        yield
    if not dragged:
        viewer.dims.point = tuple(float(np.clip(at, low, high)) for at, (low, high, _) in zip(event.position, viewer.dims.range, strict=True))
