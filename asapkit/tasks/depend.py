"""Patient dependence: does a method's alignment look at the patient? Held-out patients, nothing hidden; `dependence` says what is measured.

For every method that matches sentences to patches. Sentences are encoded as in training where the method has `said`, else as `match` encodes them.
What the method says of its training is followed: within the report or over the images of a batch, which sentences, which patches they may choose.
Not followed are `positive_weight` (every sentence counts alike), `pad_columns` and exchanged `align_negatives`: the losses are then not those of the
history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from asapkit import dependence, metrics
from asapkit.batch import Items, collate, tokenised
from asapkit.dependence import View
from asapkit.features import require_contract, training_rows
from asapkit.store import Store
from asapkit.types import Batch, Refused

NEEDS = "method"
VOLUMES = 60
MEASURES = ("own", "exchanged", "positions", "chance", "rise", "rise_positive", "explained", "correlation", "overlap", "overlap_chance")


@dataclass(frozen=True)
class Depend:
    """`summary`: what `dependence.measure` found, `temperature` and `line`, its words. `view`: what it was found in; `told`: its sentences' words."""

    view: View
    told: tuple[str, ...]
    summary: dict


def fit(encoder: torch.nn.Module, store: Store, *, device: str = "cpu", cache: Path | str | None = None) -> None:
    """Nothing is trained."""


def score(
    method: torch.nn.Module, head: None, store: Store, *, device: str = "cpu", cache: Path | str | None = None, progress: bool = True
) -> pd.DataFrame:
    """One row per measure: value, low, high. `cache` has no use here: maps are not pooled features."""
    return table(depend(method, store, device=device, progress=progress).summary)


def table(summary: dict) -> pd.DataFrame:
    """measure, value, low, high."""
    return pd.DataFrame([{"measure": name} | summary[name] for name in MEASURES])


def depend(
    method: torch.nn.Module, store: Store, *, volumes: int = VOLUMES, exchanges: int = 10, draws: int = metrics.DRAWS, seed: int = 0,
    device: str = "cpu", batch_size: int = 8, progress: bool = True,
) -> Depend:  # fmt: skip
    """Patient dependence on at most `volumes` held-out patients, one volume of each.

    Of a method that aligns two levels of features, the first: those whose maps are shown.
    Raises: Refused for another contract, a method that matches no sentences or not by their cosine, or too few patients or sentences.
    """
    view, told = look(method, store, held_out(store)[:volumes], device=device, batch_size=batch_size, progress=progress)
    found = dependence.measure(view, count=exchanges, draws=draws, seed=seed)
    return Depend(view, told, found | {"temperature": view.temperature, "line": dependence.said(found)})


def held_out(store: Store) -> list[str]:
    """The first volume of every held-out patient."""
    rows = store.table[~training_rows(store.table)].reset_index()
    return rows.groupby("patient", sort=False)["id"].first().tolist()


def look(
    method: torch.nn.Module, store: Store, ids: Sequence[str], *, device: str = "cpu", batch_size: int = 8, progress: bool = True
) -> tuple[View, tuple[str, ...]]:
    """What a method makes of these volumes and of the sentences of their reports that it aligns, and the words of those."""
    if not hasattr(method, "match") or not hasattr(method, "aligned"):
        raise Refused(f"{type(method).__module__} does not match sentences to patches; give the whole method of a recipe that does, such as asap")
    require_contract(method.encoder, store)
    method, parts = method.to(device).eval(), []
    with tqdm(total=len(ids), desc="patient dependence", unit="volume", disable=not progress) as bar:
        for batch, meanings, told in _batches(method, store, ids, batch_size):
            parts.append(_read(method, batch, meanings, told, device=device))
            bar.update(len(batch))
    told = [sentence for part in parts for sentence in part["told"]]
    patients = store.table.loc[list(ids), "patient"].astype(str)
    if not told or patients.nunique() < 2:
        raise Refused(f"{store.root}: {len(told)} aligned sentences of {patients.nunique()} held-out patients; patient dependence needs two patients")
    number = {m: n for n, m in enumerate(sorted({m for part in parts for m in part["meaning"]}))}
    starts = np.cumsum([0, *(len(part["patches"]) for part in parts)])
    tensors = {name: torch.cat([part[name] for part in parts]) for name in ("patches", "body", "inside", "sentences", "named", "positive", "k")}
    owner = torch.cat([part["owner"] + int(start) for part, start in zip(parts, starts, strict=False)])
    meaning = torch.tensor([number[m] for part in parts for m in part["meaning"]])
    return View(**tensors, owner=owner, meaning=meaning, patient=tuple(patients), **_training(method)), tuple(told)


def _training(method: torch.nn.Module) -> dict:
    """How a method's alignment was trained; one that says nothing of it contrasts within the report."""
    told = getattr(method, "alignment", None)
    said = {"form": "report", "temperature": 0.07, "mean": "report"}
    said |= {} if told is None else {"form": told.over, "temperature": float(told.temperature), "mean": told.mean}
    return said | {"size": method.config.batch_size}


def _batches(method: torch.nn.Module, store: Store, ids: Sequence[str], size: int) -> Iterator[tuple[Batch, list[list[str]], list[list[str]]]]:
    """Volumes without augmentation, with what each sentence says (one word for one meaning, whatever the batch) and its words."""
    config = method.config
    items = Items(store, config, augment=False)
    for start in range(0, len(ids), size):
        some = list(ids[start : start + size])
        made, told = [items[id, 0] for id in some], []
        for id in some:
            row = store.table.loc[id]
            told.append(tokenised(row["findings"], row["impression"], config.text_encoder, config.max_tokens)["sentences"][: config.max_sentences])
        yield collate(made, max_sentences=config.max_sentences), [item["meanings"] for item in made], told


@torch.no_grad()  # not inference mode: a text memory keeps what it encodes
def _read(method: torch.nn.Module, batch: Batch, meanings: list[list[str]], told: list[list[str]], *, device: str) -> dict:
    """The parts of a `View` that a batch gives; owners are counted from the batch's first volume."""
    batch = batch.to(device)
    patches = method.aligned(batch.image).float()
    stated = method.alignment.stated(batch) if hasattr(method, "alignment") else batch.sentence_real
    which = stated.nonzero().tolist()
    words = [told[b][s] for b, s in which]
    if hasattr(method, "said"):
        feature, k = (x[stated] for x in method.said(batch))
    else:
        feature, k = _axes(method, words, width=patches.shape[-1], device=device)
    inside, named = candidates(method, batch)
    found = {
        "patches": patches, "body": batch.in_body, "inside": inside, "sentences": feature.float(), "named": named[stated],
        "positive": batch.sentence_positive[stated], "k": k.long(), "owner": stated.nonzero()[:, 0],
    }  # fmt: skip
    return {name: value.cpu().clone() for name, value in found.items()} | {"told": words, "meaning": [meanings[b][s] for b, s in which]}


def _axes(method: torch.nn.Module, words: list[str], *, width: int, device: str) -> tuple[Float[Tensor, "S E"], Int[Tensor, " S"]]:
    """Features and K by `match` alone: cosines of a sentence with the axes of the space are the coordinates of its unit vector."""
    if not words:
        return torch.zeros(0, width), torch.zeros(0, dtype=torch.long)
    feature, k = method.match(torch.eye(width, device=device), words)
    if not torch.allclose(feature.float().norm(dim=-1), torch.ones(len(words), device=feature.device), atol=1e-2):
        raise Refused(f"{type(method).__module__}: its `match` is no cosine, and it has no `said` that gives the features of sentences")
    return feature, k


def candidates(method: torch.nn.Module, batch: Batch) -> tuple[Bool[Tensor, "B N G"], Bool[Tensor, "B S G"]]:
    """Groups of patches, and among which of them each sentence may choose, as the method was trained with nothing said of what is hidden.

    The organs and the body with an organ gate; the body alone where air was hidden first or every patch could be chosen; else all patches.
    """
    told = getattr(method, "alignment", None)
    if told is not None and (told.organ_gate or told.on == "all"):
        return told.gate(batch, None)
    inside = batch.in_body if method.config.hide_air_first else torch.ones_like(batch.in_body)
    return inside.unsqueeze(-1), torch.ones_like(batch.sentence_real).unsqueeze(-1)
