"""Grounding: its measures counted by hand, its baselines, its gate, and methods that see everything, nothing, or the opposite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from memory import CONFIG, Bright, Matcher, MemoryStore
from sklearn.metrics import roc_auc_score

from asapkit.tasks import ground
from asapkit.types import Refused

TEXT = "A nodule is seen in the left lung."


@pytest.fixture(scope="module")
def store():
    return MemoryStore(patients=24)


@pytest.fixture(scope="module")
def prior(store):
    return ground.fit(Bright(), store, progress=False)


def scene(body, organs=None):
    return ground.Scene("x", torch.zeros(len(body), 1), np.asarray(body, bool), organs)


def test_measures_of_a_small_example_counted_by_hand():
    body = [1, 1, 1, 1, 1, 0]
    share = np.array([0, 0.05, 0.5, 0.2, 0, 0], np.float32)
    map_ = np.array([0.1, 0.9, 0.8, 0.2, 0.3, 1.0])  # the best patch of all lies outside the body
    m = ground.measure(scene(body), TEXT, share, (map_, 2))
    assert m["hit"] == 0  # the best body patch holds 5 % only
    assert m["top_k_inside"] == 0.5
    assert m["iou"] == pytest.approx(1 / 3)  # {1, 2} and {2, 3}
    assert m["chance"] == m["organ_only"] == pytest.approx(2 / 5)
    assert m["truth_share"] == pytest.approx(2 / 5)
    assert m["can_hit"] == 1
    assert np.isnan(m["other_patient"]) and np.isnan(m["location_prior"])


def test_a_lesion_too_small_for_any_patch_cannot_be_hit_but_is_still_mapped():
    m = ground.measure(scene([1, 1, 1]), TEXT, np.array([0, 0.02, 0], np.float32), (np.array([0.0, 1.0, 0.5]), 1))
    assert (m["hit"], m["can_hit"], m["chance"]) == (0, 0, 0)
    assert (m["touch"], m["chance_touch"]) == (1, pytest.approx(1 / 3))
    assert m["top_k_inside"] == m["iou"] == 1
    assert m["auroc"] > 0.8  # voxels beside the lesion share its patch


def test_map_auroc_is_that_over_voxels():
    rng = np.random.default_rng(0)
    voxels = rng.random((30, 10)) < rng.random((30, 1))
    values = np.round(rng.normal(size=30), 1)  # with ties
    body = rng.random(30) < 0.8
    found = ground.map_auroc(values, voxels.mean(1).astype(np.float32), body)
    assert found == pytest.approx(roc_auc_score(voxels[body].ravel(), np.repeat(values[body], 10)), abs=1e-6)


def test_ties_of_infinities_are_a_coin_and_a_map_with_nan_has_no_auroc():
    body, share = np.ones(4, bool), np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    assert ground.map_auroc(np.full(4, np.inf), share, body) == 0.5
    assert np.isnan(ground.map_auroc(np.array([0.0, np.nan, 1.0, 2.0]), share, body))


def test_the_organ_gate_keeps_other_organs_out():
    organs = np.zeros((4, 9), np.float32)
    organs[0, 0], organs[1, 0], organs[2, 2] = 0.5, 0.01, 1.0  # left upper lobe: patches 0 and 1
    share = np.array([0, 0.4, 0, 0], np.float32)
    map_ = np.array([0.2, 0.3, 0.9, 0.8])
    here = scene([1, 1, 1, 1], organs)
    assert ground.measure(here, TEXT, share, (map_, 1))["hit"] == 0
    gated = ground.measure(here, TEXT, share, (map_, 1), gate="organ")
    assert (gated["hit"], gated["organ_only"], gated["chance"]) == (1, 0.5, 0.25)
    assert ground.candidates(here, "A fracture of a rib.", "organ").all()


def test_a_method_that_sees_the_lesion_hits_it_and_one_that_sees_the_opposite_does_not(store, prior):
    good = ground.ground(Matcher(), store, prior=prior, draws=50, progress=False)
    assert good.summary["hit"] == 1
    assert good.summary["auroc"] > 0.999
    assert good.summary["iou"] == 1
    assert good.summary["intervals"]["hit-chance"]["low"] > 0.9
    assert good.summary["intervals"]["hit-other_patient"]["low"] > 0
    bad = ground.ground(Matcher(sign=-1), store, prior=prior, draws=50, progress=False)
    assert bad.summary["hit"] == 0
    assert bad.summary["auroc"] < 0.2


def test_one_sentence_per_study_is_scored_and_only_of_held_out_patients(store, prior):
    found = ground.ground(Matcher(), store, prior=prior, draws=20, progress=False)
    held_out = store.table[store.table["split"] == "valid"]
    assert found.summary["sentences"] == held_out.loc[held_out["Lung nodule"] == 1, "study"].nunique()
    assert set(found.records["patient"]) <= set(held_out["patient"])
    assert found.table["finding"].tolist() == ["Lung nodule"]
    assert found.table["focal"].tolist() == [True]
    assert found.summary["focal"]["findings"] == ["Lung nodule"]


def test_the_records_of_score_have_a_row_per_finding_and_the_macro_mean(store, prior):
    table = ground.score(Matcher(), prior, store, progress=False)
    assert table["finding"].tolist() == ["macro", "macro focal", "Lung nodule"]
    assert table["hit"].tolist() == [1, 1, 1]


def test_another_patients_map_is_that_of_another_patient(store):
    ids, patients = ["a0", "a1", "b0"], {"a0": "a", "a1": "a", "b0": "b"}
    assert [ground._another(id, ids, patients) for id in ids] == ["b0", "b0", "a0"]
    assert ground._another("a0", ["a0", "a1"], patients) == "a0"


def test_the_location_prior_is_the_mean_training_truth_of_finding_and_side(store, prior):
    told = ground.positive_sentences(store, train=True)
    left = [ground.patch_share(store.cropped(id, "truth")[0] == 1, CONFIG.patch) for id in told.loc[told["side"] == "left", "id"]]
    np.testing.assert_allclose(prior.grids["Lung nodule", "left"], np.mean(left, axis=0), atol=1e-6)
    assert prior.counts["Lung nodule", ""] == len(told)
    assert prior.at("Lung nodule", "both") is prior.grids["Lung nodule", ""]
    assert prior.at("Emphysema", "") is None


def test_where_every_lesion_lies_in_one_place_the_prior_knows_all_there_is():
    store = MemoryStore(patients=16, same_place=True)
    found = ground.ground(Matcher(), store, draws=20, progress=False)
    assert found.summary["location_prior"] == found.summary["other_patient"] == 1
    assert found.summary["location_prior_auroc"] > 0.99


def test_macro_is_over_findings_not_sentences():
    import pandas as pd

    row = {"id": "x", "side": "", "sentence": 0, "auroc": 0.5, "top_k_inside": 0.0, "iou": 0.0, "k": 1.0, "can_hit": 1.0, "truth_share": 0.01}
    row |= dict.fromkeys((*ground.BASELINES, *(f"{b}_touch" for b in ground.BASELINES), "touch", "other_patient_auroc", "location_prior_auroc"), 0.0)
    rows = [row | {"patient": f"p{n}", "finding": "Emphysema", "hit": 1.0} for n in range(9)]
    rows.append(row | {"patient": "p9", "finding": "Consolidation", "hit": 0.0, "truth_share": 0.5})
    found = ground.summarise(pd.DataFrame(rows), draws=20)
    assert found.summary["hit"] == 0.5
    assert found.summary["focal"]["hit"] == 1


def test_what_cannot_be_grounded_is_refused(store, prior):
    with pytest.raises(Refused, match="does not match sentences"):
        ground.score(Bright(), prior, store, progress=False)
    bare = MemoryStore(patients=4)
    bare.__dict__["sentences"] = None
    with pytest.raises(Refused, match="no truth"):
        ground.fit(Bright(), bare, progress=False)


def test_every_value_of_score_is_a_plain_number(store, prior):
    table = ground.score(Matcher(), prior, store, progress=False).drop(columns="finding")
    assert all(np.issubdtype(kind, np.number) for kind in table.dtypes), table.dtypes


def test_the_summary_tells_how_many_of_how_many_volumes_were_read(store, prior):
    some, every = (ground.ground(Matcher(), store, prior=prior, max_volumes=m, draws=20, progress=False).summary for m in (2, None))
    assert some["volumes"] == 2 < some["volumes_in_all"] == every["volumes"] == every["volumes_in_all"]


@pytest.mark.parametrize("part", ["aligned", "match"])
def test_maps_that_are_no_numbers_are_refused_and_the_volume_is_named(store, prior, part, monkeypatch):
    method = Matcher()
    sound = getattr(method, part)
    spoil = {"aligned": lambda x: sound(x) * float("nan"), "match": lambda *given: (sound(*given)[0] * float("nan"), sound(*given)[1])}
    monkeypatch.setattr(method, part, spoil[part])
    with pytest.raises(Refused, match=r"^p\d+_a_0: .*not finite"):
        ground.ground(method, store, prior=prior, draws=20, progress=False)
