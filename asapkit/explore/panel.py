"""The controls that widgets share: three linked planes on one picture, with sliders, millimetres, windows, and clicks on the picture.

Only the standard widgets of Jupyter are used, so that it works in JupyterLab, in VS Code and through SSH with nothing fetched from the web.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

import numpy as np

from asapkit.explore.sheet import Crop, Look, Sheet, png
from asapkit.planes import PLANES

PRESETS = {"lung": "lung", "soft tissue": "mediastinal", "bone": "bone", "full": "full"}  # what is written -> a key of planes.WINDOWS
MANY = 1000  # volumes of which a list is offered; of more, an id is typed
STYLE = """<style>
.asapkit-view {position: relative; width: 100%; overflow: hidden}
.asapkit-view .asapkit-touch {position: absolute; top: 0; bottom: 0; left: 0; right: 0; margin: 0; width: auto; height: auto}
.asapkit-view .asapkit-touch .widget-html-content, .asapkit-view .asapkit-touch .widget-html-content div {width: 100%; height: 100%}
.asapkit-view .asapkit-point {display: none}
.asapkit-sentence {height: auto !important; min-height: 24px; width: auto !important; line-height: 1.3; padding: 3px 8px; text-align: left;
  white-space: normal; flex: none}
.asapkit-note {color: #8A3B00}
.asapkit-patches select {font-family: monospace; white-space: pre}
.asapkit-numbers {min-height: 5.2em}
.asapkit-numbers .widget-html-content, .asapkit-note .widget-html-content {line-height: 1.35}
</style>"""
# A click tells where it fell, as shares of the picture's width and height, through a hidden text field: core widgets know no clicks on pictures.
TOUCH = """<div title="click a plane to move the crosshair" style="cursor: crosshair" onclick="
const r = this.getBoundingClientRect(), field = this.closest('.asapkit-view').querySelector('.asapkit-point input');
field.value = [(event.clientX - r.left) / r.width, (event.clientY - r.top) / r.height, Date.now()].join(' ');
for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}));"></div>"""


class Slices:
    """The picture and its controls; `box` is the widget. `look()` says how to draw; `draw()` again after it has changed.

    `sheet` is None until `show` gave it a volume; `voxel` is where the crosshair stands; `moved` is called after it moved.
    """

    def __init__(self, look: Callable[[], Look], *, moved: Callable[[], None] = lambda: None):
        import ipywidgets

        self.look, self.moved, self.sheet, self.found, self.voxel = look, moved, None, None, (0, 0, 0)
        self._still = False  # while the controls are set from here, they do not answer
        self.picture = ipywidgets.Image(format="png", layout={"width": "100%", "display": "none"})
        touch, self.point = ipywidgets.HTML(TOUCH), ipywidgets.Text()
        self.sliders = {n: ipywidgets.IntSlider(min=0, max=1, description=n, readout=True, layout={"width": "33%"}) for n in PLANES}
        small = {"layout": {"width": "150px"}, "style": {"description_width": "50px"}}
        self.mm = [ipywidgets.FloatText(description=f"{axis}, mm", step=1.0, **small) for axis in "xyz"]
        self.under = ipywidgets.Label()
        view = ipywidgets.Box([self.picture, touch, self.point])
        for widget, name in ((view, "view"), (self.picture, "picture"), (touch, "touch"), (self.point, "point"), (self.under, "under")):
            widget.add_class(f"asapkit-{name}")
        for slider in self.sliders.values():
            slider.add_class("asapkit-slice")
            slider.observe(self._slid, "value")
        for field in self.mm:
            field.observe(self._typed, "value")
        self.point.observe(self._clicked, "value")
        self.box = ipywidgets.VBox(
            [ipywidgets.HTML(STYLE), view, ipywidgets.HBox(list(self.sliders.values())), ipywidgets.HBox([*self.mm, self.under])]
        )

    def show(self, crop: Crop | None, *, voxel=None, found=None) -> None:
        """Another volume, or none; `voxel` is where the crosshair goes, by default it stays where it was in mm, or starts in the middle."""
        if crop is None:
            self.sheet, self.picture.value, self.picture.layout.display, self.under.value = None, b"", "none", ""
            return
        self.found = found
        if self.sheet is None or self.sheet.crop is not crop:
            self.sheet = Sheet(crop)
            voxel = [n // 2 for n in crop.volume.shape] if voxel is None else voxel
            self._still = True
            for name, slider in self.sliders.items():
                slider.max = crop.volume.shape[PLANES[name][0]] - 1
            self._still = False
        self.move(self.voxel if voxel is None else voxel)

    def move(self, voxel) -> None:
        """The crosshair to a voxel, and everything with it."""
        if self.sheet is None:
            return
        self.voxel = tuple(int(v) for v in np.clip(voxel, 0, np.array(self.sheet.crop.volume.shape) - 1))
        self._still = True
        for name, slider in self.sliders.items():
            slider.value = self.voxel[PLANES[name][0]]
        for field, at in zip(self.mm, self.sheet.crop.world(self.voxel), strict=True):
            field.value = round(float(at), 1)
        self._still = False
        self.under.value = self.sheet.crop.told(self.voxel)
        self.draw()
        self.moved()

    def draw(self) -> None:
        if self.sheet is not None:
            self.picture.value = png(self.sheet.image(self.voxel, self.look(), found=self.found))
            self.picture.layout.display = ""

    def _slid(self, _) -> None:
        if not self._still:
            at = {PLANES[name][0]: slider.value for name, slider in self.sliders.items()}
            self.move([at[axis] for axis in range(3)])

    def _typed(self, _) -> None:
        if not self._still and self.sheet is not None:
            self.move(self.sheet.crop.voxel([field.value for field in self.mm]))

    def _clicked(self, change) -> None:
        """A point of the picture: two shares, and the time, so that the same point can be clicked twice."""
        try:
            across, down = (float(share) for share in change["new"].split()[:2])
        except ValueError:
            return
        if self.sheet is not None:
            point = across * self.sheet.width, down * self.sheet.height(self.voxel, self.look(), self.found)
            if (voxel := self.sheet.voxel_at(point, self.voxel)) is not None:
                self.move(voxel)


class Report:
    """A report's sentences as buttons; `box` is the widget. `chosen(sentence)` is called at a click."""

    def __init__(self, chosen: Callable[[str], None], *, height: str = "440px"):
        import ipywidgets

        self.chosen, self.buttons = chosen, {}
        self.box = ipywidgets.VBox(layout={"max_height": height, "overflow": "auto", "width": "100%"})

    def fill(self, parts: Iterable[tuple[str, Iterable[tuple[str, bool]]]]) -> None:
        """parts: name of a section and its sentences, each with whether its truth is known (marked by an icon)."""
        import ipywidgets

        self.buttons, rows = {}, []
        for section, sentences in parts:
            rows.append(ipywidgets.HTML(f"<b>{escape(section)}</b>"))
            for sentence, known in sentences:
                button = ipywidgets.Button(description=sentence, icon="crosshairs" if known else "", tooltip=sentence)
                button.add_class("asapkit-sentence")
                button.on_click(lambda b: self.chosen(b.description))
                rows.append(button)
                self.buttons.setdefault(sentence, []).append(button)
        self.box.children = rows

    def highlight(self, sentence: str) -> None:
        """Shows which sentence is looked at; none for any other text."""
        for text, buttons in self.buttons.items():
            for button in buttons:
                button.button_style = "info" if text == sentence else ""


def report_of(store, id: str) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Sections of a volume's report that hold sentences: name, and sentences with whether the truth of each is known."""
    from asapkit.examples import sentences_of

    parts = []
    for section in ("findings", "impression"):
        said = sentences_of(store, id, section=section)
        if len(said):
            parts.append((section, [(str(s), bool(b)) for s, b in zip(said["sentence"], said["bits"], strict=True)]))
    return parts


def chooser(store, id: str):
    """A widget whose value is a volume's id: a list, or for large stores and unknown ids a field to type into."""
    import ipywidgets

    if id in store and len(store) <= MANY:
        return ipywidgets.Dropdown(options=store.ids, value=id, description="volume")
    return ipywidgets.Combobox(options=store.ids[:MANY], value=id, description="volume", continuous_update=False)


def note():
    """A widget for one line of what went wrong, or is to be known."""
    import ipywidgets

    line = ipywidgets.HTML()
    line.add_class("asapkit-note")
    return line


def windows():
    """A widget whose value is a key of `planes.WINDOWS`."""
    import ipywidgets

    buttons = ipywidgets.ToggleButtons(options=list(PRESETS.items()), value="lung", tooltips=["window"] * len(PRESETS))
    buttons.style.button_width, buttons.layout.width = "90px", "auto"
    buttons.add_class("asapkit-window")
    return buttons
