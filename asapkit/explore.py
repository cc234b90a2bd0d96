"""Widgets for JupyterLab: leaf through a store's scans, and ask a trained method where it sees a sentence.

Every widget has a static twin, a function that returns the same picture as a figure: `plane` for `browse`, `sentence_view` for
`sentence_explorer`. Widgets hold no state that papermill would lose; notebooks draw the twins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from asapkit import examples, figures
from asapkit.drawing import Picture
from asapkit.planes import PLANES, WINDOWS

WIDTH = "720px"


def plane(
    store, id: str, *, name: str = "axial", index: int | None = None, window: str = "lung", organs: bool = True, truth: bool = False
) -> Picture:
    """One plane of a volume's crop: `name` axial, coronal or sagittal, `index` its slice (default the middle), organs and truth outlined.

    Raises: ValueError for an unknown plane or window; Refused for an unknown volume.
    """
    if name not in PLANES or window not in WINDOWS:
        raise ValueError(f"unknown plane {name!r} or window {window!r}; there are {', '.join(PLANES)} and {', '.join(WINDOWS)}")
    return _plane(store, id, _layers(store, id, organs=organs, truth=truth), name=name, index=index, window=window)


def _layers(store, id: str, *, organs: bool, truth: bool) -> dict:
    has = store.table.loc[id] if id in store else {}
    return {
        "volume": store.cropped(id)[0],
        "organs": store.cropped(id, "organs")[0] if organs and has["has_organs"] else None,
        "truth": store.cropped(id, "truth")[0] if truth and has["has_truth"] else None,
    }


def _plane(store, id: str, layers: dict, *, name: str, index: int | None, window: str) -> Picture:
    at = [n // 2 for n in layers["volume"].shape]
    at[PLANES[name][0]] = at[PLANES[name][0]] if index is None else index
    told = {"spacing_mm": store.contract.spacing_mm, "planes": (name,), "windows": (window,), "at": at, "names": _names(store, id), "title": id}
    return figures.slices(layers["volume"], organs=layers["organs"], truth=layers["truth"], **told)


def _names(store, id: str) -> dict[int, str]:
    """What each bit of the truth is called."""
    if store.instances is None:
        return {}
    rows = store.instances[store.instances["id"] == id]
    return dict(zip(rows["bit"].astype(int), rows["finding"], strict=True))


def browse(store, *, id: str = ""):
    """A widget to leaf through volumes: which one, plane, slice, window, with or without outlines. Its `children` are picture and controls.

    Its static twin is `plane`. Raises: Refused for an unknown volume.
    """
    import ipywidgets

    remembered = lru_cache(maxsize=4)(lambda id, organs, truth: _layers(store, id, organs=organs, truth=truth))
    controls = {
        "id": ipywidgets.Dropdown(options=store.ids, value=id or store.ids[0], description="volume"),
        "name": ipywidgets.ToggleButtons(options=list(PLANES), description="plane"),
        "window": ipywidgets.ToggleButtons(options=list(WINDOWS), description="window"),
        "index": ipywidgets.IntSlider(min=0, max=store.contract.crop[2] - 1, value=store.contract.crop[2] // 2, description="slice"),
        "organs": ipywidgets.Checkbox(value=True, description="organs"),
        "truth": ipywidgets.Checkbox(value=False, description="truth", disabled=store.instances is None),
    }
    picture = ipywidgets.Image(format="png", layout={"width": WIDTH})

    def turn(change) -> None:
        last = store.contract.crop[PLANES[change["new"]][0]] - 1
        controls["index"].max, controls["index"].value = last, (last + 1) // 2

    def draw(_=None) -> None:
        now = {key: control.value for key, control in controls.items()}
        layers = remembered(now["id"], now["organs"], now["truth"])
        picture.value = _plane(store, now["id"], layers, name=now["name"], index=now["index"], window=now["window"])._repr_png_()

    controls["name"].observe(turn, "value")
    for control in controls.values():
        control.observe(draw, "value")
    draw()
    return ipywidgets.VBox([picture, *controls.values()])


def sentence_view(method, store, id: str, *, sentence: str, window: str = "lung", caption: str = "") -> Picture:
    """Where the method sees a sentence in a volume, nothing hidden: similarity over the CT, frames around the selected patches.

    Raises: ValueError for an empty sentence or a method that aligns none.
    """
    if not sentence.strip():
        raise ValueError("the sentence is empty; say what to look for")
    if not hasattr(method, "match"):
        raise ValueError("this method aligns no sentences; load a run of asap or another recipe with `match`")
    contract, (hu, _) = method.encoder.contract, store.cropped(id)
    patch = tuple(c // g for c, g in zip(contract.crop, method.encoder.grid, strict=True))
    (similarity,), (k,) = examples.matched(method, hu, [sentence], contract=contract, shape=store.layer(id, "ct").shape)
    truth = _stated(store, id, sentence)
    told = {"spacing_mm": contract.spacing_mm, "patch": patch, "window": window, "caption": caption}
    return figures.sentence_map(hu, similarity, sentence=sentence, k=int(k), truth=truth, note=id, **told)


def _stated(store, id: str, sentence: str) -> np.ndarray | None:
    """The truth's voxels that a sentence of this volume's own report states; None for any other sentence."""
    if store.sentences is None:
        return None
    rows = store.sentences[(store.sentences["id"] == id) & (store.sentences["sentence"] == sentence.strip())]
    bits = int(np.bitwise_or.reduce(rows["bits"].to_numpy(np.uint32))) if len(rows) else 0
    return (store.cropped(id, "truth")[0] & np.uint32(bits)) > 0 if bits else None


def sentence_explorer(method, store, *, id: str = ""):
    """A widget to ask where a sentence is seen: choose a volume, then a sentence of its report, or type one and press Enter.

    Its static twin is `sentence_view`. Raises: ValueError for a method that aligns no sentences.
    """
    import ipywidgets

    from asapkit import reports

    if not hasattr(method, "match"):
        raise ValueError("this method aligns no sentences; load a run of asap or another recipe with `match`")
    volume = ipywidgets.Dropdown(options=store.ids, value=id or store.ids[0], description="volume")
    said = ipywidgets.Dropdown(description="report", layout={"width": WIDTH})
    typed = ipywidgets.Text(description="sentence", continuous_update=False, layout={"width": WIDTH})
    window = ipywidgets.ToggleButtons(options=list(WINDOWS), description="window")
    picture = ipywidgets.Image(format="png", layout={"width": "100%"})

    def list_sentences(_=None) -> None:
        said.options = reports.split(store.table.at[volume.value, "findings"]) or ["No sentence in this report."]
        said.index = 0

    def take(_=None) -> None:
        typed.value = said.value or ""

    def draw(_=None) -> None:
        if typed.value.strip():
            picture.value = sentence_view(method, store, volume.value, sentence=typed.value, window=window.value)._repr_png_()

    list_sentences()
    take()
    volume.observe(list_sentences, "value")
    said.observe(take, "value")
    for control in (volume, typed, window):
        control.observe(draw, "value")
    draw()
    return ipywidgets.VBox([picture, volume, said, typed, window])
