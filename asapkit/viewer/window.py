"""Windows: open one, give it the panel and three planes, photograph it. Everything that needs Qt and a display, but for the panel itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from asapkit.store import Store
from asapkit.types import Refused
from asapkit.viewer import sources
from asapkit.viewer.bench import Bench
from asapkit.viewer.triple import Triple

if TYPE_CHECKING:
    import napari.viewer

PROBE = "from qtpy.QtGui import QGuiApplication; QGuiApplication([])"
SIDES = "coronal and sagittal"
PANEL_WIDTH, LISTS_WIDTH = 300, 310  # pixels; of the rest the axial canvas gets three fifths
_PLANES: WeakKeyDictionary = WeakKeyDictionary()  # Qt window -> its Triple


def show(
    what: Store | str | Path, id: str = "", *, run: str | Path | None = None, sentence: str | None = None, wait: bool = True
) -> napari.viewer.Viewer:  # fmt: skip
    """Opens a window with panel and three planes on a store's volume (by default its first), a scan, or the store that a run was trained on.

    Given a run and a sentence, shows where it is seen. Returns when the window is closed, or at once without `wait`.

    Raises: Refused without napari or a display, and for what cannot be read or does not fit; ValueError for a sentence without a run.
    """
    prepared = _prepared(what, id, run=run, sentence=sentence)
    napari = _napari()
    viewer = napari.Viewer(title="asapkit")
    try:
        _fitted(_furnish(viewer, prepared, sentence=sentence))
    except Exception:
        viewer.close()
        raise
    if wait:
        napari.run()
    return viewer


def screenshot(
    what: Store | str | Path, id: str = "", *, path: str | Path, run: str | Path | None = None, sentence: str | None = None,
    size: tuple[int, int] = (1000, 1600), canvas_only: bool = False,
) -> Path:  # fmt: skip
    """Writes what `show` would show, in a window of `size` (height, width) pixels, as PNG: all of it, or the axial canvas alone."""
    prepared = _prepared(what, id, run=run, sentence=sentence)
    viewer = _napari().Viewer(title="asapkit")  # a window that is never shown draws nothing
    try:
        viewer.window.resize(size[1], size[0])
        _fitted(_furnish(viewer, prepared, sentence=sentence))
        _settle()
        viewer.screenshot(str(path), canvas_only=canvas_only, flash=False)
    finally:
        viewer.close()
    return Path(path)


def _prepared(what, id: str, *, run, sentence: str | None) -> tuple:
    """Volume and run, read and held against each other before a window is opened."""
    if sentence is not None and run is None and not (isinstance(what, str | Path) and sources.is_run(Path(what))):
        raise ValueError("a sentence needs a run, the run folder of the method that matches it")
    volume = sources.stored(what, id) if isinstance(what, Store) else sources.opened(what, id)
    if run is None and not isinstance(what, Store) and sources.is_run(Path(what)):
        run = what
    chosen = None if run is None else sources.loaded(run)
    if chosen is not None and sentence is not None:
        chosen.aligning()
        volume.field(chosen.encoder.contract, run=chosen.path.name)
    return volume, chosen


def _furnish(viewer, prepared: tuple, *, sentence: str | None) -> Triple:
    from asapkit.viewer.panel import Panel

    volume, run = prepared
    bench = Bench(viewer)
    bench.run = run
    bench.show(volume)
    panel = Panel(viewer)
    if run is not None:
        panel.take_run(run.path)
    triple = three_planes(viewer)
    dock = viewer.window.add_dock_widget(panel, name="asapkit", area="right")
    _settle()  # sizes are known from here on
    _beside(viewer.window, dock)
    if sentence is not None:
        panel.ask(sentence)
    return triple


def three_planes(viewer) -> Triple:
    """Coronal and sagittal planes beside the viewer's own, in a dock of their own; what is there already is kept."""
    from napari.qt import QtViewer
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QSplitter

    window = viewer.window
    if window in _PLANES and SIDES in window.dock_widgets:
        return _PLANES[window]
    _unlink(window)
    triple = _PLANES[window] = Triple(viewer)
    splitter = QSplitter(Qt.Orientation.Vertical)
    for model in triple.sides.values():
        side = QtViewer(model)
        side.setAcceptDrops(False)  # what is dropped belongs into the main canvas
        side.dims.hide()
        splitter.addWidget(side)
    splitter.setMinimumWidth(300)
    dock = window.add_dock_widget(splitter, name=SIDES, area="right", add_vertical_stretch=False)
    dock.destroyed.connect(lambda: _PLANES.get(window) is triple and _unlink(window))
    return triple


def _unlink(window) -> None:
    """After the dock of the further planes was closed."""
    if window in _PLANES:
        _PLANES.pop(window).close()


def _beside(window, panel) -> None:
    """The planes next to the canvas, the panel to their right, not below."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QDockWidget, QMainWindow

    frame = panel
    while not isinstance(frame, QMainWindow):
        frame = frame.parent()
    for sides in [dock for dock in frame.findChildren(QDockWidget) if dock.objectName() == SIDES]:
        frame.splitDockWidget(sides, panel, Qt.Orientation.Horizontal)
        free = frame.width() - PANEL_WIDTH - LISTS_WIDTH
        frame.resizeDocks([sides, panel], [int(0.4 * free), PANEL_WIDTH], Qt.Orientation.Horizontal)


def _settle() -> None:
    """Lets Qt lay out and draw what was asked for."""
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()


def _fitted(triple: Triple) -> None:
    """Planes fill their canvases, whose size is known only once Qt has laid them out."""
    _settle()
    triple.fit()


def _napari():
    """napari, if it and a display are there.  Raises: Refused, one line, else."""
    try:
        import napari
    except ImportError as error:
        raise Refused("napari is not installed; pip install 'asapkit[view]'") from error
    instead = "start it on a desktop or with `xvfb-run -a`, or use `asapkit look`, which writes pictures"
    if os.name == "posix" and os.uname().sysname == "Linux":
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise Refused(f"no display for napari; {instead}")
        if os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal"):
            raise Refused(f"QT_QPA_PLATFORM={os.environ['QT_QPA_PLATFORM']} cannot draw napari's canvas; unset it, then {instead}")
        if not _qt_starts():
            raise Refused(f"Qt cannot open a window on display {os.environ.get('DISPLAY') or os.environ['WAYLAND_DISPLAY']}; {instead}")
    return napari


def _qt_starts() -> bool:
    """Tried in a process of its own, since Qt ends the one in which it finds no display or lacks a library."""
    from qtpy.QtWidgets import QApplication

    if QApplication.instance() is not None:
        return True
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False, timeout=60).returncode == 0
