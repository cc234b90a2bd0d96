"""What notebooks look at: one volume worth showing, its sentences, and what encoders and methods make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from asapkit import ct, formats, reports
from asapkit.config import Contract
from asapkit.features import training_rows
from asapkit.store import Store
from asapkit.types import Refused, Volume


@dataclass(frozen=True)
class Field:
    """What an encoder is given of one volume, in the manner of a store of one: HU (X, Y, Z), its affine, the shape it was cropped from."""

    hu: np.ndarray
    affine: np.ndarray
    shape: tuple[int, int, int]
    contract: Contract

    def cropped(self, id: str) -> tuple[np.ndarray, np.ndarray]:
        return self.hu, self.affine


def held_out(store: Store) -> list[str]:
    """Ids of the held-out volumes, as in every score; all volumes where none is held out."""
    return store.table.index[~training_rows(store.table)].tolist() or store.ids


def example(store: Store, *, id: str = "", findings: int = 3) -> str:
    """A held-out volume to look at: the one asked for, or the first whose truth shows at least `findings` different findings.

    Where no truth is known, the first whose report states something positive.
    Raises: Refused for a volume that the store does not hold.
    """
    if id:
        store.layer(id, "ct")
        return id
    ids = held_out(store)
    if store.instances is None:
        return next((id for id in ids if (sentences_of(store, id)["polarity"] == "positive").any()), ids[0])
    shown = store.instances[store.instances["id"].isin(ids)].groupby("id")["finding"].nunique()
    if shown.empty:
        return ids[0]
    rich = shown[shown >= findings]
    return rich.index[0] if len(rich) else str(shown.idxmax())


def sentences_of(store: Store, id: str, *, section: str = "findings") -> pd.DataFrame:
    """Sentences of a report section with `bits`, the truth's instances that each states (0 where no truth is known)."""
    if store.sentences is not None:
        rows = store.sentences[(store.sentences["id"] == id) & (store.sentences["section"] == section)]
        return rows.sort_values("index").reset_index(drop=True)
    said = reports.split(store.table.at[id, section])
    return pd.DataFrame(
        {"id": id, "section": section, "index": range(len(said)), "sentence": said, "polarity": [reports.polarity(s) for s in said], "bits": 0}
    )


def asked(sentence: str) -> str:
    """A sentence without white space at its ends.  Raises: Refused if it is empty, or holds nothing but numbers and stop words."""
    if not any(letter.isalnum() for letter in sentence):
        fault = "is empty"
    elif not any(letter.isalpha() for letter in sentence):
        fault = "holds only numbers"
    elif not reports.telling_words(sentence):
        fault = "holds only stop words"
    else:
        return sentence.strip()
    raise Refused(f"the sentence {fault}; say what to look for, such as: a nodule in the right upper lobe")


def first(store: Store) -> str:
    """A store's first volume.  Raises: Refused for a store without any."""
    if not len(store):
        raise Refused(f"store {store.root} holds no volume; its table `refused` says why")
    return store.ids[0]


def truth_names(store: Store, id: str, *, sides: bool = True) -> dict[int, str]:
    """What each bit of a volume's truth is, with its side if `sides`; empty where no truth is known."""
    if store.instances is None:
        return {}
    rows = store.instances[store.instances["id"] == id]
    return {int(b): f"{f}, {s}" if sides and s != "none" else f for b, f, s in zip(rows["bit"], rows["finding"], rows["side"], strict=True)}


def known_findings(store: Store, id: str, *, sides: bool = True) -> tuple[str, dict[int, str]]:
    """The layer that says where a volume's findings lie, and what its bits are: "truth", else the "lesions" that a dataset marked; "" for neither."""
    if store.table.at[id, "has_truth"]:
        return "truth", truth_names(store, id, sides=sides)
    return ("lesions", {0: "lesion"}) if store.table.at[id, "has_lesions"] else ("", {})


def cropped_findings(store: Store, id: str, *, sides: bool = True) -> tuple[np.ndarray | None, dict[int, str]]:
    """`known_findings` on a volume's crop: uint32 (X, Y, Z), a bit each, and what the bits are; None where nothing is known."""
    layer, names = known_findings(store, id, sides=sides)
    return (store.cropped(id, layer)[0].astype(np.uint32, copy=False) if layer else None), names


def origin(store: Store, id: str) -> tuple[Path, dict]:
    """The file that a volume was made of, and what was told of it: slope, intercept, spacing_mm.

    Raises: Refused when the file no longer lies where it was.
    """
    record = json.loads((store.root / "records" / f"{id}.json").read_text())
    path = Path(record["scan"]["path"])
    if not formats.on_disk(path)[0].exists():
        raise Refused(f"{path.name}: the original of {id} is not where it was; give its path as `scan`")
    return path, record["source"]


def original(store: Store, id: str) -> Volume:
    """The volume as its file holds it, in HU and RAS+, before the contract.

    Raises: Refused when the file no longer lies where it was.
    """
    path, source = origin(store, id)
    spacing_mm = tuple(source["spacing_mm"]) if source["spacing_mm"] else None
    return ct.read(path, slope=source["slope"], intercept=source["intercept"], spacing_mm=spacing_mm)


def image(store: Store | Field, id: str):
    """Network input (1, 1, X, Y, Z) of a volume, centre crop, nothing random."""
    import torch

    from asapkit.batch import scale_hu

    return torch.from_numpy(scale_hu(store.cropped(id)[0], store.contract.window_hu))[None, None]


def tokens(encoders: dict, store: Store | Field, ids: list[str]) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Patch tokens (N, D) of every encoder and volume, and which patches hold body (N,)."""
    import torch

    from asapkit.batch import AIR, patch_means

    images = [image(store, id) for id in ids]
    with torch.no_grad():
        made = {name: [encoder.tokens(x)[0].numpy() for x in images] for name, encoder in encoders.items()}
    patch = next(iter(encoders.values())).patch
    return made, [patch_means(x[0, 0].numpy(), patch) > AIR for x in images]


def attention_outputs(encoder, store: Store, ids: list[str]) -> dict[str, list[np.ndarray]]:
    """Output of every attention module (N, D), layer by layer, of each volume.  Raises: Refused for an encoder that has none to show."""
    import torch

    if not hasattr(encoder, "attention_outputs"):
        raise Refused(f"{type(encoder).__name__} shows no attention; load a run whose encoder is the 3-D ViT")
    with torch.no_grad():
        return {id: [layer[0].numpy() for layer in encoder.attention_outputs(image(store, id))] for id in ids}


def looked_at(encoder, store: Store | Field, id: str, *, patches: Sequence[int]) -> np.ndarray:
    """How much each of `patches` of a volume looks at every patch, (layers, heads, patches, N): the encoder's `attention`.

    Raises: Refused for an encoder that has none; IndexError for a patch that is not there.
    """
    import torch

    if not hasattr(encoder, "attention"):
        raise Refused(f"{type(encoder).__name__} shows no attention; load a run whose encoder is the 3-D ViT")
    with torch.no_grad():
        return encoder.attention(image(store, id), patches=list(patches))[0].numpy()


def of_layer(shares: np.ndarray, layer: int) -> np.ndarray:
    """One layer of `looked_at`, from 0; -1 is the last.  Raises: IndexError saying how many there are."""
    if layer not in range(-len(shares), len(shares)):
        raise IndexError(f"layer {layer}: there are {len(shares)}, from 0")
    return shares[layer]


def reconstruct(method, store: Store, id: str) -> dict:
    """A volume restored from its visible patches: HU volumes, hidden patches (N,), and root-mean-square errors on the hidden ones in HU.

    `error_mean` is that of answering every hidden voxel with the mean of the visible ones. Empty for a recipe without an image decoder.
    """
    import torch

    from asapkit import batch, masking, vit3d

    if not hasattr(method, "decoder"):
        return {}
    config = method.config
    one = batch.Items(store, config, augment=False).batch([id])
    visible = masking.visible_of(one, config)
    hidden = masking.hidden_patches(visible, config.patches)
    restored = getattr(method, "restored", lambda one, seen: method.decoder(method.encoder(one.image, seen), seen)[0])
    with torch.no_grad():
        predicted = restored(one, visible)
    target = vit3d.patchify(one.image, config.patch)
    if getattr(method, "norm_pixels", False):
        predicted = predicted * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    restored = torch.where(hidden.unsqueeze(-1), predicted, target)
    low, high = config.window_hu
    half = (high - low) / 2

    def rms(error) -> float:
        return float(error[hidden].square().mean().sqrt()) * half

    volume = vit3d.unpatchify(restored, config.grid, config.patch)[0, 0].numpy()
    return {
        "id": id, "hidden": hidden[0].numpy(), "volume": store.cropped(id)[0], "restored": ((volume + 1) * half + low).astype(np.float32),
        "error_hidden": rms(predicted - target), "error_mean": rms(target[~hidden].mean() - target),
    }  # fmt: skip


def scanned(shape: tuple[int, int, int], contract: Contract, patch: tuple[int, int, int]) -> np.ndarray:
    """Which patches (N,) of the crop lie for at least half in a scan of `shape` voxels: the rest is padding, mirror images of the scan."""
    from asapkit import ct
    from asapkit.batch import patch_means

    return patch_means(ct.fit(np.ones(shape, np.float32), contract.crop, fit=contract.fit, pad=0.0), patch) >= 0.5


def matched(
    method, hu: np.ndarray, sentences: list[str], *, contract: Contract, shape: tuple[int, int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity (S, N) of sentences with every patch of a crop `hu` (X, Y, Z), nothing hidden, and K (S,), the patches that each selects.

    NaN where a patch is air around the body, and, given the whole scan's `shape`, where it is padding: no evidence can lie there.
    """
    import torch

    from asapkit.batch import AIR, patch_means, scale_hu

    scaled = scale_hu(hu, contract.window_hu)
    with torch.inference_mode():
        similarity, k = method.match(method.aligned(torch.from_numpy(scaled)[None, None])[0], sentences)
    similarity = similarity.float().numpy().copy()
    similarity[:, patch_means(scaled, method.encoder.patch) <= AIR] = np.nan
    if shape is not None:
        similarity[:, ~scanned(shape, contract, method.encoder.patch)] = np.nan
    return similarity, k.numpy()


def sentence_rows(method, store: Store, id: str, *, most: int = 3) -> list[dict]:
    """Rows for `figures.sentence_maps`: positive sentences of a volume with their similarity map, K and truth, the largest truths first."""
    said = sentences_of(store, id)
    said = said[said["polarity"] == "positive"]
    if said.empty:
        return []
    truth = store.cropped(id, "truth")[0] if store.truth(id) is not None else None
    similarity, k = matched(method, store.cropped(id)[0], said["sentence"].tolist(), contract=store.contract, shape=store.layer(id, "ct").shape)
    rows = []
    for n, row in enumerate(said.itertuples()):
        inside = None if truth is None else (truth & np.uint32(row.bits)) != 0
        told = {"sentence": row.sentence, "finding": getattr(row, "finding", ""), "note": ""}
        rows.append(told | {"similarity": similarity[n], "k": int(k[n]), "truth": inside})
    rows.sort(key=lambda r: 0 if r["truth"] is None else -int(r["truth"].sum()))
    return rows[:most]


def budgets(method, store: Store, ids: list[str]) -> pd.DataFrame:
    """One row per sentence of the findings sections: id, sentence, polarity, finding, k, and where truth is known `patches`, `share`, `kind`.

    k: patches that the sentence selects with nothing hidden. patches: those whose voxels lie in the sentence's truth to a tenth or more (at least
    one); share: of the body patches. kind: normal, uncertain, or for a positive sentence focal / diffuse by the mean share of its finding.
    """
    from asapkit.batch import AIR, patch_means, scale_hu
    from asapkit.tasks.ground import FOCAL, HIT, patch_share

    rows = []
    for id in ids:
        said, hu = sentences_of(store, id), store.cropped(id)[0]
        if said.empty:
            continue
        _, k = matched(method, hu, said["sentence"].tolist(), contract=store.contract)
        body = (patch_means(scale_hu(hu, store.contract.window_hu), method.encoder.patch) > AIR).sum()
        truth = store.cropped(id, "truth")[0] if store.truth(id) is not None else None
        for row, chosen in zip(said.itertuples(), k, strict=True):
            stated = 0 if truth is None or not row.bits else (patch_share((truth & np.uint32(row.bits)) != 0, method.encoder.patch) >= HIT).sum()
            patches = max(1, int(stated)) if row.bits else 0
            found = {"polarity": row.polarity, "finding": getattr(row, "finding", "")}
            rows.append({"id": id, "sentence": row.index, **found, "k": int(chosen), "patches": patches, "share": patches / body})
    table = pd.DataFrame(rows, columns=["id", "sentence", "polarity", "finding", "k", "patches", "share"])
    spread = table[table["patches"] > 0].groupby("finding")["share"].mean()
    positive = table["finding"].map(spread).map(lambda share: "diffuse" if share >= FOCAL else "focal").where(table["patches"] > 0, "elsewhere")
    plain = table["polarity"].replace({"negative": "normal"})
    return table.assign(kind=plain.where(plain != "positive", positive))
