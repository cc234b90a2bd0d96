"""The widgets without a browser: what a control does to the picture, and that the static twin is the same picture."""

from __future__ import annotations

import numpy as np
import pytest

from asapkit import checkpoint, explore
from asapkit.config import Config
from asapkit.types import Refused

CONFIG = Config.at("toy")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from asapkit import store
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    folder = tmp_path_factory.mktemp("explore")
    dataset = cohort.make(folder / "dataset", volumes=2, seed=3, scale="toy")
    store.write(ct_rate.scans(dataset), folder / "store", config=CONFIG, progress=False)
    return store.open(folder / "store")


@pytest.fixture(scope="module")
def method():
    return checkpoint.make_method("asap", CONFIG, {}).eval()


def controls(widget):
    return {child.description: child for child in widget.children if getattr(child, "description", "")}


def test_browsing_draws_what_the_controls_say(store):
    widget = explore.browse(store, id=store.ids[1])
    picture, control = widget.children[0], controls(widget)
    assert bytes(picture.value) == explore.plane(store, store.ids[1], index=CONFIG.crop[2] // 2)._repr_png_()
    control["plane"].value = "coronal"
    assert control["slice"].max == CONFIG.crop[1] - 1
    control["slice"].value = 30
    control["window"].value = "mediastinal"
    control["organs"].value = False
    control["truth"].value = True
    twin = explore.plane(store, store.ids[1], name="coronal", index=30, window="mediastinal", organs=False, truth=True)
    assert bytes(picture.value) == twin._repr_png_()


def test_a_sentence_of_the_report_or_a_typed_one_is_looked_for(store, method):
    widget = explore.sentence_explorer(method, store)
    picture, control = widget.children[0], controls(widget)
    first = bytes(picture.value)
    assert first.startswith(b"\x89PNG")
    assert control["sentence"].value == control["report"].options[0]
    control["sentence"].value = "There is a nodule in the right upper lobe."
    twin = explore.sentence_view(method, store, store.ids[0], sentence="There is a nodule in the right upper lobe.")
    assert bytes(picture.value) == twin._repr_png_() != first
    control["volume"].value = store.ids[1]
    assert control["sentence"].value == control["report"].options[0]


def test_a_reports_own_sentence_is_shown_with_its_truth(store):
    row = store.sentences[store.sentences["bits"] > 0].iloc[0]
    inside = explore.sentences.stated(store, row["id"], row["sentence"])
    assert inside.any() and np.array_equal(inside, (store.cropped(row["id"], "truth")[0] & np.uint32(row["bits"])) > 0)
    assert explore.sentences.stated(store, row["id"], "Something else.") is None


def test_what_cannot_be_shown_says_why(store, method):
    with pytest.raises(ValueError, match="unknown plane"):
        explore.plane(store, store.ids[0], name="oblique")
    with pytest.raises(Refused, match="not in store"):
        explore.plane(store, "nobody")
    with pytest.raises(ValueError, match="empty"):
        explore.sentence_view(method, store, store.ids[0], sentence=" ")
    with pytest.raises(ValueError, match="aligns no sentences"):
        explore.sentence_explorer(object(), store)
