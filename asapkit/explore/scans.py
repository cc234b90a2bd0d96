"""Leaf through a store's scans: three linked planes, organs, findings, and the report beside them."""

from __future__ import annotations

from html import escape

from asapkit import examples
from asapkit.explore import layers
from asapkit.explore.answers import evidence_voxel, stated
from asapkit.explore.panel import Report, Slices, chooser, note, report_of, windows
from asapkit.explore.sheet import Look, Sheet, crop_of
from asapkit.types import Refused

NO_REPORT = "no report: this volume has no sentence to click"


def scan_view(
    store, id: str, *, at_mm=None, window: str = "lung", organs: bool = True, findings: bool = False, sentence: str = "",
):  # fmt: skip
    """Three planes of a volume through `at_mm` (world RAS mm; default the middle of the crop), as a PIL image, which Jupyter shows.

    sentence: one of the volume's own report: where its truth is known, the planes go through its evidence and only that is outlined.
    Raises: ValueError for an unknown window; Refused for an unknown volume.
    """
    crop = crop_of(store, id)
    bits = stated(store, id, sentence) if sentence else 0
    voxel = [n // 2 for n in crop.volume.shape]
    if at_mm is not None:
        voxel = crop.voxel(at_mm)
    elif bits:
        voxel = _evidence(crop, bits) or voxel
    page = Sheet(crop).image(voxel, Look(window, organs, findings, bits))
    return layers.titled(page, id, *([f"“{sentence}”"] if sentence else []))


def _evidence(crop, bits: int):
    inside = (crop.truth & bits) != 0
    return evidence_voxel(inside) if inside.any() else None


def browse(store, *, id: str = ""):
    """A widget to look at volumes: three linked planes with a crosshair in mm, windows, organs, findings, and the report's sentences to click.

    A click on a plane moves the crosshair; a click on a sentence whose truth is known moves it to the evidence and outlines only that. Needs
    ipywidgets only. Its static twin is `scan_view`. What cannot be shown says why inside the widget.
    """
    import ipywidgets

    volume, window, told = chooser(store, id or examples.first(store)), windows(), note()
    organs = ipywidgets.Checkbox(value=True, description="organs", indent=False, layout={"width": "90px"})
    findings = ipywidgets.Checkbox(value=False, description="findings", indent=False, layout={"width": "90px"})
    now = {"sentence": "", "bits": 0}
    slices = Slices(lambda: Look(window.value, organs.value, findings.value, now["bits"]))

    def choose(sentence: str) -> None:
        """Looks at a sentence, or away from it if it was looked at."""
        sentence = "" if sentence == now["sentence"] else sentence
        now.update(sentence=sentence, bits=stated(store, volume.value, sentence) if sentence else 0)
        report.highlight(sentence)
        voxel = _evidence(slices.sheet.crop, now["bits"]) if now["bits"] else None
        told.value = ""
        if sentence and not now["bits"]:
            told.value = "No voxels are known for this sentence: it denies something, or this scan has no truth."
        elif now["bits"] and voxel is None:
            told.value = "The evidence of this sentence lies outside the crop that is shown."
        slices.move(voxel or slices.voxel)

    def open_volume(_=None) -> None:
        now.update(sentence="", bits=0)
        try:
            crop, parts = crop_of(store, volume.value), report_of(store, volume.value)
        except Refused as error:
            slices.show(None)
            report.fill([])
            told.value = escape(str(error))
            return
        findings.disabled = crop.truth is None
        report.fill(parts or [(NO_REPORT, ())])
        told.value = ""
        slices.show(crop)

    report = Report(choose)
    volume.observe(open_volume, "value")
    for control in (window, organs, findings):
        control.observe(lambda _: slices.draw(), "value")
    open_volume()
    left = ipywidgets.VBox([slices.box, told], layout={"flex": "3 1 0%", "min_width": "0"})
    beside = ipywidgets.Box([report.box], layout={"flex": "1 1 0%", "min_width": "220px", "margin": "0 0 0 8px"})
    return ipywidgets.VBox([ipywidgets.HBox([volume, window, organs, findings]), ipywidgets.HBox([left, beside])])
