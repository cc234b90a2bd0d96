"""AUROC against scikit-learn, its invariances and guards; the bootstrap over patients; recall and concordance."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from asapkit import metrics


def drawn(n=200, f=3, *, seed=0, effect=1.0, levels=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, f)) < 0.4).astype(int)
    scores = rng.normal(size=(n, f)) + effect * labels
    return (np.round(scores * levels) / levels if levels else scores), labels


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_auroc_is_that_of_scikit_learn_with_ties_too(levels):
    scores, labels = drawn(levels=levels)
    for f in range(3):
        assert metrics.auroc(scores[:, f], labels[:, f]) == pytest.approx(roc_auc_score(labels[:, f], scores[:, f]), abs=1e-12)


def test_weighted_auroc_is_that_of_copied_rows():
    scores, labels = drawn(60, levels=2)
    weights, _ = metrics.cluster_weights(np.arange(60) // 3, draws=20, seed=4)
    areas = metrics.mean_areas(scores[None], labels, weights)
    for w, row in zip(weights.astype(int), areas, strict=True):
        again = np.repeat(np.arange(60), w)
        assert row[1] == pytest.approx(roc_auc_score(labels[again, 1], scores[again, 1]), abs=1e-12)


@pytest.mark.parametrize("transform", [np.exp, np.arctan, lambda x: 5 * x - 2])
def test_auroc_does_not_change_under_monotone_transforms(transform):
    scores, labels = drawn()
    assert metrics.auroc(transform(scores[:, 0]), labels[:, 0]) == pytest.approx(metrics.auroc(scores[:, 0], labels[:, 0]))
    assert metrics.auroc(-scores[:, 0], labels[:, 0]) == pytest.approx(1 - metrics.auroc(scores[:, 0], labels[:, 0]))


def test_a_constant_score_is_a_coin():
    assert metrics.auroc(np.zeros(10), np.arange(10) % 2) == 0.5


@pytest.mark.parametrize("end", [np.inf, -np.inf])
def test_ties_of_infinities_are_ties_and_nan_is_no_score(end):
    labels = np.array([0, 1, 1, 0])
    assert metrics.auroc(np.full(4, end), labels) == 0.5
    scores = np.array([end, end, 1.0, 2.0])
    assert metrics.auroc(scores, labels) == metrics.auroc(np.nan_to_num(scores), labels) == pytest.approx(3 / 8)
    assert np.isnan(metrics.auroc(np.array([0.0, np.nan, 1.0, 2.0]), labels))
    time, event = np.arange(1.0, 5.0), np.ones(4)
    assert metrics.concordance(np.full(4, end), time, event) == 0.5
    assert np.isnan(metrics.concordance(np.array([0.0, np.nan, 1.0, 2.0]), time, event))
    assert metrics.recall_at(np.full((3, 3), np.nan), [1, 3]) == {1: 0.0, 3: 1.0}


def test_an_absent_class_is_nan_and_named_and_left_out_of_the_macro_mean():
    scores, labels = drawn()
    labels[:, 1], labels[:, 2] = 0, 1
    result = metrics.aurocs(scores, labels, np.arange(200), findings=("a", "b", "c"), draws=50)
    assert np.isnan(result.per_finding["b"].value) and np.isnan(result.per_finding["c"].low)
    assert result.left_out == {"b": "no positive among the scored", "c": "no negative among the scored"}
    assert result.macro.value == result.per_finding["a"].value


def test_unknown_labels_are_left_out():
    scores, labels = drawn()
    hidden = labels.copy()
    hidden[50:, 0] = -1
    assert metrics.auroc(scores[:, 0], hidden[:, 0]) == pytest.approx(roc_auc_score(labels[:50, 0], scores[:50, 0]))


def test_the_macro_mean_is_the_mean_of_the_findings():
    scores, labels = drawn()
    result = metrics.aurocs(scores, labels, np.arange(200), findings=("a", "b", "c"), draws=20)
    assert result.macro.value == pytest.approx(np.mean([v.value for v in result.per_finding.values()]))
    assert result.units == result.clusters == 200


def test_copies_of_a_patient_do_not_narrow_the_interval():
    """Ten copies of each row: a bootstrap over rows would be fooled, one over patients is not."""
    scores, labels = drawn(80, 1)
    width = {}
    for copies, groups in ((1, np.arange(80)), (10, np.repeat(np.arange(80), 10)), (10, np.arange(800))):
        result = metrics.aurocs(np.repeat(scores, copies, 0), np.repeat(labels, copies, 0), groups, findings=("a",), draws=400)
        width[copies, len(set(groups))] = result.macro.high - result.macro.low
    assert width[10, 80] == pytest.approx(width[1, 80], rel=0.02)
    assert width[10, 800] < 0.5 * width[1, 80]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Normal scores one apart: the true AUROC is 0.7602. 95 % intervals of 100 samples cover it in 88 to 100 cases."""
    inside = 0
    for seed in range(100):
        scores, labels = drawn(120, 1, seed=seed)
        found = metrics.aurocs(scores, labels, np.arange(120), findings=("a",), draws=200, seed=seed).macro
        inside += found.low <= 0.7602 <= found.high
    assert 88 <= inside <= 100


def test_differences_are_paired():
    """Two scores that share their noise differ little: the paired interval is much narrower than either score's own."""
    scores, labels = drawn(200, 3)
    better = scores + 0.2 * labels
    names = ("a", "b", "c")
    gap = metrics.difference(better, scores, labels, np.arange(200), findings=names, draws=300)
    own = metrics.aurocs(scores, labels, np.arange(200), findings=names, draws=300)
    assert gap.macro.low > 0
    assert gap.macro.high - gap.macro.low < 0.5 * (own.macro.high - own.macro.low)
    assert gap.macro.value == pytest.approx(metrics.aurocs(better, labels, np.arange(200), findings=names, draws=1).macro.value - own.macro.value)
    same = metrics.difference(scores, scores, labels, np.arange(200), findings=names, draws=50)
    assert (same.macro.value, same.macro.low, same.macro.high) == (0, 0, 0)


def test_runs_add_their_spread():
    scores, labels = drawn(200, 1)
    rng = np.random.default_rng(1)
    runs = np.stack([scores + rng.normal(scale=s, size=scores.shape) for s in (0, 1, 3)])
    result = metrics.seeds(runs, labels, np.arange(200), findings=("a",), draws=300)
    assert result.macro.value == pytest.approx(np.mean([metrics.auroc(r[:, 0], labels[:, 0]) for r in runs]))
    alike = metrics.seeds(np.stack([scores] * 3), labels, np.arange(200), findings=("a",), draws=300)
    assert result.macro.high - result.macro.low > alike.macro.high - alike.macro.low


def test_a_thousand_draws_of_eighteen_findings_and_five_seeds_take_seconds():
    rng = np.random.default_rng(0)
    labels = (rng.random((240, 18)) < 0.2).astype(int)
    start = time.perf_counter()
    metrics.seeds(rng.normal(size=(5, 240, 18)), labels, np.arange(240) // 2)
    assert time.perf_counter() - start < 20


def test_volumes_of_a_study_are_averaged():
    scores = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    mean, names, (labels,) = metrics.by_study(scores, ["s2", "s2", "s1"], np.array([[1, 0], [1, 0], [0, 1]]))
    assert names.tolist() == ["s1", "s2"]
    assert mean.tolist() == [[10, 20], [2, 3]]
    assert labels.tolist() == [[0, 1], [1, 0]]


def test_recall_at_k():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])
    assert metrics.recall_at(similarity, (1, 2, 3)) == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 3: 1.0}
    assert metrics.recall_at(np.zeros((4, 4)), (1,)) == {1: 0.0}  # ties count against


def test_concordance_against_pairs_counted_one_by_one():
    rng = np.random.default_rng(0)
    risk, days, event = rng.integers(0, 5, 40).astype(float), rng.integers(1, 20, 40).astype(float), rng.integers(0, 2, 40)
    right = known = 0.0
    for i in range(40):
        for j in range(40):
            if i != j and event[i] and (days[i] < days[j] or (days[i] == days[j] and not event[j])):
                known += 1
                right += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    assert metrics.concordance(risk, days, event) == pytest.approx(right / known)
    assert np.isnan(metrics.concordance(risk, days, np.zeros(40)))


def test_shapes_that_do_not_fit_are_refused():
    scores, labels = drawn()
    with pytest.raises(ValueError, match="fit together"):
        metrics.aurocs(scores, labels, np.arange(200), findings=("a", "b"))
    with pytest.raises(ValueError, match="199 groups"):
        metrics.aurocs(scores, labels, np.arange(199), findings=("a", "b", "c"))


def test_a_finding_that_one_run_left_out_is_averaged_over_the_others():
    scores, labels = drawn()
    gap = np.stack([scores, scores])
    gap[0, :, 1] = np.nan
    result = metrics.seeds(gap, labels, np.arange(200), findings=("a", "b", "c"), draws=20)
    assert result.per_finding["b"].value == pytest.approx(metrics.auroc(scores[:, 1], labels[:, 1]))
    gap[1, :, 1] = np.nan
    assert metrics.seeds(gap, labels, np.arange(200), findings=("a", "b", "c"), draws=20).left_out == {"b": "not scored"}


def test_rank_correlation_is_spearmans_and_its_interval_knows_of_patients():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    x = np.repeat(rng.integers(1, 6, 40), 5)
    y = x + np.repeat(rng.normal(0, 2, 40), 5)
    found = metrics.rank_correlation(x, y, patients, draws=400)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    lone = metrics.rank_correlation(x, y, np.arange(200), draws=400)
    assert found.high - found.low > 1.5 * (lone.high - lone.low), "five copies of a patient are one patient"
    assert np.isnan(metrics.rank_correlation(np.ones(200), y, patients, draws=9).value)
