"""Grounding on the phantom: where does a method see a sentence, and does the truth lie there?

Positive sentences of held-out patients, nothing hidden, macro over findings. Beside the method's numbers always stand those that need no method:
a random body patch, a random patch of the named organ, the same sentence on another patient's scan, the finding's mean training location.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from asapkit import metrics
from asapkit.features import batches, patch_of, require_contract, require_finite, training_rows
from asapkit.organs import proportions
from asapkit.reports import organs_named
from asapkit.store import Store
from asapkit.types import FINDINGS, ORGANS, Refused

NEEDS = "method"
HIT = 0.1  # share of a patch's voxels in the truth that makes it a hit
FOCAL = 0.05  # of the body patches
MEASURES = ("hit", "auroc", "top_k_inside", "iou", "touch")
BASELINES = ("chance", "organ_only", "other_patient", "location_prior")
Gate = Literal["none", "organ"]


@dataclass(frozen=True)
class Prior:
    """Mean training location: (finding, side) -> mean truth share of the patches (N,), and over how many sentences. side "" is any side."""

    grids: dict[tuple[str, str], Float[np.ndarray, " N"]]
    counts: dict[tuple[str, str], int]
    least: int = 3

    def at(self, finding: str, side: str) -> Float[np.ndarray, " N"] | None:
        """The grid of finding and side; of the finding on any side where fewer than `least` sentences are known; None where none is."""
        key = (finding, side) if self.counts.get((finding, side), 0) >= self.least else (finding, "")
        return self.grids.get(key)


@dataclass(frozen=True)
class Grounding:
    """`records`: one row per sentence. `table`: per finding. `summary`: macro over findings, of all and of focal findings, with intervals; how many
    `volumes` of how many (`volumes_in_all`) were read."""

    records: pd.DataFrame
    table: pd.DataFrame
    summary: dict


def fit(
    encoder: torch.nn.Module, store: Store, *, volumes: int = 400, device: str = "cpu", cache: Path | str | None = None, progress: bool = True
) -> Prior:
    """The location prior from the truth of at most `volumes` training studies. `encoder` gives the grid; it is not run, on no `device`."""
    require_contract(getattr(encoder, "encoder", encoder), store)
    patch = patch_of(getattr(encoder, "encoder", encoder))
    sums: dict[tuple[str, str], np.ndarray] = {}
    counts: dict[tuple[str, str], int] = {}
    told = positive_sentences(store, train=True)
    ids = list(dict.fromkeys(told["id"]))[:volumes]
    for id, rows in tqdm(told[told["id"].isin(ids)].groupby("id", sort=False), desc="location prior", unit="volume", disable=not progress):
        truth = store.cropped(id, "truth")[0]
        for row in rows.itertuples():
            share = patch_share((truth & np.uint32(row.bits)) != 0, patch)
            for key in {(row.finding, row.side), (row.finding, "")}:
                sums[key] = sums.get(key, 0) + share
                counts[key] = counts.get(key, 0) + 1
    return Prior({key: (total / counts[key]).astype(np.float32) for key, total in sums.items()}, counts)


def score(
    method: torch.nn.Module,
    prior: Prior,
    store: Store,
    *,
    gate: Gate = "none",
    device: str = "cpu",
    cache: Path | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Per finding, "macro", and "macro focal" (over the focal findings, where there are any): the columns of `measure`, means over sentences.

    `focal` is 1 or 0, of "macro" the share of the findings that are. `cache` has no use here: maps are not pooled features.
    """
    found = ground(method, store, prior=prior, gate=gate, device=device, progress=progress)
    table = found.table.assign(focal=found.table["focal"].astype(float))
    means = {"macro": found.summary | {"focal": table["focal"].mean()}}
    if table["focal"].any():
        means["macro focal"] = found.summary["focal"] | {"focal": 1.0}
    rows = [{"finding": name} | {column: value for column, value in mean.items() if column in table} for name, mean in means.items()]
    return pd.concat([pd.DataFrame(rows), table], ignore_index=True)


def ground(
    method: torch.nn.Module,
    store: Store,
    *,
    prior: Prior | None = None,
    gate: Gate = "none",
    device: str = "cpu",
    batch_size: int = 8,
    max_volumes: int | None = None,
    draws: int = metrics.DRAWS,
    progress: bool = True,
) -> Grounding:
    """Grounds every positive sentence of the findings section of held-out patients, one volume per study.

    prior: of `fit`, made here where none is given. gate: "organ" lets only patches with some of a named organ compete (for the method and for
    its map of another patient). Raises: Refused when the store has no truth or another contract, the method matches no sentences, or its maps
    are not finite.
    """
    if not hasattr(method, "match") or not hasattr(method, "aligned"):
        raise Refused(f"{type(method).__module__} does not match sentences to patches; ground the whole method of a recipe that does, such as asap")
    require_contract(method.encoder, store)
    prior = fit(method, store, progress=progress) if prior is None else prior
    told = positive_sentences(store, train=False)
    every = list(dict.fromkeys(told["id"]))
    ids = every[:max_volumes]
    method = method.to(device).eval()
    seen = {}
    for scene in tqdm(_scenes(method, store, ids, device, batch_size), total=len(ids), desc="ground", unit="volume", disable=not progress):
        seen[scene.id] = scene
    patients = store.table["patient"].to_dict()
    rows = []
    for id, mine in told[told["id"].isin(ids)].groupby("id", sort=False):
        rows += _grounded(method, store, mine, here=seen[id], other=seen[_another(id, ids, patients)], prior=prior, gate=gate, device=device)
    records = pd.DataFrame(rows)
    found = summarise(records.assign(patient=records["id"].map(patients)), draws=draws)
    found.summary.update(volumes=len(ids), volumes_in_all=len(every))
    return found


def _grounded(
    method: torch.nn.Module, store: Store, told: pd.DataFrame, *, here: Scene, other: Scene, prior: Prior, gate: Gate, device: str
) -> list[dict]:
    """The records of one volume's sentences."""
    truth, patch = store.cropped(here.id, "truth")[0], patch_of(method.encoder)
    sentences = told["sentence"].tolist()
    (similarity, strange), k = _match(method, (here, other), sentences, device)
    rows = []
    for n, row in enumerate(told.itertuples()):
        share = patch_share((truth & np.uint32(row.bits)) != 0, patch)
        foreign = (strange[n], candidates(other, row.sentence, gate)) if other.id != here.id else None
        known = prior.at(row.finding, row.side)
        values = measure(here, row.sentence, share, (similarity[n], int(k[n])), gate=gate, strange=foreign, prior=known)
        rows.append({"id": here.id, "finding": row.finding, "side": row.side, "sentence": int(row.index)} | values)
    return rows


# --- what there is to ground


@dataclass(frozen=True)
class Scene:
    """One volume: its patches in the alignment space, which hold some of the body, and how much of each organ."""

    id: str
    aligned: torch.Tensor  # (N, E) half precision, CPU
    in_body: Bool[np.ndarray, " N"]
    organs: Float[np.ndarray, "N O"] | None


def positive_sentences(store: Store, *, train: bool) -> pd.DataFrame:
    """Positive sentences with truth, findings section, the first volume of each study: id, index, sentence, finding, bits, side.

    Raises: Refused when the store carries no truth, or the split has no such sentence.
    """
    if store.sentences is None:
        raise Refused(f"{store.root}: no truth in this store; grounding needs the phantom (or another dataset with truth)")
    rows = store.table[store.table["has_truth"].astype(bool)]
    first = rows[training_rows(rows) == train].reset_index().groupby("study", sort=False)["id"].first()
    told = store.sentences
    told = told[(told["polarity"] == "positive") & (told["section"] == "findings") & (told["bits"] != 0) & told["id"].isin(set(first))]
    if told.empty:
        raise Refused(f"{store.root}: no positive sentence with truth among {'training' if train else 'held-out'} patients; make a larger cohort")
    told = told.assign(side=told["side"].fillna("").replace("none", ""), bits=told["bits"].astype(np.int64))
    return told[["id", "index", "sentence", "finding", "bits", "side"]].reset_index(drop=True)


def patch_share(inside: Bool[np.ndarray, "X Y Z"], patch: tuple[int, int, int]) -> Float[np.ndarray, " N"]:
    """Share of each patch's voxels that are inside, row-major x, y, z."""
    px, py, pz = patch
    return rearrange(inside, "(x px) (y py) (z pz) -> (x y z) (px py pz)", px=px, py=py, pz=pz).mean(1, dtype=np.float32)


def _scenes(method: torch.nn.Module, store: Store, ids: Sequence[str], device: str, batch_size: int) -> Iterator[Scene]:
    patch = patch_of(method.encoder)
    done = 0
    with torch.inference_mode():
        for image, in_body in batches(store, ids, patch=patch, batch_size=batch_size):
            features = method.aligned(image.to(device)).half().cpu()
            require_finite(features.numpy(), ids[done:])
            for aligned, body in zip(features, in_body.numpy(), strict=True):
                id, done = ids[done], done + 1
                organs = proportions(store.cropped(id, "organs")[0], patch) if store.table.at[id, "has_organs"] else None
                yield Scene(id, aligned, body, organs)


def _match(method: torch.nn.Module, scenes: Sequence[Scene], sentences: list[str], device: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps (S, N) of each scene, and K (S,). One call, since encoding the sentences is what takes the time; a map is patch by patch."""
    with torch.inference_mode():
        similarity, k = method.match(torch.cat([s.aligned for s in scenes]).float().to(device), sentences)
    maps = np.split(similarity.float().cpu().numpy(), len(scenes), axis=1)
    for scene, found in zip(scenes, maps, strict=True):
        require_finite(found[None], (scene.id,))
    return maps, k.cpu().numpy()


def _another(id: str, ids: Sequence[str], patients: dict[str, str]) -> str:
    """The next volume of another patient, round the list; the volume itself where there is one patient only."""
    start = ids.index(id)
    return next((o for o in (*ids[start + 1 :], *ids[:start]) if patients[o] != patients[id]), id)


# --- measures


def candidates(scene: Scene, sentence: str, gate: Gate) -> Bool[np.ndarray, " N"]:
    """Body patches; with the organ gate, those that hold some of an organ that the sentence names (all, where it names none)."""
    named = [ORGANS.index(o) for o in organs_named(sentence)] if gate == "organ" and scene.organs is not None else []
    inside = scene.in_body & (scene.organs[:, named].sum(1) > 0) if named else scene.in_body
    return inside if inside.any() else np.ones_like(scene.in_body) if not scene.in_body.any() else scene.in_body


def measure(
    scene: Scene,
    sentence: str,
    share: Float[np.ndarray, " N"],
    found: tuple[Float[np.ndarray, " N"], int],
    *,
    gate: Gate = "none",
    strange: tuple[np.ndarray, np.ndarray] | None = None,
    prior: Float[np.ndarray, " N"] | None = None,
) -> dict[str, float]:
    """All numbers of one sentence. share: of each patch in the truth. found: similarity and K. strange: another patient's map and candidates.

    hit: the best candidate has at least `HIT` of its voxels in the truth; touch: any of them (a lesion smaller than that share of a patch can
    be touched, but not hit; can_hit tells). auroc: of the map over the voxels of body patches. top_k_inside and iou: of the K best candidates
    with the patches of the truth (those that would be hits; where none would, those that touch it). truth_share: of the body patches, those of
    the truth. chance and organ_only: a random patch of the body, of the named organs. nan where a baseline cannot be had.
    """
    similarity, k = found
    inside, body, organ = (candidates(scene, sentence, g) for g in (gate, "none", "organ"))
    hits, touched = share >= HIT, share > 0
    truth = (hits if (hits & body).any() else touched) & body
    best = np.argsort(np.where(inside, -similarity, np.inf), kind="stable")[: min(k, int(inside.sum()))]
    chosen = np.zeros_like(truth)
    chosen[best] = True
    out = {
        "hit": float(hits[best[0]]),
        "auroc": map_auroc(similarity, share, body),
        "top_k_inside": float(truth[best].mean()),
        "iou": float((chosen & truth).sum() / max((chosen | truth).sum(), 1)),
        "touch": float(touched[best[0]]),
        "k": float(len(best)),
        "can_hit": float((hits & body).any()),
        "truth_share": float(truth.sum() / body.sum()),
        "chance": float(hits[body].mean()),
        "organ_only": float(hits[organ].mean()),
        "chance_touch": float(touched[body].mean()),
        "organ_only_touch": float(touched[organ].mean()),
    }
    for name, foreign in (("other_patient", strange), ("location_prior", None if prior is None else (prior, body))):
        top = None if foreign is None else int(np.argmax(np.where(foreign[1], foreign[0], -np.inf)))
        out[name] = float("nan") if top is None else float(hits[top])
        out[f"{name}_touch"] = float("nan") if top is None else float(touched[top])
        out[f"{name}_auroc"] = float("nan") if top is None else map_auroc(foreign[0], share, body)
    return out


def map_auroc(values: Float[np.ndarray, " N"], share: Float[np.ndarray, " N"], body: Bool[np.ndarray, " N"]) -> float:
    """AUROC of a patch map over the voxels of body patches: each voxel has its patch's value, and is in the truth or not. nan where a value is."""
    v, inside = values[body], share[body].astype(float)
    if np.isnan(v).any():
        return float("nan")
    order = np.argsort(v, kind="stable")
    ends = metrics.tie_ends(v[order])
    outside = np.cumsum((1 - inside)[order])[ends]
    hits = np.diff(np.cumsum(inside[order])[ends], prepend=0.0)
    pairs = outside[-1] * inside.sum()
    return float((hits * (np.concatenate([[0.0], outside[:-1]]) + outside) / 2).sum() / pairs) if pairs > 0 else float("nan")


# --- records


def summarise(records: pd.DataFrame, *, draws: int = metrics.DRAWS) -> Grounding:
    """Per finding the mean over sentences; macro the mean over findings; intervals from a bootstrap over patients."""
    numbers = [c for c in records.columns if c not in ("id", "patient", "finding", "side", "sentence")]
    by = records.groupby("finding")
    table = by[numbers].mean().assign(sentences=by.size(), patients=by["patient"].nunique())
    table["focal"] = table["truth_share"] < FOCAL
    table = table.loc[[f for f in FINDINGS if f in table.index]].reset_index()
    focal = set(table.loc[table["focal"], "finding"])
    summary = _macro(records, draws) | {"focal": _macro(records[records["finding"].isin(focal)], draws) if focal else {}}
    summary["focal"]["findings"] = sorted(focal)
    return Grounding(records, table, summary)


def _macro(records: pd.DataFrame, draws: int) -> dict:
    """Macro means by name, and "intervals" of the hit rate, the map AUROC and the hit rate's lead over what needs no method."""
    weights, patients = metrics.cluster_weights(records["patient"].to_numpy(), draws=draws)
    weights = np.vstack([np.ones(len(records)), weights])
    names = (*MEASURES, *BASELINES, *(f"{b}_touch" for b in BASELINES), "other_patient_auroc", "location_prior_auroc", "can_hit")
    means = {name: _means(records, name, weights) for name in names}
    leads = {f"hit-{name}": means["hit"] - means[name] for name in BASELINES}
    intervals = {name: metrics.interval(v[0], v[1:]).as_dict() for name, v in ({"hit": means["hit"], "auroc": means["auroc"]} | leads).items()}
    values = {name: float(v[0]) for name, v in means.items()}
    values["times_chance"] = values["hit"] / values["chance"] if values["chance"] else float("nan")
    return values | {"intervals": intervals, "sentences": len(records), "patients": patients}


def _means(records: pd.DataFrame, name: str, weights: np.ndarray) -> np.ndarray:
    """Macro mean of a column for every row of weights: over sentences within a finding, then over the findings that have a value."""
    columns = []
    for _, rows in records.reset_index(drop=True).groupby("finding"):
        value = rows[name].to_numpy(float)
        known = ~np.isnan(value)
        w = weights[:, rows.index.to_numpy()[known]]
        total = w.sum(1)
        columns.append(np.where(total > 0, w @ value[known] / np.maximum(total, 1), np.nan))
    stacked = np.stack(columns)
    count = (~np.isnan(stacked)).sum(0)
    return np.where(count > 0, np.nansum(stacked, axis=0) / np.maximum(count, 1), np.nan)
