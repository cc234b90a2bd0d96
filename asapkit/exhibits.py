"""What the figures of the paper are drawn from: attention and its singular values, lesions in patches, sentences by the K they select."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asapkit import metrics
from asapkit.analysis import attention_distance_mm, attention_spread, layer_values, ranks, spectra_of, top_patches
from asapkit.dependence import tops
from asapkit.examples import attention_outputs, budgets, cropped_findings, held_out, image, looked_at, sentence_rows
from asapkit.features import fingerprint, require_contract, require_labels
from asapkit.store import Store
from asapkit.tasks import classify, ground
from asapkit.tasks.depend import Depend
from asapkit.types import FINDINGS, Refused

KINDS = ("normal", "focal", "diffuse", "uncertain", "elsewhere")
"""Kinds of sentences, in the order in which they are read."""
TRUTH = "it needs a store with truth, as `asapkit phantom` and then `asapkit preprocess` make one"
LABELS = "`asapkit label` reads the findings out of the reports, and `asapkit preprocess --labels FILE.csv` puts them into the store"


def attention_values(encoder, store: Store, ids: list[str], *, cache: Path | str | None = None) -> dict[str, np.ndarray]:
    """`analysis.layer_values` (L, q) of the attention outputs of each volume, one volume in memory at a time.

    `cache` is a folder: what was found once for these weights and volumes is read from there.
    Raises: Refused for a store of another contract than the encoder's.
    """
    from safetensors.numpy import load_file, save_file

    require_contract(encoder, store)
    file = None if cache is None else Path(cache) / f"{fingerprint(encoder, store, ids, 'attention values')}.safetensors"
    if file is not None and file.exists():
        found = load_file(file)
        return {id: found[id] for id in ids}
    found = {id: layer_values(attention_outputs(encoder, store, [id])[id]) for id in ids}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        save_file(found, part)
        part.replace(file)
    return found


def ranks_and_spectra(
    encoders: Mapping, store: Store, ids: Sequence[str], *, cache: Path | str | None = None
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Of the attention outputs of every volume: ranks (encoder, id, layer, effective_rank, normalised, energy_rank_90) and spectra (L, q) by encoder.

    A spectrum is the geometric mean over the volumes. `cache` as in `attention_values`.
    Raises: Refused for no encoder or no volume, and for a store of another contract than an encoder's.
    """
    if not encoders or not len(ids):
        raise Refused("nothing to measure; give at least one encoder and one volume")
    values = {name: attention_values(encoder, store, list(ids), cache=cache) for name, encoder in encoders.items()}
    table = pd.concat([ranks(rows).assign(encoder=name) for name, rows in values.items()], ignore_index=True)
    return table, {name: spectra_of(rows.values()) for name, rows in values.items()}


def densities(store: Store, ids: list[str], *, patch: tuple[int, int, int]) -> list[np.ndarray]:
    """Mean of every patch (N,) of each volume's crop, as the network gets it: -1 and 1 are the ends of the contract's window."""
    from asapkit.batch import patch_means

    return [patch_means(image(store, id)[0, 0].numpy(), patch) for id in ids]


def lesion_patch(store: Store, id: str, *, patch: tuple[int, int, int]) -> tuple[int, str]:
    """The patch that one instance of a finding fills most, and that finding; the patch in the crop's middle and "" where nothing is known of any."""
    from asapkit.tasks.ground import patch_share

    grid = tuple(n // p for n, p in zip(store.contract.crop, patch, strict=True))
    middle, name, most = int(np.ravel_multi_index(tuple(g // 2 for g in grid), grid)), "", 0.0
    marks, names = cropped_findings(store, id, sides=False)
    for bit, finding in names.items():
        share = patch_share((marks >> np.uint32(bit)) & 1 > 0, patch)
        if share.max() > most:
            middle, name, most = int(share.argmax()), finding, float(share.max())
    return middle, name


def lesion_patches(store: Store, id: str, *, patch: tuple[int, int, int]) -> np.ndarray:
    """Which patches (N,) hold a tenth or more of findings; none where nothing is known of any."""
    from asapkit.tasks.ground import HIT, patch_share

    marks, _ = cropped_findings(store, id)
    if marks is None:
        return np.zeros(int(np.prod([n // p for n, p in zip(store.contract.crop, patch, strict=True)])), bool)
    return patch_share(marks > 0, patch) >= HIT


def attention_maps(encoder, store: Store, id: str, *, patch: int) -> np.ndarray:
    """`looked_at` of one patch: (layers, heads, N)."""
    return looked_at(encoder, store, id, patches=[patch])[:, :, 0]


def attention_reach(encoders: dict, store: Store, id: str, *, patches: list[int], centres_mm: np.ndarray) -> pd.DataFrame:
    """encoder, patch, layer and head (from 1), distance_mm and spread (in patches): how far and at how many patches each of `patches` looks."""
    rows, asked = [], list(dict.fromkeys(int(p) for p in patches))
    for name, encoder in encoders.items():
        for layer, shares in enumerate(looked_at(encoder, store, id, patches=asked), start=1):
            for patch, heads in zip(asked, shares.swapaxes(0, 1), strict=True):
                found = zip(attention_distance_mm(heads, centres_mm, patch), attention_spread(heads), strict=True)
                rows += [(name, patch, layer, head, far, wide) for head, (far, wide) in enumerate(found, start=1)]
    return pd.DataFrame(rows, columns=["encoder", "patch", "layer", "head", "distance_mm", "spread"])


def sentences_by_k(method, store: Store, ids: list[str], *, most: int = 4) -> list[dict]:
    """Rows for `figures.sentence_patches`: positive sentences at different K, the smallest K first; of each K that whose selected patches lie best.

    Best: the largest share of the K patches that hold a tenth or more of truth, of equals the highest similarity over the scan's median; where no
    truth is known, the latter alone. A finding is shown once where others are left. Of all K first one sentence, then a second, up to `most`.
    """
    from asapkit.tasks.ground import HIT, patch_share

    found = []
    for id in ids:
        for row in sentence_rows(method, store, id, most=10**6):
            similarity, truth = row["similarity"], row["truth"]
            if truth is not None and not truth.any():
                continue
            top = top_patches(similarity, row["k"])
            inside = None if truth is None else patch_share(truth, method.encoder.patch) >= HIT
            share = np.nan if inside is None else float(inside[top].mean())
            sight = float(np.nanmax(similarity) - np.nanmedian(similarity))
            hits = 0 if inside is None else int(inside[top].sum())
            fills = 0 if inside is None else max(1, int(inside.sum()))
            patches = "1 patch" if fills == 1 else f"{fills} patches"
            known = f"  ·  {row['finding'].lower()}, evidence in {patches}  ·  {hits} of {len(top)} selected lie in it"
            told = id if inside is None else id + known
            found.append(row | {"id": id, "share": share, "sight": sight, "note": told})
    found.sort(key=lambda r: (-np.nan_to_num(r["share"]), -r["sight"]))
    chosen: list[dict] = []
    for k in sorted({r["k"] for r in found}) * most:
        seen = {r["finding"] for r in chosen}
        left = [r for r in found if r["k"] == k and not any(r is c for c in chosen)]
        if left and len(chosen) < most:
            chosen.append(next((r for r in left if r["finding"] not in seen), left[0]))
    return [r | {"volume": store.cropped(r["id"])[0]} for r in sorted(chosen, key=lambda r: r["k"])]


def by_kind(budgets: pd.DataFrame) -> pd.DataFrame:
    """group, k, n: how many sentences of each kind of `budgets` take each K, for `figures.selected_k`; kinds in the order in which they are read."""
    counted = budgets.groupby(["kind", "k"]).size().reset_index(name="n").rename(columns={"kind": "group"})
    place = {kind: n for n, kind in enumerate(KINDS)}
    return counted.sort_values(["group", "k"], key=lambda c: c.map(place).fillna(len(KINDS)) if c.name == "group" else c).reset_index(drop=True)


def k_and_extent(budgets: pd.DataFrame, store: Store) -> tuple[metrics.Interval, dict[str, float]]:
    """Spearman's correlation of K with the patches of the evidence over positive sentences of `budgets`, and the mean K of each kind."""
    stated = budgets[(budgets["patches"] > 0) & (budgets["polarity"] == "positive")]
    rho = metrics.rank_correlation(stated["k"].to_numpy(), stated["patches"].to_numpy(), store.table.loc[stated["id"], "patient"].to_numpy())
    return rho, budgets.groupby("kind")["k"].mean().reindex([kind for kind in KINDS if (budgets["kind"] == kind).any()]).to_dict()


def places(found: Depend, *, grid: tuple[int, int, int], most: int = 4) -> pd.DataFrame:
    """sentence, positive, patient, x, y, z (patches): where a sentence's most similar patch lies in each patient, for `figures.patient_dependence`.

    The `most` meanings that are stated most often, half of them positive where there are others; each in the words of its first sentence.
    """
    view = found.view
    often = view.meaning.bincount()[view.meaning]
    first = {int(m): row for row, m in reversed(list(enumerate(view.meaning.tolist())))}
    ranked = sorted(first.values(), key=lambda row: (-int(often[row]), row))
    positive = [row for row in ranked if view.positive[row]]
    others = [row for row in ranked if not view.positive[row]][: most - min(most // 2, len(positive))]
    rows = positive[: most - len(others)] + others
    patches = tops(view.some(torch.tensor(rows)))
    made = []
    for row, best in zip(rows, patches.numpy(), strict=True):
        x, y, z = np.unravel_index(best, grid)
        made.append(
            pd.DataFrame({"sentence": found.told[row], "positive": bool(view.positive[row]), "patient": view.patient, "x": x, "y": y, "z": z})
        )
    return pd.concat(made, ignore_index=True)


# ------------------------------------------------------------------------------------ scores, also of stores that lack what they need


def grounding(method, store: Store, *, volumes: int) -> ground.Grounding:
    """`tasks.ground.ground` of at most `volumes` held-out volumes; without truth K of their positive sentences, and why under "missing"."""
    try:
        for train in (True, False):
            ground.positive_sentences(store, train=train)
    except Refused as refusal:
        table = budgets(method, store, held_out(store)[:volumes])
        records = table[table["polarity"] == "positive"].reset_index(drop=True)
        return ground.Grounding(records, pd.DataFrame(columns=["finding", "hit", "sentences"]), {"missing": _without_root(refusal, store)})
    return ground.ground(method, store, max_volumes=volumes)


def grounding_caption(summary: Mapping) -> str:
    """How much of what could be read was read."""
    if "missing" in summary:
        return f"Not measured: {summary['missing']}."
    read, every = summary["volumes"], summary["volumes_in_all"]
    return f"{summary['sentences']} sentences of {'all' if read == every else f'{read} of the'} {every} held-out volumes with truth; nothing hidden."


def grounding_said(found: ground.Grounding) -> str:
    """The answer in a sentence or two."""
    s = found.summary
    if "missing" in s:
        return f"Whether the highest patch lies in the truth **could not be measured**: {s['missing']}. To measure it, {TRUTH}."
    prior = " (more than the map: where a finding mostly lies says more)" if s["location_prior"] > s["hit"] else ""
    return (
        f"The highest patch lies in the truth for **{s['hit']:.1%}** of the sentences (macro over {len(found.table)} findings, {s['patients']} "
        f"patients, {s['volumes']} of {s['volumes_in_all']} volumes); chance hits {s['chance']:.1%}, the map of another patient "
        f"{s['other_patient']:.1%}, a random patch of the named organ {s['organ_only']:.1%}, the mean training location "
        f"{s['location_prior']:.1%}{prior}. The map's AUROC is {s['auroc']:.2f}."
    )


def extent_said(budgets: pd.DataFrame, store: Store) -> str:
    """Whether K grows with the evidence, in a sentence or two."""
    stated = budgets[(budgets["patches"] > 0) & (budgets["polarity"] == "positive")]
    if stated.empty:
        return f"Whether K grows with the evidence **could not be measured**: no positive sentence with truth in this store. To measure it, {TRUTH}."
    rho, by_kind = k_and_extent(budgets, store)
    grows = "larger where there is more to see" if rho.low > 0 else "no larger where there is more to see"
    said = "smaller where there is more to see" if rho.high < 0 else grows
    means = ", ".join(f"{kind} {k:.1f}" for kind, k in by_kind.items())
    return (
        f"Over {len(stated)} positive sentences of {store.table.loc[stated['id'], 'patient'].nunique()} patients, the rank correlation of K with the "
        f"patches of the evidence is **{rho.value:.2f}** ({rho.low:.2f} to {rho.high:.2f}): K is {said}. Mean K by kind: {means}."
    )


def probes(encoders: Mapping, store: Store, *, seeds: int, cache: Path | str | None = None) -> tuple[pd.DataFrame, dict]:
    """`tasks.classify.compare`; of a store without labels no row, and why under "missing"."""
    try:
        require_labels(store)
    except Refused as refusal:
        empty = pd.DataFrame(columns=["encoder", "share", "finding", "auroc", "low", "high", "studies", "positives", "note"])
        nothing = {"share": 1.0, "probe_macro_auroc": {}, "difference": {}, "left_out": dict.fromkeys(FINDINGS, "no labels")}
        return empty, nothing | {"missing": _without_root(refusal, store)}
    return classify.compare(encoders, store, seeds=seeds, cache=cache)


def _without_root(refusal: Refused, store: Store) -> str:
    """What is wrong, for a reader who knows which store it is."""
    return str(refusal).removeprefix(f"{store.root}: ")


def probes_said(summary: Mapping, scores: pd.DataFrame) -> str:
    """The answer in a sentence or two; `scores` holds a row per encoder and finding that has an AUROC."""
    best = sorted(((n, v) for n, v in summary["probe_macro_auroc"].items() if v["value"] == v["value"]), key=lambda pair: -pair[1]["value"])
    if not best:
        why = summary.get("missing", "no finding has labels enough to train and to score a probe")
        return f"Whether the features tell findings apart **could not be measured**: {why}." + ("" if "asapkit label" in why else f" {LABELS}.")
    said = ", ".join(f"{name} {v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for name, v in best)
    gaps = "; ".join(f"{name} {v['value']:+.3f} ({v['low']:+.3f} to {v['high']:+.3f})" for name, v in summary["difference"].items())
    top = scores[scores["encoder"] == best[0][0]]
    return (
        f"With {summary['share']:.0%} of the studies the macro AUROC is: {said}. Paired differences: {gaps or 'none of the asked pairs is here'}. "
        f"Of {len(top)} findings, {best[0][0]} tells **{(top['low'] > 0.5).sum()}** apart with an interval above 0.5."
    )
