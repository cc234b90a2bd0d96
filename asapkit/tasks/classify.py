"""Linear probe: the 18 findings from frozen pooled features, at several shares of the labels, with intervals over patients.

The unit is the study: features are averaged over its reconstructions. Splits and subsets group patients. Five seeds redraw the subset and the
folds that choose the penalty; all encoders get the same subsets, so that their differences are paired.
Source: benchmark.md sections 2 and 5.1 (`strict` protocol). Differs: cached un-augmented features and a convex head in place of an augmented,
early-stopped one: minutes, no schedule, nothing to tune on the test patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from asapkit import metrics
from asapkit.features import Features, extract, require_labels, training_rows
from asapkit.store import Store
from asapkit.types import FINDINGS, Refused

NEEDS = "encoder"
SHARES = {"toy": (0.5, 1.0), "small": (0.05, 0.25, 1.0), "base": (0.01, 0.1, 1.0)}
PENALTIES = (0.003, 0.03, 0.3, 3.0)  # on half the squared weights, beside the mean log loss
LEAST_POSITIVES = 5
FOLDS = 3


@dataclass(frozen=True)
class Studies:
    """One row per study: mean features of its volumes, labels (1, 0, -1), patient, split."""

    names: np.ndarray
    patients: np.ndarray
    features: Float[np.ndarray, "n D"]
    labels: Float[np.ndarray, "n F"]
    train: np.ndarray  # bool

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Head:
    """Linear scores of standardised features. `left_out`: findings that were not trained, with the reason; their scores are nan."""

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "D F"]
    bias: Float[np.ndarray, " F"]
    penalty: float
    studies: int
    left_out: dict[str, str]

    def __call__(self, features: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n F"]:
        return ((features - self.mean) / self.scale) @ self.weights + self.bias


def fit(
    encoder: torch.nn.Module | Features,
    store: Store,
    *,
    share: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    cache: Path | str | None = None,
    progress: bool = True,
) -> Head:
    """A probe on a share of the training studies. Features that were extracted before may be given in place of the encoder.

    Raises: Refused when the store has no labels or no usable split, or its contract is not the encoder's.
    """
    require_labels(store)
    studies = table(_features(encoder, store, device, cache, progress), store)
    return fit_studies(studies, _subset(studies, share, seed), seed=seed)


def score(
    encoder: torch.nn.Module | Features, head: Head, store: Store, *, device: str = "cpu", cache: Path | str | None = None, progress: bool = True
) -> pd.DataFrame:
    """AUROC of each finding and "macro" on held-out patients: finding, auroc, low, high, studies, positives, note (why a value is missing)."""
    held_out = table(_features(encoder, store, device, cache, progress), store)
    here = ~held_out.train
    found = metrics.aurocs(head(held_out.features[here]), held_out.labels[here], held_out.patients[here])
    return _rows(found, held_out, head.left_out)


def compare(
    encoders: Mapping[str, torch.nn.Module | Features],
    store: Store,
    *,
    shares: Sequence[float] | None = None,
    seeds: int = 5,
    pairs: Sequence[tuple[str, str]] = (("asap", "random"), ("asap", "mae")),
    device: str = "cpu",
    cache: Path | str | None = None,
    draws: int = metrics.DRAWS,
    progress: bool = True,
) -> tuple[pd.DataFrame, dict]:
    """Probes every encoder at every share with the same subsets. shares: of the training studies; default by the store's scale.

    Returns a table (encoder, share, finding or "macro", auroc, low, high, seeds, studies, positives, note) and a summary of the largest share:
    {"share", "probe_macro_auroc": {encoder: {value, low, high}}, "difference": {"a-b": {...}}, "gap_closed": {encoder: share of the way from
    random to supervised}, "left_out": {finding: reason}}. Pairs whose encoders were not given are left out.
    Raises: Refused when the store has no labels.
    """
    require_labels(store)
    shares = tuple(shares or SHARES.get(store.scale, SHARES["base"]))
    rows, held, studies = [], {}, None
    with tqdm(total=len(encoders) * len(shares) * seeds, desc="probe", unit="fit", disable=not progress) as bar:
        for name, encoder in encoders.items():
            studies = table(_features(encoder, store, device, cache, progress), store)
            test = ~studies.train
            for share in shares:
                heads = []
                for seed in range(seeds):
                    heads.append(fit_studies(studies, _subset(studies, share, seed), seed=seed))
                    bar.update()
                held[name, share] = np.stack([head(studies.features[test]) for head in heads])
                found = metrics.seeds(held[name, share], studies.labels[test], studies.patients[test], draws=draws)
                notes = _notes([head.left_out for head in heads])
                rows.append(_rows(found, studies, notes).assign(encoder=name, share=share, seeds=seeds, trained_on=heads[0].studies))
    if studies is None:
        raise ValueError("no encoder to compare; give at least one by name")
    scores = pd.concat(rows, ignore_index=True)
    scores = scores[["encoder", "share", "finding", "auroc", "low", "high", "seeds", "trained_on", "studies", "positives", "note"]]
    return scores, _summary(scores, held, studies, max(shares), pairs, draws)


def _summary(scores: pd.DataFrame, held: dict, studies: Studies, share: float, pairs: Sequence[tuple[str, str]], draws: int) -> dict:
    macro = scores[(scores["share"] == share) & (scores["finding"] == "macro")].set_index("encoder")
    probe = {name: {"value": row["auroc"], "low": row["low"], "high": row["high"]} for name, row in macro.iterrows()}
    test, gaps = ~studies.train, {}
    for a, b in pairs:
        if (a, share) in held and (b, share) in held:
            gap = metrics.difference(held[a, share], held[b, share], studies.labels[test], studies.patients[test], draws=draws)
            gaps[f"{a}-{b}"] = gap.macro.as_dict()
    closed = {}
    if {"random", "supervised"} <= set(probe):
        floor, ceiling = probe["random"]["value"], probe["supervised"]["value"]
        others = [name for name in probe if name not in ("random", "supervised")]
        closed = {name: (probe[name]["value"] - floor) / (ceiling - floor) for name in others if ceiling > floor}
    noted = scores[(scores["share"] == share) & scores["auroc"].isna() & (scores["finding"] != "macro")]
    left_out = dict(zip(noted["finding"], noted["note"], strict=True))
    return {"share": share, "probe_macro_auroc": probe, "difference": gaps, "gap_closed": closed, "left_out": left_out}


# --- studies


def _features(encoder, store: Store, device: str, cache: Path | str | None, progress: bool) -> Features:
    return encoder if isinstance(encoder, Features) else extract(encoder, store, device=device, out=cache, progress=progress)


def table(features: Features, store: Store) -> Studies:
    """Rows of the table of volumes gathered into studies.

    Raises: Refused when there are no labels, or no patients to train or to score on.
    """
    require_labels(store)
    rows = store.table.loc[list(features.ids)]
    labels = rows[list(FINDINGS)].to_numpy(float)
    train = training_rows(rows)
    mean, names, (label, patient, train) = metrics.by_study(features.pooled, rows["study"].to_numpy(), labels, rows["patient"].to_numpy(), train)
    if train.all() or not train.any():
        raise Refused(f"{store.root}: {'no held-out' if train.all() else 'no training'} patients; the column split needs train and valid")
    return Studies(names, patient.astype(str), mean, label, train)


def _subset(studies: Studies, share: float, seed: int) -> np.ndarray:
    """Indices of a share of the training studies, whole patients in random order until it is reached. The same for every encoder.

    Raises: ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} of the training studies; give one above 0 and up to 1")
    train = np.flatnonzero(studies.train)
    wanted = max(2, round(share * len(train)))
    order = np.random.default_rng([seed, 11]).permutation(np.unique(studies.patients[train]))
    rank = {patient: i for i, patient in enumerate(order)}
    places = np.array([rank[p] for p in studies.patients[train]])
    return np.sort(train[np.argsort(places, kind="stable")[:wanted]])


# --- the head


def fit_studies(studies: Studies, chosen: np.ndarray, *, seed: int = 0) -> Head:
    """Standardises, chooses the penalty by folds over the chosen patients (out-of-fold macro AUROC), fits all findings at once."""
    x, y = studies.features[chosen], studies.labels[chosen]
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    left_out = {
        f: f"{n} positives among {len(chosen)} training studies" for f, n in zip(FINDINGS, (y == 1).sum(0), strict=True) if n < LEAST_POSITIVES
    }
    left_out |= {f: "no negative in training" for f, n in zip(FINDINGS, (y == 0).sum(0), strict=True) if n == 0}
    left_out |= {f: "no labels in training" for f, n in zip(FINDINGS, (y >= 0).sum(0), strict=True) if n == 0}
    kept = np.array([f not in left_out for f in FINDINGS])
    weights, bias = np.full((x.shape[1], len(FINDINGS)), np.nan), np.full(len(FINDINGS), np.nan)
    penalty = float(PENALTIES[-1])
    if kept.any():
        z = (x - mean) / scale
        penalty = _best_penalty(z, y[:, kept], studies.patients[chosen], seed)
        weights[:, kept], bias[kept] = logistic(z, y[:, kept], np.full(kept.sum(), penalty))
    return Head(mean, scale, weights, bias, penalty, len(chosen), left_out)


def _best_penalty(z: np.ndarray, y: np.ndarray, patients: np.ndarray, seed: int) -> float:
    """The penalty with the best macro AUROC of out-of-fold scores; ties and doubt go to the stronger one."""
    names, index = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng([seed, 12]).permutation(len(names)) % FOLDS)[index]
    count, grid = y.shape[1], np.array(PENALTIES)
    out = np.full((len(grid), *y.shape), np.nan)
    for k in range(FOLDS):
        inside = fold != k
        if inside.all() or not inside.any():
            continue
        weights, bias = logistic(z[inside], np.tile(y[inside], len(grid)), np.repeat(grid, count))
        out[:, ~inside] = (z[~inside] @ weights + bias).reshape(-1, len(grid), count).swapaxes(0, 1)
    every = np.ones((1, len(y)))
    scores = [np.nanmean(metrics.mean_areas(run[None], y, every)) if np.isfinite(run).all() else -1.0 for run in out]
    return float(grid[len(grid) - 1 - int(np.argmax(scores[::-1]))])


def logistic(
    x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "n K"], penalty: Float[np.ndarray, " K"], *, steps: int = 500, tolerance: float = 1e-5
) -> tuple[Float[np.ndarray, "D K"], Float[np.ndarray, " K"]]:
    """K ridge-penalised logistic regressions on the same x at once: mean log loss + penalty / 2 * |weights|^2, the bias free, labels -1 left out.

    Accelerated gradient steps in the eigenbasis of x'x, each direction with its own step from the bound (1/4 x'x + penalty) on the curvature,
    restarted when it overshoots. Exact at convergence (held against scikit-learn in the tests), and few lines in place of K slow fits.
    """
    known = (y >= 0).astype(float)
    total = np.maximum(known.sum(0), 1)
    values, basis = np.linalg.eigh(x.T @ x)
    basis = basis[:, values > values[-1] * 1e-10]
    z = np.hstack([x @ basis, np.ones((len(x), 1))])
    ridge = np.vstack([np.tile(penalty, (basis.shape[1], 1)), np.zeros((1, len(penalty)))])
    step = 1 / (0.25 * (z**2).sum(0)[:, None] / total + ridge + 1e-12)
    target = np.where(known > 0, y, 0.5)
    w = v = np.zeros((z.shape[1], y.shape[1]))
    t, last = 1.0, np.inf
    for _ in range(steps):
        gradient = z.T @ (known * (1 / (1 + np.exp(-(z @ v))) - target)) / total + ridge * v
        new = v - step * gradient
        if ((new - w) * (v - new) / step).sum() > 0:  # the momentum points uphill
            t = 1.0
        ahead = (1 + np.sqrt(1 + 4 * t * t)) / 2
        w, v, t = new, new + (t - 1) / ahead * (new - w), ahead
        last = np.abs(gradient).max()
        if last < tolerance:
            break
    return basis @ w[:-1], w[-1]


# --- records


def _rows(found: metrics.Scores, studies: Studies, notes: Mapping[str, str]) -> pd.DataFrame:
    test = ~studies.train
    unscored = "no finding could be scored" if np.isnan(found.macro.value) else ""
    rows = [{"finding": "macro", "positives": np.nan, "note": unscored, **_values(found.macro)}]
    for f, finding in enumerate(FINDINGS):
        note = "no labels" if (studies.labels[:, f] < 0).all() else notes.get(finding) or found.left_out.get(finding, "")
        rows.append({"finding": finding, "positives": int((studies.labels[test, f] == 1).sum()), "note": note, **_values(found.per_finding[finding])})
    return pd.DataFrame(rows).assign(studies=found.units)


def _values(interval: metrics.Interval) -> dict[str, float]:
    return {"auroc": interval.value, "low": interval.low, "high": interval.high}


def _notes(left_out: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What was left out in any of the runs: "3 positives among 12 training studies (4 of 5 seeds)"."""
    notes = {}
    for finding in FINDINGS:
        reasons = [run[finding] for run in left_out if finding in run]
        if reasons:
            notes[finding] = f"{reasons[0]} ({len(reasons)} of {len(left_out)} seeds)"
    return notes
