"""Zero-shot classification: the 18 findings from statements alone, by a method that has volumes and texts in one space.

Score of a finding = mean product of the volume with what is said for it - mean product with what is said against it. For one pair that ranks as
the softmax over both does, without its ties near 0 and 1. Statements come from versioned sets (`prompts`). The unit is the study: scores are
averaged over its reconstructions; held-out patients only, intervals over patients.
Source: methods.md sections C and D. No label is used but to score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn
from tqdm.auto import tqdm

from asapkit import metrics, prompts
from asapkit.batch import pad, tokenised
from asapkit.features import batches, patch_of, require_contract, require_finite, require_labels, training_rows
from asapkit.store import Store
from asapkit.types import FINDINGS, Refused

NEEDS = "method"
DEFAULT = "ct-clip-v1"


@dataclass(frozen=True)
class Head:
    """A direction per finding in the method's shared space: what is said for it, minus what is said against it. nan where the set leaves it out."""

    name: str
    directions: Float[np.ndarray, "F E"]
    without: tuple[str, ...]

    def __call__(self, volumes: Float[np.ndarray, "n E"]) -> Float[np.ndarray, "n F"]:
        return volumes @ self.directions.T


@dataclass(frozen=True)
class Embedded:
    """Held-out volumes of a store in a method's shared space."""

    ids: tuple[str, ...]
    volumes: Float[np.ndarray, "n E"]


def fit(
    method: nn.Module, store: Store, *, prompts: str = DEFAULT, device: str = "cpu", cache: Path | str | None = None, progress: bool = True
) -> Head:
    """The statements of a set in the method's space; nothing of the store is read, and nothing is trained.

    Raises: ValueError for an unknown set, naming those that there are; Refused for a method that embeds no text.
    """
    return head(method, prompts, device=device)


def head(method: nn.Module, name: str, *, device: str = "cpu") -> Head:
    """`fit` without a store."""
    said = prompts.statements(name)
    _require(method)
    texts = sorted({text for finding in FINDINGS for side in said.of(finding) for text in side})
    config, kind = method.config, getattr(method, "reads", "report")
    rows = [tokenised(text, "", config.text_encoder, config.max_tokens)[f"{kind}_tokens"] for text in texts]
    real = pad([np.ones(len(row), bool) for row in rows])
    with torch.inference_mode():
        method.to(device).eval()
        placed = method.pair.embed_text(pad(rows).to(device), real.to(device)).double().cpu().numpy()
    at = dict(zip(texts, placed, strict=True))
    found = np.full((len(FINDINGS), placed.shape[1]), np.nan)
    for f, finding in enumerate(FINDINGS):
        if finding not in said.without:
            yes, no = (np.mean([at[text] for text in side], axis=0) for side in said.of(finding))
            found[f] = yes - no
    return Head(said.name, found, said.without)


def embed(method: nn.Module, store: Store, *, device: str = "cpu", batch_size: int = 8, progress: bool = True) -> Embedded:
    """Held-out volumes of a store.

    Raises: Refused for a store of another contract, without labels or held-out patients, or a method that embeds no volume.
    """
    _require(method)
    require_contract(method.encoder, store)
    require_labels(store)
    ids = tuple(store.table.index[~training_rows(store.table)])
    if not ids:
        raise Refused(f"{store.root}: no held-out patients; the column split needs train and valid")
    method, parts = method.to(device).eval(), []
    with torch.inference_mode(), tqdm(total=len(ids), desc="embed", unit="volume", disable=not progress) as bar:
        for image, _ in batches(store, ids, patch=patch_of(method.encoder), batch_size=batch_size):
            found = method.pair.embed_volume(method.feature(image.to(device))).double().cpu().numpy()
            require_finite(found, ids[sum(map(len, parts)) :])
            parts.append(found)
            bar.update(len(image))
    return Embedded(ids, np.concatenate(parts))


def score(
    method: nn.Module | Embedded, head: Head, store: Store, *, device: str = "cpu", cache: Path | str | None = None, progress: bool = True,
    draws: int = metrics.DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """AUROC of each finding and "macro" on held-out patients: finding, auroc, low, high, positives, note, studies, prompts.

    A note says why a value is missing, or that the whole interval lies below chance. Volumes that were embedded before may be given in place of
    the method. `cache` has no use here.
    """
    held = method if isinstance(method, Embedded) else embed(method, store, device=device, progress=progress)
    rows = store.table.loc[list(held.ids)]
    labels = rows[list(FINDINGS)].to_numpy(float)
    scores, _, (labels, patients) = metrics.by_study(head(held.volumes), rows["study"].to_numpy(), labels, rows["patient"].to_numpy())
    found = metrics.aurocs(scores, labels, patients.astype(str), draws=draws)
    out = [{"finding": "macro", **_values(found.macro), "positives": np.nan, "note": ""}]
    for f, finding in enumerate(FINDINGS):
        value = found.per_finding[finding]
        note = f"not in {head.name}" if finding in head.without else found.left_out.get(finding, "")
        note = note or ("below chance: are the statements exchanged?" if value.high < 0.5 else "")
        out.append({"finding": finding, **_values(value), "positives": int((labels[:, f] == 1).sum()), "note": note})
    return pd.DataFrame(out).assign(studies=found.units, prompts=head.name)


def compare(
    method: nn.Module, store: Store, *, sets: Sequence[str] | None = None, device: str = "cpu", draws: int = metrics.DRAWS, progress: bool = True
) -> pd.DataFrame:
    """`score` of several sets of statements (default: all that are packaged), volumes embedded once: how much the wording matters."""
    heads = [head(method, name, device=device) for name in sets or prompts.known()]
    held = embed(method, store, device=device, progress=progress)
    return pd.concat([score(held, h, store, draws=draws) for h in heads], ignore_index=True)


def _require(method: nn.Module) -> None:
    if not hasattr(method, "feature") or not hasattr(getattr(method, "pair", None), "embed_text"):
        raise Refused(f"{type(method).__module__} has no volumes and texts in one space; score a recipe that contrasts them, such as ct_clip")


def _values(interval: metrics.Interval) -> dict[str, float]:
    return {"auroc": interval.value, "low": interval.low, "high": interval.high}
