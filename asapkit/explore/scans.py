"""Leaf through a store's scans."""

from __future__ import annotations

from functools import lru_cache

from asapkit import figures
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
