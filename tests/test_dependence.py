"""Patient dependence: every measure against a loop from its definition, and what it must say of a model that looks and of one that does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asapkit import dependence, objectives
from asapkit.dependence import View


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(patches, sentences, owner, meaning, *, k=2, inside=None, **changes) -> View:
    count, rows = len(patches), len(sentences)
    body = torch.ones(patches.shape[:2], dtype=torch.bool)
    inside = body.unsqueeze(-1) if inside is None else inside
    known = {
        "patches": patches, "body": body, "inside": inside, "sentences": sentences, "named": torch.ones(rows, inside.shape[-1], dtype=torch.bool),
        "owner": torch.as_tensor(owner), "meaning": torch.as_tensor(meaning), "positive": torch.ones(rows, dtype=torch.bool),
        "k": torch.full((rows,), k), "patient": tuple(f"p{n}" for n in range(count)),
    }  # fmt: skip
    return View(**(known | changes))


def scene(*, patients=5, sentences=4, patches=30, width=8, seed=0, **changes) -> View:
    """Noise: what the oracles are counted on. Some sentences mean the same, reports are of different length, candidates differ by patient."""
    owner = [p for p in range(patients) for _ in range(sentences - p % 2)]
    meaning = torch.randint(0, 7, (len(owner),), generator=torch.Generator().manual_seed(seed + 9))
    inside = torch.rand(patients, patches, 2, generator=torch.Generator().manual_seed(seed + 3)) > 0.3
    made = view(rand(patients, patches, width, seed=seed), rand(len(owner), width, seed=seed + 1), owner, meaning, inside=inside, **changes)
    named = torch.rand(len(owner), 2, generator=torch.Generator().manual_seed(seed + 5)) > 0.4
    body = torch.rand(patients, patches, generator=torch.Generator().manual_seed(seed + 6)) > 0.2
    return replace(made, named=named, body=body, k=torch.arange(len(owner)) % 3 + 1)


def places_only(*, form="report", kinds=6, patients=8, **changes) -> View:
    """Every kind of sentence has its own patch, the same in every patient; the patients do not differ at all."""
    kind = rand(kinds, 16, seed=1)
    patches = 0.1 * rand(40, 16, seed=2)
    patches[:kinds] = kind
    owner = [p for p in range(patients) for _ in range(kinds)]
    return view(patches.expand(patients, -1, -1).clone(), kind.repeat(patients, 1), owner, list(range(kinds)) * patients, k=1, form=form, **changes)


def looking(*, form="report", kinds=4, patients=8, **changes) -> View:
    """Every sentence has a patch of its own in its own patient, at a place of its own; all else is one background, the same in all patients."""
    features = objectives.unit(rand(patients * kinds, 64, seed=1))
    patches = objectives.unit(rand(64, seed=3)) + 0.02 * rand(patients, 40, 64, seed=2)
    owner = [p for p in range(patients) for _ in range(kinds)]
    where = np.random.default_rng(0)
    for p in range(patients):
        patches[p, where.permutation(40)[:kinds]] = features[p * kinds : (p + 1) * kinds]
    return view(patches, features, owner, list(range(patients * kinds)), k=1, form=form, **changes)


def selected(v: View, s: int, p: int) -> list[int]:
    """The K best of the patches that a sentence may choose in a patient; all, where it may choose none."""
    free = [n for n in range(v.patches.shape[1]) if any(v.named[s, g] and v.inside[p, n, g] for g in range(v.inside.shape[2]))]
    free = free or list(range(v.patches.shape[1]))
    cosine = torch.nn.functional.cosine_similarity(v.sentences[s], v.patches[p, free], dim=-1)
    return [free[i] for i in cosine.argsort(descending=True)[: int(v.k[s])]]


def cos(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def report_loss(v: View, s: int, image: int) -> float:
    """-log softmax in both directions among the sentences of one report, those of the same meaning left out."""
    mine = [r for r in range(len(v.owner)) if v.owner[r] == v.owner[s]]
    others = [r for r in mine if r == s or v.meaning[r] != v.meaning[s]]
    seen = {r: v.patches[image, selected(v, r, image)].mean(0) for r in mine}
    own = math.exp(cos(v.sentences[s], seen[s]) / v.temperature)
    rows = sum(math.exp(cos(v.sentences[s], seen[r]) / v.temperature) for r in others)
    columns = sum(math.exp(cos(v.sentences[r], seen[s]) / v.temperature) for r in others)
    return -math.log(own / rows) - math.log(own / columns)


def batch_loss(v: View, s: int, images: np.ndarray, reports: list[int]) -> float:
    """A sentence over the images of its batch that do not state it, and its image over the sentences that it does not state."""

    def score(r, b):
        return math.exp(cos(v.sentences[r], v.patches[images[b], selected(v, r, int(images[b]))].mean(0)) / v.temperature)

    stated = {b: {int(m) for m, o in zip(v.meaning, v.owner, strict=True) if o == b} for b in reports}
    b, m = int(v.owner[s]), int(v.meaning[s])
    own = score(s, b)
    rows = own + sum(score(s, c) for c in reports if m not in stated[c])
    columns = own + sum(score(r, b) for r in range(len(v.owner)) if int(v.owner[r]) in reports and int(v.meaning[r]) not in stated[b])
    return -math.log(own / rows) - math.log(own / columns)


def test_the_loss_within_the_report_is_the_written_out_one_with_any_image():
    v = scene()
    images = np.array([2, 0, 1, 4, 3])
    found = dependence.losses(v, dependence.evidence(v), images, block=np.zeros(5, int))
    expected = [report_loss(v, s, int(images[v.owner[s]])) for s in range(len(v.owner))]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_loss_over_images_is_the_written_out_one_within_every_batch():
    v = scene(patients=6, form="batch")
    block, images = np.array([0, 1, 0, 1, 0, 1]), np.array([4, 3, 0, 5, 2, 1])
    found = dependence.losses(v, dependence.evidence(v), images, block=block)
    batches = {0: [0, 2, 4], 1: [1, 3, 5]}
    expected = [batch_loss(v, s, images, batches[block[v.owner[s]]]) for s in range(len(v.owner))]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_losses_are_those_that_training_minimises():
    v = scene()
    own, everyone, weights = dependence.evidence(v), np.arange(5), []
    terms = dependence.losses(v, own, everyone, block=np.zeros(5, int))
    length = max(torch.bincount(v.owner))
    shape = (5, int(length))
    real, sentence, seen = torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, 8), torch.zeros(*shape, 8)
    meaning = torch.full(shape, -1)
    for p in range(5):
        rows = (v.owner == p).nonzero()[:, 0]
        real[p, : len(rows)], sentence[p, : len(rows)], meaning[p, : len(rows)] = True, v.sentences[rows], v.meaning[rows]
        seen[p, : len(rows)] = own[rows, p]
        weights.append(terms[rows].mean())
    assert float(sum(weights) / 5) == pytest.approx(float(objectives.align_in_report(sentence, seen, real, meaning=meaning)), rel=1e-5)
    v = replace(v, form="batch")
    logits = torch.einsum("le,lbe->lb", objectives.unit(v.sentences), objectives.unit(own)) / v.temperature
    weight = 1.0 / torch.bincount(v.owner)[v.owner]
    trained = objectives.align_over_images(logits, v.owner, v.meaning, weight=weight)
    assert dependence._means(v, dependence.losses(v, own, everyone, block=np.zeros(5, int)), draws=1, seed=0)[0] == pytest.approx(
        float(trained), rel=1e-5
    )


def test_without_evidence_the_loss_is_at_chance():
    v = scene()
    v = replace(v, meaning=torch.arange(len(v.owner)))
    found = dependence.losses(v, torch.zeros(len(v.owner), 5, 8), np.arange(5), block=np.zeros(5, int))
    lengths = torch.bincount(v.owner)[v.owner]
    assert found.tolist() == pytest.approx([2 * math.log(int(n)) for n in lengths], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.integers(0, 2**16))
def test_an_exchange_gives_every_image_once_and_none_to_its_own_patient(patients, seed):
    names, most = [f"p{p}" for p in patients], max(map(patients.count, patients))
    rng = np.random.default_rng(seed)
    if 2 * most > len(patients):
        with pytest.raises(ValueError, match="are of one patient"):
            dependence.exchange(names, rng=rng)
        return
    found = dependence.exchange(names, rng=rng)
    assert sorted(found) == list(range(len(patients)))
    assert all(names[image] != names[report] for report, image in enumerate(found))


def test_exchanges_differ_and_stay_within_their_batch():
    v = looking(patients=12, form="batch", size=4)
    block = dependence.blocks(v)
    assert sorted(np.bincount(block)) == [4, 4, 4]
    found = dependence.exchanges(v, block, count=6)
    assert len({tuple(row) for row in found}) > 3
    assert (block[found] == block).all() and (found != np.arange(12)).all()


def test_volumes_of_one_patient_are_in_one_batch():
    v = replace(looking(patients=9, form="batch", size=3), patient=("a", "a", "b", "c", "d", "e", "f", "g", "h"))
    block = dependence.blocks(v)
    assert block[0] == block[1] and len(set(block)) == 2


@pytest.mark.parametrize("block", [np.zeros(5, int), np.array([0, 1, 0, 1, 2])])
def test_the_position_code_is_the_mean_over_the_others(block):
    v = scene()
    coded = dependence.position_code(v, block)
    for p in range(5):
        others = [q for q in range(5) if (q != p if len(set(block)) < 2 else block[q] != block[p])]
        for n in (0, 7, 29):
            expected = sum(v.patches[q, n] for q in others) / len(others)
            torch.testing.assert_close(coded.patches[p, n], expected)
            assert coded.inside[p, n].tolist() == [2 * sum(bool(v.inside[q, n, g]) for q in others) >= len(others) for g in (0, 1)]


def test_agreement_is_counted_over_pairs():
    v = scene()
    correlation, overlap, random = dependence.agreement(v)
    maps = objectives.unit(v.sentences) @ objectives.unit(v.patches).mT  # (P, S, N)
    for p, q in ((0, 1), (3, 2), (4, 4)):
        both = (v.body[p] & v.body[q]).numpy()
        rows = range(len(v.owner))
        expected = [np.corrcoef(maps[p, s].numpy()[both], maps[q, s].numpy()[both])[0, 1] for s in rows]
        assert correlation[p, q] == pytest.approx(np.mean(expected), abs=1e-4)
        taken = [(set(selected(v, s, p)), set(selected(v, s, q))) for s in rows]
        assert overlap[p, q] == pytest.approx(np.mean([len(a & b) / min(len(a), len(b)) for a, b in taken]), abs=1e-5)
    assert random.shape == (5, 5)


def test_overlap_by_chance_is_k_of_n_and_what_random_patches_give():
    v = replace(scene(), named=torch.ones(len(scene().owner), 2, dtype=torch.bool), inside=torch.ones(5, 30, 2, dtype=torch.bool))
    assert dependence.agreement(v)[2] == pytest.approx(np.full((5, 5), float(v.k.float().mean()) / 30), rel=1e-5)
    v, rng = scene(), np.random.default_rng(0)
    shares = []
    for s in range(len(v.owner)):
        free = [[n for n in range(30) if (v.named[s] & v.inside[p, n]).any()] or list(range(30)) for p in (0, 1)]
        k = int(v.k[s])
        drawn = [[set(rng.choice(f, k, replace=False)) for f in free] for _ in range(1000)]
        shares.append(np.mean([len(a & b) / k for a, b in drawn]))
    assert dependence.agreement(v)[2][0, 1] == pytest.approx(np.mean(shares), abs=0.01)


def test_a_flat_map_has_no_correlation_and_an_unseen_one_counts_nothing():
    v = scene()
    flat = replace(v, patches=torch.cat([torch.ones(1, 30, 8), v.patches[1:]]))
    correlation = dependence.agreement(flat)[0]
    assert np.isnan(correlation[0]).all() and not np.isnan(correlation[1:, 1:]).any()
    assert np.isfinite(dependence.measure(flat, draws=20)["correlation"]["value"])


@pytest.mark.parametrize("mean", ["report", "batch"])
def test_positions_alone_are_found_out(mean):
    """The shortcut: no rise at all, the same maps in every patient, and positions give the whole fall below chance."""
    found = dependence.measure(places_only(mean=mean), draws=50)
    assert found["own"]["value"] < 0.1 < found["chance"]["value"]
    assert found["rise"] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-5)
    assert found["explained"]["value"] == pytest.approx(1, abs=1e-4)
    assert found["correlation"]["value"] == pytest.approx(1, abs=1e-4)
    assert found["overlap"]["value"] == pytest.approx(1)
    assert found["overlap_chance"]["value"] == pytest.approx(1 / 40)
    assert np.isnan(found["rise_positive"]["value"]), "every report says the same: no sentence is left to compare"


@pytest.mark.parametrize("form", dependence.FORMS)
def test_a_model_that_looks_is_seen_to_look(form):
    found = dependence.measure(looking(form=form, size=4), draws=50)
    assert found["own"]["value"] < 0.3 * found["chance"]["value"]
    assert found["rise"]["low"] > 0.4 * found["chance"]["value"]
    assert found["rise_positive"]["value"] == pytest.approx(found["rise"]["value"], rel=1e-4), "nobody says the same here"
    assert found["explained"]["value"] < 0.4
    assert abs(found["correlation"]["value"]) < 0.3
    assert found["overlap"]["value"] < 0.15


def test_over_images_positions_tell_nothing():
    """All images of a batch have one position code: no image is told from another, whatever the sentences' places."""
    found = dependence.measure(places_only(form="batch", size=4), draws=20)
    assert found["own"]["value"] >= found["chance"]["value"] - dependence.FALL
    assert np.isnan(found["explained"]["value"])
    v = looking(form="batch", size=4)
    block = dependence.blocks(v)
    coded = dependence.evidence(dependence.position_code(v, block))
    for b in set(block):
        torch.testing.assert_close(coded[:, block == b], coded[:, block == b][:, :1].expand(-1, 4, -1))


def test_only_positive_sentences_that_the_other_report_does_not_state_count_as_positive():
    """Two kinds of sentence: a normal one that all reports state, seen alike everywhere, and a finding that one patient in two has."""
    v = looking(kinds=2)
    normal = torch.arange(16) % 2 == 1
    v = replace(v, positive=~normal, meaning=torch.where(normal, 99, torch.arange(16)))
    images = np.roll(np.arange(8), 1)
    assert dependence._says_too(v, images).tolist() == normal.tolist()
    own, other = (dependence.losses(v, dependence.evidence(v), i, block=np.zeros(8, int)) for i in (np.arange(8), images))
    found = dependence.measure(v, count=1, draws=10)
    assert found["positive"] == 8 and found["rise_positive"]["value"] > 0
    assert float((other - own)[~normal].mean()) > 0


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 50), st.integers(0, 100))
def test_the_length_of_features_and_the_order_of_patients_change_nothing(scale, seed):
    v = scene(seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    turned = replace(
        v, patches=scale * v.patches[order], sentences=v.sentences * scale, body=v.body[order], inside=v.inside[order],
        owner=order.argsort()[v.owner], patient=tuple(v.patient[p] for p in order),
    )  # fmt: skip
    a, b = (dependence.measure(x, count=1, draws=2) for x in (v, turned))
    for name in ("own", "positions", "chance", "correlation", "overlap", "overlap_chance"):
        assert a[name]["value"] == pytest.approx(b[name]["value"], rel=1e-3, abs=1e-4), name


def test_tops_are_the_best_of_those_that_may_be_chosen():
    v = scene()
    found = dependence.tops(v)
    assert all(int(found[s, p]) == selected(v, s, p)[0] for s in range(len(v.owner)) for p in range(5))


def test_intervals_draw_patients_and_the_same_seed_gives_the_same_numbers():
    v = looking()
    a, b = (dependence.measure(v, draws=50, seed=3) for _ in range(2))
    assert a == b
    assert a["rise"]["low"] < a["rise"]["value"] < a["rise"]["high"]


def test_the_line_says_the_numbers_or_that_the_loss_is_at_chance():
    told = dependence.said(dependence.measure(places_only(), draws=20))
    assert "rises by 0.00 (0.00 to 0.00)" in told.replace("-0.00", "0.00") and "positions alone give 100 %" in told.replace("%", " %")
    assert "it is not below chance" in dependence.said(dependence.measure(places_only(form="batch", size=4), draws=20))


def test_what_cannot_be_compared_is_refused():
    v = scene()
    with pytest.raises(ValueError, match="form 'volume': there are report, batch"):
        replace(v, form="volume")
    with pytest.raises(ValueError, match="of 1 patients"):
        replace(v, patient=("a",) * 5)
    with pytest.raises(ValueError, match="0 sentences"):
        v.some(slice(0, 0))
