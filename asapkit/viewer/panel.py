"""The dock widget: which volume, which run, which sentence; buttons for features, attention, planes and export. What goes wrong is said in it.

It holds no logic: every control calls one action of the `Bench`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from weakref import ref

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, Label, LineEdit, PushButton, Select
from qtpy.QtCore import Qt

from asapkit.types import Refused
from asapkit.viewer import sources, window
from asapkit.viewer.bench import Bench

log = logging.getLogger(__name__)
OPEN: list[ref] = []
"""The panels there are, for what is dropped into their windows."""
CROSSHAIR, BEST = "under the crosshair", "best for the sentence"
MEAN, LAST = "mean", "last"


def of(viewer) -> Panel | None:
    """The panel last opened in a viewer's window."""
    shown = [panel for held in OPEN if (panel := held()) is not None and _itself(panel.bench.viewer) is _itself(viewer)]
    return shown[-1] if shown else None


def _itself(viewer):
    """The viewer behind the proxy that napari hands to plugins."""
    return getattr(viewer, "__wrapped__", viewer)


class Panel(Container):
    """Needs a Qt application; `bench` does the work."""

    def __init__(self, viewer):
        self.bench = Bench(viewer)
        self._listed: list[tuple[str, str]] = []
        self.volume = ComboBox(label="volume", choices=self._volumes)
        self.folder = FileEdit(mode="d", label="runs", tooltip="a run folder, or a folder of runs")
        self.run = ComboBox(label="run", choices=lambda _: self._listed, nullable=True)
        self.said = Select(label="report", choices=lambda _: self.bench.sentences, tooltip="sentences of the volume's report; click one to find it")
        self.typed = LineEdit(label="sentence", tooltip="any sentence; press Enter")
        self.find = PushButton(text="Find the sentence")
        self.colours = PushButton(text="Features as colours (PCA)")
        self.patch = ComboBox(label="patch", choices=[CROSSHAIR, BEST])
        self.layer = ComboBox(label="layer", choices=lambda _: [LAST, *self._numbers("depth")])
        self.head = ComboBox(label="head", choices=lambda _: [MEAN, *self._numbers("heads")])
        self.follow = CheckBox(text="follow the crosshair")
        self.attend = PushButton(text="Attention of a patch")
        self.planes = PushButton(text="Three planes")
        self.target = FileEdit(mode="w", label="map", filter="*.nii.gz", tooltip="a NIfTI on the scan's own voxel grid")
        self.export = PushButton(text="Export similarity")
        self.message = Label(value="")
        super().__init__(widgets=[
            self.volume, self.folder, self.run, self.said, self.typed, self.find, self.colours, self.patch, self.layer, self.head, self.follow,
            self.attend, self.planes, self.target, self.export, self.message,
        ])  # fmt: skip
        self.message.native.setWordWrap(True)
        self.said.native.setMinimumHeight(180)
        self.said.native.setWordWrap(True)  # a report's sentences are longer than the panel is wide
        self.said.native.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._busy = False
        self._wire(viewer)
        OPEN.append(ref(self))
        self.refresh()
        for layer in viewer.layers:
            if "run" in layer.metadata:
                self.take_run(layer.metadata["run"])

    def _wire(self, viewer) -> None:
        self.volume.changed.connect(lambda id: id and self._do(lambda: self._volume(id)))
        self.folder.changed.connect(lambda path: self._do(lambda: self._runs(Path(path))))
        self.run.changed.connect(lambda path: path and self._do(lambda: self._run(Path(path))))
        self.said.changed.connect(lambda chosen: chosen and self._say(chosen[-1]))
        self.typed.native.returnPressed.connect(lambda: self._do(self._find))
        self.find.changed.connect(lambda _: self._do(self._find))
        self.colours.changed.connect(lambda _: self._do(self._colours))
        self.attend.changed.connect(lambda _: self._do(self._attend))
        self.planes.changed.connect(lambda _: self._do(lambda: window.three_planes(viewer)))
        self.export.changed.connect(lambda _: self._do(lambda: f"written: {self.bench.export(self.target.value)}"))
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.dims.events.point.connect(self._moved)

    # --- what the controls do

    def _do(self, action: Callable[[], str | None]) -> None:
        """Runs an action; its answer, or why it cannot be done, is the panel's message."""
        if self._busy:
            return
        self._busy, self.message.value = True, ""
        try:
            self.message.value = action() or ""
        except (Refused, ValueError, LookupError, OSError, RuntimeError) as error:
            log.debug("refused in the panel: %s", type(error).__name__)
            self.message.value = " ".join(str(error).split())
        finally:
            self._busy = False

    def take_run(self, path: Path | str) -> None:
        """Chooses a run that was dropped into the window; without a volume, opens the store that it was trained on."""
        self._do(lambda: self._taken(Path(path)))

    def _taken(self, path: Path) -> str:
        self.bench.choose_run(path)
        self._list_runs(path)
        if self.bench.volume is None:
            self.bench.open(path)
        self.refresh()
        return self._told()

    def _volume(self, id: str) -> None:
        self.bench.choose_volume(id)
        self.refresh()

    def _runs(self, folder: Path) -> str | None:
        if not folder.is_dir():
            return None  # still being typed
        listed = self._list_runs(folder)
        if not listed:
            raise Refused(f"{folder.name}: no run folder here; choose one that `asapkit pretrain` wrote, or the folder that holds them")
        return self._run(folder if folder in listed else listed[0])

    def _list_runs(self, folder: Path) -> list[Path]:
        listed = sources.runs_beside(folder)
        self._listed = [(path.name, str(path)) for path in listed]
        self.run.reset_choices()
        return listed

    def _run(self, path: Path) -> str:
        self.bench.choose_run(path)
        self.refresh()
        return self._told()

    def _told(self) -> str:
        """Says at once what would fail at the first question."""
        run = self.bench.run
        if self.bench.volume is not None:
            _ = self.bench.field
        return f"run {run.path.name}" if hasattr(run.method, "match") else f"run {run.path.name}: aligns no sentences; features and attention only"

    def _say(self, sentence: str) -> None:
        self.typed.value = sentence
        self.typed.native.setCursorPosition(0)  # its beginning is what tells it apart
        self._do(self._find)

    def ask(self, sentence: str) -> None:
        """Types a sentence and finds it."""
        self._say(sentence)

    def _find(self) -> str:
        found = self.bench.find(self.typed.value)
        self.patch.value = BEST
        return f"{found.k} of {len(found.similarity)} patches selected"

    def _colours(self) -> str:
        shares = self.bench.colours()
        return "red, green, blue carry " + ", ".join(f"{share:.0%}" for share in shares) + " of the variance"

    def _attend(self) -> str:
        asked = self.bench.patch_at_crosshair() if self.patch.value == CROSSHAIR else self.bench.patch_asked()
        layer = -1 if self.layer.value == LAST else int(self.layer.value) - 1
        head = None if self.head.value == MEAN else int(self.head.value) - 1
        return f"attention of patch {self.bench.attend(patch=asked, layer=layer, head=head)} (outlined)"

    def _moved(self, event) -> None:
        if self.follow.value and self.patch.value == CROSSHAIR and self.bench.run is not None and self.bench.volume is not None:
            self._do(self._attend)

    def _inserted(self, event) -> None:
        if not self._busy and event.value.metadata.get("role") == "ct":
            self._do(self._adopted)

    def _adopted(self) -> str | None:
        if self.bench.adopt():
            self.refresh()
        return self._told() if self.bench.run is not None else None

    def _volumes(self, _) -> list[str]:
        return [] if self.bench.volume is None else self.bench.volume.ids

    def _numbers(self, field: str) -> list[str]:
        """1 to the encoder's depth or heads; none for an encoder that has no such thing."""
        config = getattr(getattr(self.bench.run, "encoder", None), "config", None)
        return [str(n + 1) for n in range(getattr(config, field, 0))]

    def refresh(self) -> None:
        """The choices that there are for the volume and the run at hand."""
        busy, self._busy = self._busy, True
        try:
            self.reset_choices()
            if self.bench.volume is not None:
                self.volume.value = self.bench.volume.name
            if self.bench.run is not None and str(self.bench.run.path) in self.run.choices:
                self.run.value = str(self.bench.run.path)
        finally:
            self._busy = busy


def dock():
    """npe2: the panel for the window in front."""
    import napari

    return Panel(napari.current_viewer())
