"""Scores with intervals: AUROC per finding, recall at k, concordance. The unit is the study, the bootstrap draws patients.

Every number comes with its guard: where a class is absent, the score is nan and the finding is named in the table; nothing is dropped silently.
Bootstraps reweight instead of copying: one sort per score column serves all draws, so that a thousand draws of 18 findings take a second.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from asapkit.types import FINDINGS

Groups = Sequence[Hashable] | np.ndarray  # one entry per row; equal entries belong together

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval. `draws` counts the bootstrap draws in which the value was defined."""

    value: float
    low: float
    high: float
    draws: int = 0

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Scores:
    """AUROC per column and their macro mean, each with its interval. `left_out` names the columns that have no value, and why."""

    macro: Interval
    per_finding: dict[str, Interval]
    left_out: dict[str, str]
    units: int
    clusters: int


def auroc(scores: Float[np.ndarray, " n"], labels: Num[np.ndarray, " n"]) -> float:
    """Area under the ROC curve, ties counted half; labels 1, 0, and -1 (unknown, left out). nan where a class is absent or a score is nan."""
    column = np.asarray(scores, float)[:, None]
    return float(_areas(column, np.asarray(labels)[:, None], np.ones((1, len(column))))[0, 0])


def aurocs(
    scores: Float[np.ndarray, "n f"],
    labels: Num[np.ndarray, "n f"],
    groups: Groups,
    *,
    findings: Sequence[str] = FINDINGS,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Scores:
    """AUROC of each column with intervals from a bootstrap over groups (patients). Rows are units: studies, not volumes (see `by_study`).

    The macro mean is over the columns that have a value in the sample at hand; a draw without one class of a finding leaves that finding out
    of its macro mean. Raises: ValueError when the shapes disagree.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    _check(scores, labels, groups, findings)
    weights, clusters = cluster_weights(groups, draws=draws, seed=seed)
    values = _areas(scores, labels, np.vstack([np.ones(len(scores)), weights]))
    return _summary(values, findings, _reasons(scores[None], labels, findings), level=level, units=len(scores), clusters=clusters)


def difference(
    scores_a: Float[np.ndarray, "*s n f"],
    scores_b: Float[np.ndarray, "*s n f"],
    labels: Num[np.ndarray, "n f"],
    groups: Groups,
    *,
    findings: Sequence[str] = FINDINGS,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Scores:
    """AUROC(a) - AUROC(b), paired: both are scored on the same patients of every draw. A leading axis of seeds is averaged before differencing."""
    labels = np.asarray(labels)
    a, b = (x[None] if x.ndim == 2 else x for x in (np.asarray(scores_a, float), np.asarray(scores_b, float)))
    for x in (a, b):
        _check(x[0], labels, groups, findings)
    weights, clusters = cluster_weights(groups, draws=draws, seed=seed)
    weights = np.vstack([np.ones(len(labels)), weights])
    values = mean_areas(a, labels, weights) - mean_areas(b, labels, weights)
    return _summary(values, findings, _reasons(a, labels, findings), level=level, units=len(labels), clusters=clusters)


def seeds(
    scores: Float[np.ndarray, "s n f"],
    labels: Num[np.ndarray, "n f"],
    groups: Groups,
    *,
    findings: Sequence[str] = FINDINGS,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Scores:
    """Mean AUROC of several runs (seeds, subsets) on the same units.

    The interval holds both sources of spread: each draw resamples the patients and, with them, the runs.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    _check(scores[0], labels, groups, findings)
    weights, clusters = cluster_weights(groups, draws=draws, seed=seed)
    areas = np.stack([_areas(run, labels, np.vstack([np.ones(len(labels)), weights])) for run in scores])  # (s, 1 + draws, f)
    picked = np.random.default_rng([seed, 1]).multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=draws)
    shares = np.vstack([np.full(len(scores), 1 / len(scores)), picked / len(scores)])
    values = np.einsum("sdf,ds->df", np.nan_to_num(areas), shares)
    weight = np.einsum("sdf,ds->df", ~np.isnan(areas), shares)
    with np.errstate(invalid="ignore"):
        values = np.where(weight > 0, values / weight, np.nan)
    return _summary(values, findings, _reasons(scores, labels, findings), level=level, units=len(labels), clusters=clusters)


def mean_areas(scores: Float[np.ndarray, "s n f"], labels: Num[np.ndarray, "n f"], weights: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d f"]:
    """Weighted AUROC of each draw and column, averaged over the runs (leading axis) that have one."""
    areas = np.stack([_areas(run, labels, weights) for run in scores])
    known = (~np.isnan(areas)).sum(0)
    return np.where(known > 0, np.nansum(areas, axis=0) / np.maximum(known, 1), np.nan)


def cluster_weights(groups: Groups, *, draws: int = DRAWS, seed: int = 0) -> tuple[Float[np.ndarray, "d n"], int]:
    """How often each unit is drawn when whole groups are drawn with replacement, one row per draw; and the number of groups."""
    _, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / max(count, 1)), size=draws)
    return drawn[:, index].astype(float), count


def by_study(
    scores: Float[np.ndarray, "n f"], studies: Groups, *others: Sequence | np.ndarray
) -> tuple[Float[np.ndarray, "m f"], np.ndarray, list[np.ndarray]]:
    """Mean score over the volumes of a study: scores, study names, and of each of `others` (labels, patients) the study's first row."""
    names, first, index = np.unique(np.asarray(studies).astype(str), return_index=True, return_inverse=True)
    mean = np.zeros((len(names), np.shape(scores)[1]))
    np.add.at(mean, index, np.asarray(scores, float))
    return mean / np.bincount(index)[:, None], names, [np.asarray(o)[first] for o in others]


def recall_at(
    similarity: Float[np.ndarray, "q g"], ks: Sequence[int] = (5, 10, 50, 100), *, target: Int[np.ndarray, " q"] | None = None
) -> dict[int, float]:
    """Share of queries whose own item (the diagonal, or `target`) is among their k best of the gallery; ties and nan count against."""
    target = np.arange(len(similarity)) if target is None else np.asarray(target)
    own = np.take_along_axis(similarity, target[:, None], axis=1)
    better = (~(similarity < own)).sum(1)  # holds the item itself
    return {k: float((better <= k).mean()) for k in ks}


def concordance(risk: Float[np.ndarray, " n"], time: Float[np.ndarray, " n"], event: Num[np.ndarray, " n"]) -> float:
    """Harrell's C: of the pairs whose order is known, the share in which the earlier event had the higher risk; tied risks count half.

    nan where no order is known, or a risk is nan.
    """
    risk, time, event = np.asarray(risk, float), np.asarray(time, float), np.asarray(event).astype(bool)
    earlier = (time[:, None] < time[None]) | ((time[:, None] == time[None]) & ~event[None])
    known = earlier & event[:, None]
    np.fill_diagonal(known, False)
    higher, tied = risk[:, None] > risk[None], risk[:, None] == risk[None]
    return float((higher + 0.5 * tied)[known].mean()) if known.any() and not np.isnan(risk).any() else float("nan")


def rank_correlation(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"], groups: Groups, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Spearman's correlation with an interval from a bootstrap over groups (ranks are those of the whole sample); nan where x or y is constant."""
    from scipy.stats import rankdata

    weights, _ = cluster_weights(groups, draws=draws, seed=seed)
    w = np.vstack([np.ones(len(x)), weights])
    w = w / w.sum(1, keepdims=True)
    a, b = (rankdata(v)[None] - (w @ rankdata(v))[:, None] for v in (x, y))
    spread = np.sqrt((w * a * a).sum(1) * (w * b * b).sum(1))
    found = np.where(spread > 1e-9, (w * a * b).sum(1) / np.maximum(spread, 1e-9), np.nan)
    return interval(float(found[0]), found[1:])


def _areas(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted AUROC (draws, columns). One sort per column: the weight of the negatives below each positive, summed at the ends of ties."""
    out = np.full((len(weights), scores.shape[1]), np.nan)
    for f in range(scores.shape[1]):
        known = labels[:, f] >= 0
        values, positive = scores[known, f], labels[known, f] > 0.5
        if np.isnan(values).any() or positive.all() or not positive.any():
            continue
        order = np.argsort(values, kind="stable")
        ends = tie_ends(values[order])
        w = weights[:, known][:, order]
        below = np.cumsum(np.where(positive[order], 0.0, w), axis=1)[:, ends]
        hits = np.diff(np.cumsum(np.where(positive[order], w, 0.0), axis=1)[:, ends], prepend=0.0, axis=1)
        before = np.concatenate([np.zeros((len(w), 1)), below[:, :-1]], axis=1)
        pairs = below[:, -1] * hits.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, f] = np.where(pairs > 0, (hits * (before + below) / 2).sum(1) / pairs, np.nan)
    return out


def tie_ends(ordered: Num[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The last place of every run of equal values, infinities too."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def interval(value: float, draws: np.ndarray, *, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap draws around a value; nan where no draw is defined."""
    known = draws[~np.isnan(draws)]
    if not len(known) or np.isnan(value):
        return Interval(float(value), float("nan"), float("nan"), len(known))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), len(known))


def _summary(values: np.ndarray, findings: Sequence[str], left_out: dict[str, str], *, level: float, units: int, clusters: int) -> Scores:
    """Row 0 holds the values, the other rows the draws."""
    defined = ~np.isnan(values[0])
    kept = values[:, defined]
    counts = (~np.isnan(kept)).sum(1)
    macro = np.where(counts > 0, np.nansum(kept, axis=1) / np.maximum(counts, 1), np.nan)
    per = {name: interval(values[0, f], values[1:, f], level=level) for f, name in enumerate(findings)}
    return Scores(interval(macro[0], macro[1:], level=level), per, left_out, units, clusters)


def _reasons(scores: np.ndarray, labels: np.ndarray, findings: Sequence[str]) -> dict[str, str]:
    out = {}
    for f, name in enumerate(findings):
        known = labels[:, f] >= 0
        positive = int((labels[known, f] > 0.5).sum())
        if not known.any():
            out[name] = "no labels among the scored"
        elif np.isnan(scores[:, known, f]).any(axis=1).all():
            out[name] = "not scored"
        elif positive == 0:
            out[name] = "no positive among the scored"
        elif positive == known.sum():
            out[name] = "no negative among the scored"
    return out


def _check(scores: np.ndarray, labels: np.ndarray, groups: Groups, findings: Sequence[str]) -> None:
    if scores.shape != labels.shape or len(scores) != len(groups) or scores.shape[1] != len(findings):
        raise ValueError(
            f"scores {scores.shape}, labels {labels.shape}, {len(groups)} groups and {len(findings)} findings do not fit together: "
            "one row per unit, one column per finding"
        )
