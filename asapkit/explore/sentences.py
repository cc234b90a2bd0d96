"""Ask a trained method where it sees a sentence."""

from __future__ import annotations

import numpy as np

from asapkit import examples, figures
from asapkit.drawing import Picture
from asapkit.explore.scans import WIDTH
from asapkit.planes import WINDOWS


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
    truth = stated(store, id, sentence)
    told = {"spacing_mm": contract.spacing_mm, "patch": patch, "window": window, "caption": caption}
    return figures.sentence_map(hu, similarity, sentence=sentence, k=int(k), truth=truth, note=id, **told)


def stated(store, id: str, sentence: str) -> np.ndarray | None:
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
