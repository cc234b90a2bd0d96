"""The widgets without a browser: what a control does to the picture, and that the static twin is the same picture."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from asapkit import checkpoint, examples, explore, reports
from asapkit.config import Config
from asapkit.explore import answers, panel, sheet
from asapkit.explore.sentences import Explorer
from asapkit.planes import PLANES
from asapkit.types import Refused

CONFIG = Config.at("toy")
FREE = "There is a nodule in the right upper lobe."


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from asapkit import store
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    folder = tmp_path_factory.mktemp("explore")
    dataset = cohort.make(folder / "dataset", volumes=4, seed=3, scale="toy")
    store.write(ct_rate.scans(dataset), folder / "store", config=CONFIG, progress=False)
    return store.open(folder / "store")


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    return checkpoint.make_method("asap", CONFIG, {}).eval()


@pytest.fixture(scope="module")
def stated(store):
    """A sentence of a findings section whose evidence lies in its crop: volume, sentence, inside (X, Y, Z)."""
    for row in store.sentences[store.sentences["bits"] > 0].itertuples():
        inside = (store.cropped(row.id, "truth")[0] & np.uint32(row.bits)) > 0
        if inside.any():
            return row.id, row.sentence, inside
    raise AssertionError("the cohort states nothing")


def every(widget):
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


def classed(widget, name: str) -> list:
    return [w for w in every(widget) if f"asapkit-{name}" in getattr(w, "_dom_classes", ())]


def described(widget, name: str):
    (found,) = [w for w in every(widget) if getattr(w, "description", "") == name]
    return found


def pixels(picture) -> np.ndarray:
    """Of an Image widget, or of a twin without the lines above its planes."""
    return np.asarray(Image.open(io.BytesIO(bytes(picture.value))) if hasattr(picture, "value") else picture).astype(int)


def same(widget_picture, twin) -> bool:
    shown, whole = pixels(widget_picture), pixels(twin)
    return np.array_equal(shown, whole[-len(shown) :])


def said(widget) -> str:
    """What the notes of a widget say."""
    return " ".join(w.value for w in classed(widget, "note"))


# --- scans


@pytest.mark.slow
def test_browsing_draws_what_the_controls_say(store):
    widget = explore.browse(store, id=store.ids[1])
    (picture,) = classed(widget, "picture")
    assert same(picture, explore.scan_view(store, store.ids[1]))
    assert [s.description for s in classed(widget, "slice")] == list(PLANES)
    described(widget, "coronal").value = 30
    classed(widget, "window")[0].value = "mediastinal"
    described(widget, "organs").value = False
    described(widget, "findings").value = True
    crop = sheet.crop_of(store, store.ids[1])
    at = [crop.volume.shape[0] // 2, 30, crop.volume.shape[2] // 2]
    twin = explore.scan_view(store, store.ids[1], at_mm=crop.world(at), window="mediastinal", organs=False, findings=True)
    assert same(picture, twin)
    assert not same(picture, explore.scan_view(store, store.ids[1], at_mm=crop.world(at), window="bone", organs=False, findings=True))
    described(widget, "volume").value = store.ids[0]
    assert same(picture, explore.scan_view(store, store.ids[0], window="mediastinal", organs=False, findings=True))


def test_the_crosshair_is_given_and_shown_in_millimetres(store):
    widget = explore.browse(store, id=store.ids[0])
    crop = sheet.crop_of(store, store.ids[0])
    x, y, z = (described(widget, f"{axis}, mm") for axis in "xyz")
    want = crop.world((7, 11, 5))
    for field, value in zip((x, y, z), want, strict=True):
        field.value = value + 0.2
    assert [described(widget, name).value for name in ("sagittal", "coronal", "axial")] == [7, 11, 5]
    assert np.allclose([x.value, y.value, z.value], np.round(want, 1)), "the fields say where the voxel's middle lies"
    assert f"{crop.volume[7, 11, 5]} HU" in classed(widget, "under")[0].value
    x.value = 1e6
    assert described(widget, "sagittal").value == CONFIG.crop[0] - 1, "outside the crop: its last voxel"


@pytest.mark.parametrize("plane", PLANES)
def test_a_click_on_a_plane_moves_the_crosshair_to_what_lies_under_it(store, plane):
    """The voxel found under a click is the one that the page shows there: a lone bright voxel is looked for in the picture."""
    lone = np.full(CONFIG.crop, -1000, np.int16)
    voxel = (13, 32, 17)
    lone[voxel] = 3000
    page = sheet.Sheet(sheet.Crop("lone", lone, np.diag([6.0, 6.0, 12.0, 1.0]), CONFIG.contract.spacing_mm))
    left, top, wide, tall = page.boxes[plane]
    through = [5, 5, 5]
    through[PLANES[plane][0]] = voxel[PLANES[plane][0]]  # the crosshair's lines are elsewhere
    shown = np.asarray(page.image(through, sheet.Look("bone")).convert("L")).astype(int)
    inner = np.zeros_like(shown)  # without letters and scale bar at the edges
    inner[top + 30 : top + tall - 40, left + 30 : left + wide - 30] = 1
    blob = np.argwhere((shown * inner) > 0.9 * (shown * inner).max())
    row, column = blob.mean(0)
    elsewhere = [n // 2 for n in CONFIG.crop]
    elsewhere[PLANES[plane][0]] = voxel[PLANES[plane][0]]
    assert page.voxel_at((column + 0.5, row + 0.5), elsewhere) == voxel
    assert page.voxel_at((left + 5, 3), elsewhere) is None, "beside the planes there is nothing to click"


def test_a_click_reaches_the_kernel_through_the_hidden_field(store):
    widget = explore.browse(store, id=store.ids[0])
    (point,) = classed(widget, "point")
    slider, before = described(widget, "sagittal"), described(widget, "axial").value
    crop = sheet.crop_of(store, store.ids[0])
    page = sheet.Sheet(crop)
    left, top, wide, tall = page.boxes["axial"]
    height = page.height([n // 2 for n in CONFIG.crop], sheet.Look())
    point.value = f"{(left + 0.74 * wide) / page.width} {(top + tall / 2) / height} 1"
    assert slider.value == int(0.26 * CONFIG.crop[0]), "the page's right is the patient's left"
    assert described(widget, "axial").value == before, "a click on the axial plane does not leave it"
    point.value = "nonsense"
    assert slider.value == int(0.26 * CONFIG.crop[0])
    (touch,) = classed(widget, "touch")
    assert "onclick" in touch.value and "http" not in touch.value


def test_the_patients_right_is_on_the_left_of_the_page(store):
    right = np.full(CONFIG.crop, -1000, np.int16)
    right[CONFIG.crop[0] // 2 :] = 1000  # RAS: x grows to the right
    page = sheet.Sheet(sheet.Crop("half", right, np.eye(4), CONFIG.contract.spacing_mm))
    drawn = page._drawn(page.cuts["axial"], sheet.Look(), None)[..., 0].astype(int)
    assert drawn[:, 20:60].mean() > 200 > 60 > drawn[:, -60:-20].mean()


def test_a_sentence_moves_to_its_evidence_and_outlines_only_that(store, stated):
    id, sentence, inside = stated
    widget = explore.browse(store, id=id)
    (button, *_) = [b for b in classed(widget, "sentence") if b.description == sentence]
    button.click()
    at = tuple(described(widget, name).value for name in ("sagittal", "coronal", "axial"))
    assert inside[at], "the crosshair stands in the evidence"
    assert button.button_style == "info"
    (picture,) = classed(widget, "picture")
    assert same(picture, explore.scan_view(store, id, sentence=sentence))
    all_findings = pixels(explore.scan_view(store, id, at_mm=sheet.crop_of(store, id).world(at), findings=True))
    assert pixels(picture).shape != all_findings.shape or not np.array_equal(pixels(picture), all_findings)
    button.click()
    assert button.button_style == "", "a second click looks away again"


def test_only_the_bits_of_the_sentence_are_outlined():
    names = {0: "Lung nodule", 3: "Atelectasis", 5: "Emphysema"}
    assert sheet.Look().shown(names) == {}
    assert list(sheet.Look(findings=True).shown(names)) == [0, 3, 5]
    only = sheet.Look(findings=True, bits=0b1000).shown(names)
    assert only == {3: sheet.Look(findings=True).shown(names)[3]}, "its colour stays its own"


def test_a_sentence_without_truth_says_so(store):
    rows = store.sentences[(store.sentences["bits"] == 0) & (store.sentences["section"] == "findings")]
    widget = explore.browse(store, id=rows.iloc[0]["id"])
    next(b for b in classed(widget, "sentence") if b.description == rows.iloc[0]["sentence"]).click()
    assert "No voxels are known" in said(widget)


# --- sentences


@pytest.mark.slow
def test_a_sentence_of_the_report_or_a_typed_one_is_looked_for(store, method):
    widget = explore.sentence_explorer(method, store, id=store.ids[0])
    (picture,), (typed,) = classed(widget, "picture"), classed(widget, "typed")
    first = bytes(picture.value)
    assert typed.value in {b.description for b in classed(widget, "sentence")}
    typed.value = FREE
    assert same(picture, explore.sentence_view(method, store, store.ids[0], sentence=FREE))
    assert bytes(picture.value) != first
    classed(widget, "sentence")[1].click()
    assert typed.value == classed(widget, "sentence")[1].description
    assert same(picture, explore.sentence_view(method, store, store.ids[0], sentence=typed.value))
    described(widget, "volume").value = store.ids[1]
    assert same(picture, explore.sentence_view(method, store, store.ids[1], sentence=typed.value))


def test_the_selected_patches_are_listed_and_jumped_to(store, method):
    widget = explore.sentence_explorer(method, store, id=store.ids[0], sentence=FREE)
    (listed,) = classed(widget, "patches")
    answer = answers.Answers(method, store).ask(store.ids[0], FREE)
    assert len(listed.options) == len(answer.top) == answer.k == answer.selected
    similarity = answer.rows["similarity"].to_numpy()
    assert (np.diff(similarity) <= 0).all() and np.isclose(similarity[0], np.nanmax(answer.similarity))
    listed.index = 1
    at = tuple(described(widget, name).value for name in ("sagittal", "coronal", "axial"))
    assert at == answer.voxel(2) and answer.rank_at(at) == 2
    described(widget, "coronal").value = 0
    assert listed.index == (None if answer.rank_at((at[0], 0, at[2])) is None else answer.rank_at((at[0], 0, at[2])) - 1)


def test_a_row_says_what_fills_the_patch_and_where_it_lies(store, method):
    id = store.ids[0]
    answer = answers.Answers(method, store).ask(id, FREE)
    organs, affine = store.cropped(id, "organs")
    for row in answer.rows.itertuples():
        start = np.array(np.unravel_index(row.patch, answer.grid)) * answer.patch
        block = organs[tuple(slice(s, s + p) for s, p in zip(start, answer.patch))]
        counts = np.bincount(block.ravel(), minlength=10)[1:]
        assert np.isclose(row.share, counts.max() / block.size)
        assert row.organ == ("" if not counts.any() else answers.ORGANS[int(counts.argmax())])
        middle = affine[:3, :3] @ (start + np.array(answer.patch) / 2 - 0.5) + affine[:3, 3]
        assert np.allclose([row.x_mm, row.y_mm, row.z_mm], middle)


def test_the_map_is_that_of_the_library(store, method):
    id = store.ids[0]
    asked = answers.Answers(method, store).ask(id, FREE)
    (plain,), (k,) = examples.matched(method, store.cropped(id)[0], [FREE], contract=store.contract, shape=store.layer(id, "ct").shape)
    assert np.array_equal(np.isnan(asked.similarity), np.isnan(plain))
    assert np.allclose(asked.similarity, plain, atol=2e-3, equal_nan=True), "half precision of the remembered features"
    assert asked.k == k


def test_the_scores_are_those_of_grounding(store, method):
    from asapkit.tasks import ground

    told = ground.positive_sentences(store, train=False)
    records = ground.ground(method, store, progress=False, draws=1).records
    asks = answers.Answers(method, store)
    checked = 0
    for (id, _), row in told.set_index(["id", "index"]).iterrows():
        shape = store.layer(id, "ct").shape
        record = records[(records["id"] == id) & (records["sentence"] == row.name[1])].iloc[0]
        if examples.scanned(shape, store.contract, method.encoder.patch).all():  # no padding: the same candidates
            scores = asks.ask(id, row["sentence"]).scores
            assert scores == pytest.approx({name: record[name] for name in answers.SCORES}, abs=1e-3)
            checked += 1
    one = told.iloc[0]
    assert asks.ask(one["id"], one["sentence"]).scores is not None and asks.ask(one["id"], FREE).scores is None
    assert checked, "no volume without padding"


def test_a_volume_is_encoded_once_however_many_sentences_are_asked(store, method):
    calls = []
    asks = answers.Answers(method, store, remember=2)
    inner = method.aligned
    try:
        method.aligned = lambda image: calls.append(1) or inner(image)
        for sentence in (FREE, "The heart is enlarged.", "Calcified plaques in the aorta."):
            asks.ask(store.ids[0], sentence)
        assert len(calls) == 1
        for id in (store.ids[1], store.ids[2], store.ids[0]):
            asks.ask(id, FREE)
        assert len(calls) == 4, "two volumes are remembered, the first was forgotten"
    finally:
        del method.aligned


def test_the_truth_of_a_reports_own_sentence_is_outlined_scored_and_reached(store, method, stated):
    id, sentence, inside = stated
    answer = answers.Answers(method, store).ask(id, sentence)
    assert np.array_equal(answer.truth, inside)
    assert set(answer.scores) == set(answers.SCORES) and "AUROC" in answer.told()
    widget = explore.sentence_explorer(method, store, id=id, sentence=sentence)
    (go,) = classed(widget, "evidence")
    go.click()
    assert inside[tuple(described(widget, name).value for name in ("sagittal", "coronal", "axial"))]
    classed(widget, "typed")[0].value = FREE
    assert go.disabled, "nothing is known of a typed sentence"


def test_the_legend_says_when_the_truth_is_on_no_plane(store, method, stated):
    id, sentence, inside = stated
    asks = answers.Answers(method, store)
    page, answer = sheet.Sheet(asks.crop(id)), asks.ask(id, sentence)
    on, off = answers.evidence_voxel(inside), [int((~inside.any(other)).argmax()) for other in ((1, 2), (0, 2), (0, 1))]
    texts = [" ".join(text for _, text in page.legend(at, sheet.Look(), answer)) for at in (on, off)]
    assert ["not on these planes" in text for text in texts] == [False, True]


def test_the_clock_of_the_widgets_runs(store, method, monkeypatch, capsys):
    from benchmarks import widgets

    monkeypatch.setattr(checkpoint, "load_method", lambda run: method)
    medians = widgets.main([str(store.root), "run", "--count", "2"])
    assert set(medians) == set(widgets.ASKED) and all(seconds > 0 for seconds in medians.values())
    assert "new sentence" in capsys.readouterr().out


# --- side by side


def test_a_sentence_asked_of_one_run_is_asked_of_the_other(store, method):
    torch.manual_seed(7)
    other = checkpoint.make_method("asap", CONFIG, {}).eval()
    widget = explore.compare({"one": method, "two": other}, store, ids=[store.ids[0]])
    first, second = classed(widget, "typed")
    assert first.value == second.value != ""
    second.value = FREE
    assert first.value == FREE
    one, two = classed(widget, "picture")
    twin = explore.compare_view({"one": method, "two": other}, store, ids=[store.ids[0]], sentence=FREE)
    assert same(two, twin), "the last panel ends the twin"
    assert same(one, explore.sentence_view(method, store, store.ids[0], sentence=FREE))
    sliders = [s for s in classed(widget, "slice") if s.description == "axial"]
    sliders[0].value = plane = (sliders[0].value + 5) % CONFIG.crop[2]
    assert sliders[1].value == plane, "the same volume: planes move together"


def test_two_volumes_beside_each_other_keep_their_own_planes(store, method):
    widget = explore.compare({"one": method}, store, ids=store.ids[:2], sentence=FREE)
    sliders = [s for s in classed(widget, "slice") if s.description == "axial"]
    before = sliders[1].value
    sliders[0].value = (before + 5) % CONFIG.crop[2]
    assert sliders[1].value == before
    assert [t.value for t in classed(widget, "typed")] == [FREE, FREE]


# --- bad input: a message inside the widget, never a traceback


def test_an_unknown_volume_is_named_inside_the_widgets(store, method):
    for widget in (explore.browse(store, id="nobody"), explore.sentence_explorer(method, store, id="nobody")):
        assert "nobody: not in store" in said(widget)
        (picture,) = classed(widget, "picture")
        assert bytes(picture.value) == b"" and picture.layout.display == "none"
        described(widget, "volume").value = store.ids[0]
        assert "nobody" not in said(widget)
        assert bytes(picture.value).startswith(b"\x89PNG") and picture.layout.display == ""
        classed(widget, "point")[0].value = "0.1 0.5 1"
    with pytest.raises(Refused, match="not in store"):
        explore.scan_view(store, "nobody")
    with pytest.raises(Refused, match="not in store"):
        explore.sentence_view(method, store, "nobody", sentence=FREE)


@pytest.mark.parametrize(
    ("empty", "why"),
    [("There is no", "only stop words"), ("... -- ?!", "is empty"), ("of the, and with.", "only stop words"), ("12 3.5", "only numbers")],
)
def test_a_sentence_of_stop_words_or_punctuation_is_told_what_it_lacks(store, method, empty, why):
    widget = explore.sentence_explorer(method, store, id=store.ids[0], sentence=FREE)
    classed(widget, "typed")[0].value = empty
    assert why in said(widget)
    assert classed(widget, "patches")[0].options == ()
    classed(widget, "typed")[0].value = FREE
    assert why not in said(widget) and classed(widget, "patches")[0].options
    with pytest.raises(Refused, match=why):
        explore.sentence_view(method, store, store.ids[0], sentence=empty)


def test_values_that_no_picture_has_are_refused_and_a_comparison_names_the_run(store, method):
    for wrong in ({"k": -5}, {"rank": 0}):
        with pytest.raises(ValueError, match="give k of at least 0"):
            explore.sentence_view(method, store, store.ids[0], sentence=FREE, **wrong)
    blind = checkpoint.make_method("mae", CONFIG, {})
    with pytest.raises(Refused, match="^run second: this method aligns no sentences"):
        explore.compare_view({"first": method, "second": blind}, store, ids=store.ids[:1], sentence=FREE)


def test_a_scan_without_report_can_be_browsed_and_asked(store, method, monkeypatch):
    bare = store.table.copy()
    bare[["findings", "impression"]] = ""
    monkeypatch.setattr(store, "table", bare)
    monkeypatch.setitem(store.__dict__, "sentences", None)
    widget = explore.browse(store, id=store.ids[0])
    assert not classed(widget, "sentence")
    assert any("no report" in getattr(w, "value", "") for w in every(widget) if isinstance(getattr(w, "value", None), str))
    widget = explore.sentence_explorer(method, store, id=store.ids[0])
    assert "no report" in said(widget)
    assert bytes(classed(widget, "picture")[0].value).startswith(b"\x89PNG"), "the planes are there all the same"
    classed(widget, "typed")[0].value = FREE
    assert classed(widget, "patches")[0].options and "no report" not in said(widget)


def test_a_store_of_another_contract_names_the_fields(store):
    other = checkpoint.make_method("asap", dataclasses.replace(CONFIG, window_hu=(-900.0, 400.0)), {}).eval()
    widget = explore.sentence_explorer(other, store, id=store.ids[0])
    assert "made under another contract" in said(widget) and "window_hu" in said(widget)
    assert bytes(classed(widget, "picture")[0].value).startswith(b"\x89PNG")
    classed(widget, "typed")[0].value = FREE
    assert "window_hu" in said(widget)
    with pytest.raises(Refused, match="window_hu"):
        explore.sentence_view(other, store, store.ids[0], sentence=FREE)


def test_a_run_that_aligns_no_sentences_says_so(store):
    mae = checkpoint.make_method("mae", CONFIG, {}).eval()
    assert "aligns no sentences" in said(explore.sentence_explorer(mae, store))
    with pytest.raises(Refused, match="aligns no sentences"):
        explore.sentence_view(mae, store, store.ids[0], sentence=FREE)


def test_k_above_the_number_of_patches_takes_all_and_says_so(store, method):
    widget = explore.sentence_explorer(method, store, id=store.ids[0], sentence=FREE)
    described(widget, "K (0: selector)").value = 10_000
    answer = answers.Answers(method, store).ask(store.ids[0], FREE, k=10_000)
    assert len(answer.top) == np.isfinite(answer.similarity).sum() == len(classed(widget, "patches")[0].options)
    assert f"more than the {len(answer.top)} patches" in said(widget)
    described(widget, "K (0: selector)").value = -3
    assert "more than" not in said(widget), "below one: the selector's"
    described(widget, "K (0: selector)").value = 1
    assert len(classed(widget, "patches")[0].options) == 1


def test_report_text_is_shown_as_text(store, method):
    panel_ = Explorer(method, store, id=store.ids[0])
    panel_.ask("nodule <img src=x onerror=alert(1)>")
    assert "<img" not in panel_.numbers.value and "&lt;img" in panel_.numbers.value


def test_an_unknown_window_is_named(store, method):
    with pytest.raises(ValueError, match="unknown window"):
        explore.scan_view(store, store.ids[0], window="liver")
    with pytest.raises(ValueError, match="unknown window"):
        explore.sentence_view(method, store, store.ids[0], sentence=FREE, window="liver")


def test_large_stores_are_asked_by_id(store, monkeypatch):
    monkeypatch.setattr(panel, "MANY", 2)
    widget = explore.browse(store, id=store.ids[3])
    assert type(described(widget, "volume")).__name__ == "Combobox" and len(described(widget, "volume").options) == 2
    assert same(classed(widget, "picture")[0], explore.scan_view(store, store.ids[3]))


def test_every_sentence_of_a_report_has_a_word_to_look_for(store):
    assert all(reports.telling_words(sentence) for sentence in store.sentences["sentence"])
    assert reports.telling_words("There is NO nodule, 3 mm.") == ["nodule", "mm"]
