"""What figures are drawn from: cached attention, lesions in patches, sentences at their K, in the order in which they are read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from memory import Bright, Matcher, MemoryStore

from asapkit import analysis, checkpoint, evidence, examples, exhibits
from asapkit.types import FINDINGS


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exhibits")
    store = evidence.ready(folder, scale="toy")
    run = evidence.ready_runs(folder, scale="toy", names=("asap",))["asap"]
    return store, checkpoint.load_method(run)


@pytest.mark.slow
def test_attention_values_are_cached_by_what_they_depend_on(ready, tmp_path, monkeypatch):
    store, method = ready
    ids = examples.held_out(store)[:2]
    fresh = exhibits.attention_values(method.encoder, store, ids, cache=tmp_path)
    layers = examples.attention_outputs(method.encoder, store, ids)
    assert all(np.allclose(fresh[id], analysis.layer_values(layers[id])) for id in ids)
    monkeypatch.setattr(exhibits, "attention_outputs", None)
    again = exhibits.attention_values(method.encoder, store, ids, cache=tmp_path)
    assert list(again) == ids and all(np.array_equal(again[id], fresh[id]) for id in ids)
    with pytest.raises(TypeError):
        exhibits.attention_values(method.encoder, store, ids[:1], cache=tmp_path)


@pytest.mark.slow
def test_the_lesion_patch_is_the_one_that_an_instance_fills_most(ready):
    store, method = ready
    id, patch = examples.example(store), method.encoder.patch
    index, finding = exhibits.lesion_patch(store, id, patch=patch)
    truth, grid = store.cropped(id, "truth")[0], method.encoder.grid
    names, best = examples.truth_names(store, id, sides=False), 0.0
    for place in np.ndindex(grid):
        block = truth[tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, patch))]
        filled = {bit: ((block >> np.uint32(bit)) & 1).mean() for bit in names}
        best = max(best, *filled.values())
        if int(np.ravel_multi_index(place, grid)) == index:
            ours, most = max(filled.values()), max(filled, key=filled.get)
            assert names[most] == finding
        assert exhibits.lesion_patches(store, id, patch=patch)[np.ravel_multi_index(place, grid)] == ((block > 0).mean() >= 0.1)
    assert ours == pytest.approx(best)


@pytest.mark.slow
def test_attention_reach_is_every_head_of_every_layer(ready):
    store, method = ready
    id, encoder = examples.example(store), method.encoder
    centres = analysis.patch_centres_mm(encoder.grid, encoder.patch, store.cropped(id)[1])
    table = exhibits.attention_reach({"asap": encoder}, store, id, patches=[3, 3, 9], centres_mm=centres)
    heads = encoder.blocks[0].attn.heads
    assert len(table) == 2 * len(encoder.blocks) * heads and set(table["patch"]) == {3, 9}
    shares = examples.looked_at(encoder, store, id, patches=[9])[1][:, 0]
    row = table[(table["patch"] == 9) & (table["layer"] == 2) & (table["head"] == 1)].iloc[0]
    assert row.distance_mm == pytest.approx(analysis.attention_distance_mm(shares, centres, 9)[0])
    assert row.spread == pytest.approx(analysis.attention_spread(shares)[0])


@pytest.mark.slow
def test_sentences_by_k_rise_in_k_and_are_the_best_of_their_k(ready):
    store, method = ready
    ids = examples.held_out(store)
    rows = exhibits.sentences_by_k(method, store, ids, most=3)
    assert 0 < len(rows) <= 3 and [r["k"] for r in rows] == sorted(r["k"] for r in rows)
    assert all(r["volume"].shape == store.contract.crop and r["truth"].any() for r in rows)
    everything = [r for id in ids for r in examples.sentence_rows(method, store, id, most=99) if r["truth"].any()]
    for k in {r["k"] for r in rows}:
        inside = [shares(r, method.encoder.patch) for r in everything if r["k"] == k]
        assert max(r["share"] for r in rows if r["k"] == k) == pytest.approx(max(inside))


def shares(row, patch) -> float:
    """Share of a row's selected patches of which a tenth or more lies in its truth."""
    grid = tuple(n // p for n, p in zip(row["truth"].shape, patch))
    hits = 0
    for index in analysis.top_patches(row["similarity"], row["k"]):
        place = np.unravel_index(index, grid)
        hits += row["truth"][tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, patch))].mean() >= 0.1
    return hits / row["k"]


def test_kinds_are_counted_in_the_order_in_which_they_are_read():
    table = pd.DataFrame({"kind": ["focal", "normal", "uncertain", "focal", "diffuse", "normal"], "k": [4, 2, 2, 2, 8, 2]})
    counted = exhibits.by_kind(table)
    assert counted["group"].tolist() == ["normal", "focal", "focal", "diffuse", "uncertain"]
    assert counted["k"].tolist() == [2, 2, 4, 8, 2] and counted["n"].tolist() == [2, 1, 1, 1, 1]


class OwnStore(MemoryStore):
    """Volumes and reports alone: no truth, no label."""

    def __init__(self, report: str = "A nodule is seen in the left lung. No consolidation."):
        super().__init__(patients=12)
        self.__dict__.update(sentences=None, instances=None)
        self.table = self.table.assign(has_truth=False, findings=report, impression="", **dict.fromkeys(FINDINGS, -1))

    def truth(self, id):
        return None


@pytest.mark.parametrize("report", ["A nodule is seen in the left lung. No consolidation.", ""])
def test_without_truth_grounding_says_how_to_get_it_and_k_is_still_told(report):
    store = OwnStore(report)
    found = exhibits.grounding(Matcher(), store, volumes=4)
    assert found.table.empty and set(found.records) >= {"sentence", "k"} and len(found.records) == (4 if report else 0)
    said = exhibits.grounding_said(found)
    assert "could not be measured" in said and "no truth in this store" in said and "asapkit phantom" in said
    assert "no truth" in exhibits.grounding_caption(found.summary)
    budgets = examples.budgets(Matcher(), store, store.ids[:4])
    assert "could not be measured" in exhibits.extent_said(budgets, store) and len(exhibits.by_kind(budgets)) == (2 if report else 0)


def test_with_truth_the_picture_says_how_many_of_how_many_volumes_were_grounded():
    store = MemoryStore(patients=24)
    some, every = (exhibits.grounding(Matcher(), store, volumes=n) for n in (2, 100))
    assert "2 sentences of 2 of the 4 held-out volumes" in exhibits.grounding_caption(some.summary)
    assert "of all 4 held-out volumes" in exhibits.grounding_caption(every.summary)
    assert "2 of 4 volumes" in exhibits.grounding_said(some) and "**100.0%**" in exhibits.grounding_said(some)


def test_without_labels_the_probes_say_how_to_get_them():
    table, summary = exhibits.probes({"one": Bright()}, OwnStore(), seeds=2)
    said = exhibits.probes_said(summary, table)
    assert table.empty and set(summary["left_out"].values()) == {"no labels"}
    assert "could not be measured" in said and "asapkit label" in said and "--labels" in said
