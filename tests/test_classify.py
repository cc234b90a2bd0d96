"""The linear probe: its head against scikit-learn, its subsets, what it leaves out, and that it finds what is there."""

from __future__ import annotations

import numpy as np
import pytest
from memory import Bright, MemoryStore
from sklearn.linear_model import LogisticRegression

from asapkit.features import Features, extract
from asapkit.tasks import classify
from asapkit.types import FINDINGS, Refused


@pytest.fixture(scope="module")
def store():
    return MemoryStore(patients=48)


@pytest.fixture(scope="module")
def features(store):
    return extract(Bright(), store, progress=False)


@pytest.mark.parametrize("penalty", [0.003, 0.1, 3.0])
@pytest.mark.parametrize("size", [(150, 8), (30, 60)])
def test_the_head_is_that_of_scikit_learn(penalty, size):
    rng = np.random.default_rng(0)
    n, d = size
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    x = (x - x.mean(0)) / x.std(0)
    y = (x[:, :3] + rng.normal(size=(n, 3)) > 0.5).astype(float)
    y[::7, 1] = -1  # unknown
    weights, bias = classify.logistic(x, y, np.full(3, penalty), steps=5000, tolerance=1e-8)
    for k in range(3):
        known = y[:, k] >= 0
        peer = LogisticRegression(C=1 / (penalty * known.sum()), tol=1e-9, max_iter=20000).fit(x[known], y[known, k])
        np.testing.assert_allclose(weights[:, k], peer.coef_[0], atol=2e-3)
        assert bias[k] == pytest.approx(peer.intercept_[0], abs=2e-3)


def test_studies_average_their_volumes(store, features):
    studies = classify.table(features, store)
    assert len(studies) == 48
    place = list(studies.names).index("p3_a")
    np.testing.assert_allclose(studies.features[place], features.of(["p3_a_0", "p3_a_1"]).mean(0), rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_subsets_are_of_the_asked_size_redrawn_by_seed_and_held_out_patients_are_never_in_them(store, features, share):
    studies = classify.table(features, store)
    chosen = [classify._subset(studies, share, seed) for seed in range(3)]
    assert {len(c) for c in chosen} == {round(share * studies.train.sum())}
    assert all(studies.train[c].all() for c in chosen)
    assert (share == 1.0) == all((c == chosen[0]).all() for c in chosen)


def test_the_probe_finds_what_is_there(store, features):
    head = classify.fit(features, store, progress=False)
    table = classify.score(features, head, store).set_index("finding")
    assert table.loc["Lung nodule", "auroc"] > 0.95
    assert np.isnan(table.loc["Hiatal hernia", "auroc"])
    assert "0 positives" in table.loc["Hiatal hernia", "note"]
    assert table.loc["macro", "auroc"] > 0.95
    assert set(table.index) == {"macro", *FINDINGS}


def test_findings_with_few_positives_are_left_out_and_named(store, features):
    head = classify.fit(features, store, share=0.25, progress=False)  # 8 studies, about half ill
    assert head.studies == 8
    few = [f for f, why in head.left_out.items() if "positives among 8" in why]
    assert few
    assert np.isnan(head(features.pooled)[:, FINDINGS.index(few[0])]).all()


def test_comparison_is_paired_and_in_the_agreed_form(store, features):
    rng = np.random.default_rng(0)
    noise = Features(features.ids, rng.normal(size=features.pooled.shape), features.in_body)
    encoders = {"asap": features, "mae": features, "random": noise, "supervised": features}
    table, summary = classify.compare(encoders, store, shares=(0.5, 1.0), seeds=2, draws=100, progress=False)
    assert set(summary["probe_macro_auroc"]) == set(encoders)
    assert set(summary["probe_macro_auroc"]["asap"]) == {"value", "low", "high"}
    assert summary["difference"]["asap-mae"] == {"value": 0, "low": 0, "high": 0}
    assert summary["difference"]["asap-random"]["low"] > 0
    assert summary["gap_closed"]["asap"] == pytest.approx(1)
    assert "Hiatal hernia" in summary["left_out"]
    assert len(table) == len(encoders) * 2 * (1 + len(FINDINGS))
    assert set(table["trained_on"]) == {16, 32}


def test_a_store_without_labels_is_refused(store, features):
    bare = MemoryStore(patients=4)
    bare.table = bare.table.drop(columns=["Emphysema"])
    with pytest.raises(Refused, match="Emphysema"):
        classify.fit(Bright(), bare, progress=False)


def unlabelled(findings):
    store = MemoryStore(patients=24)
    store.table[list(findings)] = -1
    return store


def test_a_store_without_any_label_is_refused_before_an_encoder_runs():
    store, encoder = unlabelled(FINDINGS), Bright()
    for work in (lambda: classify.fit(encoder, store), lambda: classify.compare({"one": encoder}, store)):
        with pytest.raises(Refused, match="no labels in this store; `asapkit label`.*--labels") as told:
            work()
        assert "\n" not in str(told.value)
    assert encoder.calls == 0


def test_a_finding_without_labels_is_called_that():
    store = unlabelled(["Emphysema"])
    features = extract(Bright(), store, progress=False)
    table = classify.score(features, classify.fit(features, store), store).set_index("finding")
    assert table.loc["Emphysema", "note"] == "no labels" and np.isnan(table.loc["Emphysema", "auroc"])
    assert table.loc["macro", "note"] == ""
    few = unlabelled([f for f in FINDINGS if f != "Hiatal hernia"])  # the one that nobody has
    table = classify.score(features, classify.fit(features, few), few).set_index("finding")
    assert np.isnan(table.loc["macro", "auroc"]) and table.loc["macro", "note"] == "no finding could be scored"
