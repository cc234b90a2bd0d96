"""What an encoder sees: the patches left to it and what its decoder makes of them, its features as colours, what one patch looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape

import numpy as np

from asapkit import analysis, examples, figures
from asapkit.drawing import Picture
from asapkit.features import patch_of, require_contract
from asapkit.planes import WINDOWS, richest
from asapkit.types import Refused

VIEWS = {"hidden": "hidden patches, restored", "pca": "features as colours", "attention": "attention of a patch"}
SEEN = 8  # volumes that share a basis where nothing else is said
MEAN = "mean"


def _patch_of(encoders: Mapping) -> tuple[int, int, int]:
    """The patch of the first.  Raises: Refused where none is given."""
    if not encoders:
        raise Refused("no encoder is given; give at least one by its name")
    return patch_of(encoder_of(next(iter(encoders.values()))))


def encoder_of(method):
    """The encoder of a method, or the encoder itself."""
    return getattr(method, "encoder", method)


def hidden_view(method, store, id: str, *, window: str = "lung", title: str = "") -> Picture:
    """The volume, the patches left to the encoder, what the decoder restores from them, and how far off it is in HU.

    Raises: Refused for a method without an image decoder, or made under another contract than the store.
    """
    require_contract(encoder_of(method), store)
    seen = examples.reconstruct(method, store, id)
    if not seen:
        raise Refused("this method restores no image; choose a run with an image decoder, as mae or asap")
    said = f"On hidden patches off by {seen['error_hidden']:.0f} HU (root mean square); the mean of the visible would be by {seen['error_mean']:.0f}."
    told = {"spacing_mm": store.contract.spacing_mm, "patch": patch_of(method.encoder), "window": window}
    return figures.reconstruction(seen["volume"], seen["hidden"], seen["restored"], title=title or id, caption=said, **told)


def pca_view(
    encoders: Mapping, store, id: str, *, together: Sequence[str] = (), foreground: str = "body", title: str = "", made: Mapping | None = None
) -> Picture:
    """First three components of patch tokens as colours, a row per encoder.

    together: volumes that share one basis with this one, so that a colour means the same in all of them; none: a basis of its own.
    foreground: "body" (patches that hold body) or "component" (the first component, turned so that the body is in front).
    made: tokens and body marks by encoder and volume, as this function found them earlier.
    """
    ids = list(dict.fromkeys([*together, id])) if together else [id]
    maps, shares, told = {}, [], {"spacing_mm": store.contract.spacing_mm, "patch": _patch_of(encoders)}
    for name, method in encoders.items():
        pairs = [(made or {}).get((name, one)) or _tokens(method, store, one) for one in ids]
        coloured, share = analysis.pca_maps([t for t, _ in pairs], [b for _, b in pairs], encoder_of(method).grid, foreground=foreground)
        maps[name] = coloured[ids.index(id)]
        shares.append(f"{name} {share.sum():.0%}")
    basis = f"One basis over {len(ids)} volumes" if len(ids) > 1 else "A basis of this volume's own"
    said = f"{basis}, another one in each row: compare structure between rows, not colours. Variance that the colours carry: {', '.join(shares)}."
    return figures.pca_maps(store.cropped(id)[0], maps, title=title or id, caption=said, **told)


def _tokens(method, store, id: str) -> tuple[np.ndarray, np.ndarray]:
    encoder = encoder_of(method)
    require_contract(encoder, store)
    made, body = examples.tokens({"": encoder}, store, [id])
    return made[""][0], body[0]


def telling_patch(store, id: str, *, patch: tuple[int, int, int]) -> int:
    """The patch at a volume's most telling place: its findings where the truth is known, else its heart, else the middle."""
    volume = store.cropped(id)[0]
    organs = store.cropped(id, "organs")[0] if store.table.at[id, "has_organs"] else None
    layers = {"organs": organs, "truth": examples.cropped_findings(store, id)[0]}
    at = [int(v) // p for v, p in zip(richest(volume, **layers), patch, strict=True)]
    return int(np.ravel_multi_index(at, tuple(n // p for n, p in zip(volume.shape, patch, strict=True))))


def attention_view(
    encoders: Mapping, store, id: str, *, patch: int | None = None, layer: int = -1, head: int | str = MEAN, window: str = "lung", title: str = "",
    made: Mapping | None = None,
) -> Picture:  # fmt: skip
    """What one patch looks at in a layer (from 0; -1 the last), a row per encoder: the mean of the heads, or one head (from 0). Told from 1.

    made: shares (layers, heads, 1, N) by encoder, as `examples.looked_at` gives them. Raises: Refused, IndexError for what an encoder does not have.
    """
    size = _patch_of(encoders)
    patch = telling_patch(store, id, patch=size) if patch is None else patch
    shares = {}
    for name, method in encoders.items():
        require_contract(encoder_of(method), store)
        looked = (made or {}).get(name)
        looked = examples.looked_at(encoder_of(method), store, id, patches=[patch]) if looked is None else looked
        heads = examples.of_layer(looked, layer)[:, 0]
        if head != MEAN and head not in range(len(heads)):
            raise IndexError(f"head {head}: {name} has {len(heads)}, from 0; or {MEAN!r}")
        shares[name] = heads.mean(0) if head == MEAN else heads[head]
    depth = "last layer" if layer == -1 else f"layer {layer % len(looked) + 1}"  # the reader counts from 1, as all figures do
    which = "mean of the heads" if head == MEAN else f"head {head + 1}"
    said = f"Patch {patch}, {depth}, {which}. Frame: the patch that looks; dot: the one looked at most."
    told = {"query": patch, "spacing_mm": store.contract.spacing_mm, "patch": size, "window": window}
    return figures.attention(store.cropped(id)[0], shares, title=title or id, caption=said, **told)


def encoder_view(methods: Mapping, store, *, ids: Sequence[str] = ()):
    """A widget on what encoders see, runs by name: hidden patches and their restoration, PCA colours, attention of a patch by layer and head.

    ids: volumes to leaf through, the first held-out ones where none are given; with "one basis" their colours mean the same in all of them.
    What cannot be shown is said in the widget. Its static twins are `hidden_view`, `pca_view` and `attention_view`.
    """
    import ipywidgets

    first = examples.first(store)
    ids = list(ids) or examples.held_out(store)[:SEEN] or [first]
    if not methods:
        raise Refused("no run is given; give at least one by its name")
    if strange := [id for id in ids if id not in store]:
        raise Refused(f"{strange[0]}: not in store {store.root}")
    tokens = lru_cache(maxsize=4 * SEEN)(lambda name, id: _tokens(methods[name], store, id))
    looked = lru_cache(maxsize=32)(lambda name, id, patch: examples.looked_at(encoder_of(methods[name]), store, id, patches=[patch]))
    control = _controls(methods, ids)
    said, picture = ipywidgets.HTML(), ipywidgets.Image(format="png", layout={"width": "100%"})

    def drawn() -> Picture:
        now = {name: one.value for name, one in control.items()}
        id, chosen = now["volume"], {name: methods[name] for name in now["runs"]}
        if not chosen:
            raise Refused("choose a run")
        if now["show"] == "hidden":
            return hidden_view(next(iter(chosen.values())), store, id, window=now["window"], title=f"{next(iter(chosen))}: {id}")
        if now["show"] == "pca":
            together = ids if now["one basis"] else []
            made = {(name, one): tokens(name, one) for name in chosen for one in {*together, id}}
            return pca_view(chosen, store, id, together=together, foreground=now["front"], made=made)
        grid = encoder_of(next(iter(chosen.values()))).grid
        patch = int(np.ravel_multi_index([now[axis] for axis in ("across", "back", "up")], grid))
        made = {name: looked(name, id, patch) for name in chosen}
        return attention_view(chosen, store, id, patch=patch, layer=now["layer"] - 1, head=now["head"], window=now["window"], made=made)

    def draw(_=None) -> None:
        for name, views in FOR.items():
            control[name].layout.display = "" if control["show"].value in views else "none"
        try:
            picture.value, said.value, picture.layout.display = drawn()._repr_png_(), "", ""
        except (ValueError, LookupError, OSError) as error:
            said.value, picture.layout.display = escape(" ".join(str(error).split())), "none"

    def point(_=None) -> None:
        """To the telling patch of another volume; one drawing for the three moves."""
        encoder = encoder_of(next(iter(methods.values())))
        at = np.unravel_index(telling_patch(store, control["volume"].value, patch=patch_of(encoder)), encoder.grid)
        for axis, place in zip(("across", "back", "up"), at, strict=True):
            control[axis].unobserve(draw, "value")
            control[axis].value = int(place)
            control[axis].observe(draw, "value")

    point()
    control["volume"].observe(point, "value")
    for one in control.values():
        one.observe(draw, "value")
    draw()
    return ipywidgets.VBox([control["show"], said, picture, *(one for name, one in control.items() if name != "show")])


FOR = {
    "window": ("hidden", "attention"), "one basis": ("pca",), "front": ("pca",), "across": ("attention",), "back": ("attention",),
    "up": ("attention",), "layer": ("attention",), "head": ("attention",),
}  # fmt: skip
"""Controls that only some views need."""


def _controls(methods: Mapping, ids: Sequence[str]) -> dict:
    import ipywidgets

    encoders = [encoder_of(m) for m in methods.values()]
    grid, depth = encoders[0].grid, min(len(getattr(e, "blocks", [0])) for e in encoders)
    heads = min(getattr(e.blocks[0].attn, "heads", 1) if hasattr(e, "blocks") else 1 for e in encoders)
    names = {"across": "left to right", "back": "back to front", "up": "bottom to top"}  # RAS: what grows along x, y, z
    sliders = {a: ipywidgets.IntSlider(min=0, max=n - 1, description=names[a], style=WIDE) for a, n in zip(names, grid, strict=True)}
    return {
        "show": ipywidgets.ToggleButtons(options=[(words, name) for name, words in VIEWS.items()], style={"button_width": "auto"}),
        "volume": ipywidgets.Dropdown(options=list(ids), description="volume"),
        "runs": ipywidgets.SelectMultiple(options=list(methods), value=tuple(methods), description="runs", rows=min(5, len(methods))),
        "window": ipywidgets.ToggleButtons(options=list(WINDOWS), description="window"),
        "one basis": ipywidgets.Checkbox(value=False, description=f"one basis for all {len(ids)} volumes"),
        "front": ipywidgets.Dropdown(options=list(analysis.FOREGROUNDS), description="foreground"),
        **sliders,
        "layer": ipywidgets.IntSlider(min=1, max=depth, value=depth, description="layer"),
        "head": ipywidgets.Dropdown(options=[(MEAN, MEAN), *((str(n + 1), n) for n in range(heads))], description="head"),
    }


WIDE = {"description_width": "100px"}
