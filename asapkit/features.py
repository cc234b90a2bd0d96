"""What an encoder makes of every volume of a store: pooled features, and patch tokens if asked for, cached on disk.

The pooling is fixed and the same for every encoder: mean and maximum over the patch tokens that hold some of the body, nothing hidden (the
mean alone dilutes a lesion of one patch in a thousand). A cached file is found again by what it depends on: weights, layer, contract, volumes;
so it can be neither stale nor mixed up.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from asapkit.batch import AIR, differing, patch_means, scale_hu
from asapkit.store import Store
from asapkit.types import FINDINGS, Refused

log = logging.getLogger(__name__)
POOLING = "mean and maximum over body patches, 2"  # the number changes when the pooling does, so that old files are not found


@dataclass(frozen=True)
class Features:
    """Features of volumes in the order of `ids`. `tokens` is None unless they were asked for."""

    ids: tuple[str, ...]
    pooled: Float[np.ndarray, "n P"]  # P = 2 D: mean, maximum
    in_body: Bool[np.ndarray, "n N"]
    tokens: Float[np.ndarray, "n N D"] | None = None  # float16

    def of(self, ids: Sequence[str]) -> Float[np.ndarray, "m P"]:
        """Pooled features of some volumes, in their order. Raises: Refused for a volume that is not there."""
        place = {id: i for i, id in enumerate(self.ids)}
        if missing := [id for id in ids if id not in place]:
            raise Refused(f"{missing[0]}: no features of it ({len(missing)} volumes missing); extract them with these ids")
        return self.pooled[[place[id] for id in ids]]


def extract(
    encoder: torch.nn.Module,
    store: Store,
    *,
    ids: Iterable[str] | None = None,
    layer: str | int = "last",
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    out: Path | str | None = None,
    tokens: bool = False,
    progress: bool = True,
) -> Features:
    """Features of the volumes `ids` (default: all) of a store.

    layer: "last" (`encoder.tokens`, after the final norm) or the number of a block (`encoder.hidden`). out: folder of the cache.
    Raises: Refused when the encoder's contract is not the store's (naming the fields), a volume is not in the store, or its features are not finite.
    """
    require_contract(encoder, store)
    ids = tuple(store.ids if ids is None else ids)
    if not ids:
        raise Refused(f"{store.root}: no volume to extract features of; give ids, or fill the store")
    file = None if out is None else Path(out) / f"{fingerprint(encoder, store, ids, layer)}{'_tokens' if tokens else ''}.safetensors"
    if file is not None and file.exists():
        found = _load(file)
        require_finite(found.pooled, found.ids)
        return found
    pooled, bodies, kept = [], [], []
    with torch.inference_mode(), _evaluating(encoder, device), tqdm(total=len(ids), desc="features", unit="volume", disable=not progress) as bar:
        for image, in_body in batches(store, ids, patch=patch_of(encoder), batch_size=batch_size):
            x = encode(encoder, image.to(device), layer)
            found = pool(x, in_body.to(device)).float().cpu().numpy()
            require_finite(found, ids[sum(map(len, pooled)) :])
            pooled.append(found)
            bodies.append(in_body.numpy())
            if tokens:
                kept.append(x.half().cpu().numpy())
            bar.update(len(image))
    found = Features(ids, np.concatenate(pooled), np.concatenate(bodies), np.concatenate(kept) if kept else None)
    if file is not None:
        _save(found, file)
    return found


def pool(tokens: Float[torch.Tensor, "B N D"], in_body: Bool[torch.Tensor, "B N"]) -> Float[torch.Tensor, "B 2*D"]:
    """Mean, then maximum, over the patches that hold some of the body; zeros where none does."""
    body = in_body.unsqueeze(-1)
    mean = (tokens * body).sum(1) / body.sum(1).clamp(min=1)
    best = tokens.masked_fill(~body, float("-inf")).amax(1)
    return torch.cat([mean, best.where(body.any(1), 0.0)], dim=1)


def encode(encoder: torch.nn.Module, image: Float[torch.Tensor, "B 1 X Y Z"], layer: str | int) -> Float[torch.Tensor, "B N D"]:
    """Patch tokens of one layer, nothing hidden."""
    return encoder.tokens(image) if layer == "last" else encoder.hidden(image, (int(layer),))[0]


def patch_of(encoder: torch.nn.Module) -> tuple[int, int, int]:
    """Voxels of a patch: the contract's crop over the encoder's grid."""
    return tuple(c // g for c, g in zip(encoder.contract.crop, encoder.grid, strict=True))


def batches(
    store: Store, ids: Sequence[str], *, patch: tuple[int, int, int], batch_size: int = 8
) -> Iterator[tuple[Float[torch.Tensor, "B 1 X Y Z"], Bool[torch.Tensor, "B N"]]]:
    """Images in [-1, 1], centre-fitted to the contract's crop, and which of their patches hold some of the body."""
    for start in range(0, len(ids), batch_size):
        images = [scale_hu(store.cropped(id)[0], store.contract.window_hu) for id in ids[start : start + batch_size]]
        body = np.stack([patch_means(image, patch) > AIR for image in images])
        yield torch.from_numpy(np.stack(images)).unsqueeze(1), torch.from_numpy(body)


def require_contract(encoder: torch.nn.Module, store: Store) -> None:
    """Raises: Refused, naming the fields that differ, when encoder and store were made under different contracts; or for an encoder of text."""
    if encoder.contract is None:
        raise Refused(f"{store.root}: the encoder given for it ({type(encoder).__name__}) encodes text, not volumes; give an encoder of images")
    if encoder.contract != store.contract:
        raise Refused(f"{store.root}: {differing(store.contract, encoder.contract)}, as the encoder needs it; preprocess the data again for it")


def require_finite(values: Float[np.ndarray, "n ..."], ids: Sequence[str]) -> None:
    """Raises: Refused, naming the volume, when the numbers of one (a row of `values`, in the order of `ids`) are NaN or infinite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise Refused(f"{ids[int(finite.argmin())]}: the encoder's features of it are not finite; the run's weights are spoilt, give an earlier one")


def require_labels(store: Store) -> None:
    """Raises: Refused, saying how to get them, when no volume of a store has a label, or its table lacks a finding."""
    if missing := [f for f in FINDINGS if f not in store.table]:
        raise Refused(f"{store.root}: no labels for {', '.join(missing[:3])}; give the dataset's label table, or preprocess with --labels")
    if not (store.table[list(FINDINGS)].to_numpy(float) >= 0).any():
        how = "`asapkit label` reads them out of the reports, and `asapkit preprocess --labels FILE.csv` puts them into the store"
        raise Refused(f"{store.root}: no labels in this store; {how}")


def training_rows(rows: pd.DataFrame) -> np.ndarray:
    """True for training volumes. A table with one split only is parted here, a quarter of the patients held out by a hash of their names.

    Raises: Refused when a patient is on both sides.
    """
    if rows["split"].nunique() < 2:
        log.warning("only the split %s in the store: a quarter of its patients is held out", rows["split"].iloc[0])
        return np.array([crc32(str(p).encode()) % 4 != 0 for p in rows["patient"]])
    train = (rows["split"] == "train").to_numpy()
    if both := sorted(set(rows["patient"][train]) & set(rows["patient"][~train])):
        raise Refused(f"patient {both[0]} is in both splits ({len(both)} patients are); correct the split before scoring anything")
    return train


def weights_hash(module: torch.nn.Module) -> str:
    """Of class, names, types and values of everything that is saved of a module."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint(encoder: torch.nn.Module, store: Store, ids: Sequence[str], layer: str | int) -> str:
    """What pooled features depend on, in 16 letters."""
    rows = store.table.loc[list(ids)]
    volumes = [list(map(str, row)) for row in zip(rows.index, rows["hash"] if "hash" in rows else [""] * len(rows), strict=True)]
    config = str(getattr(encoder, "config", ""))
    parts = [weights_hash(encoder), config, str(layer), store.contract.hash, POOLING, volumes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class _evaluating:
    """Puts a module on a device in eval mode, and back into the mode that it was in."""

    def __init__(self, module: torch.nn.Module, device: str | torch.device):
        self.module, self.training = module.to(device), module.training

    def __enter__(self):
        self.module.eval()

    def __exit__(self, *_):
        self.module.train(self.training)


def _save(found: Features, file: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {"pooled": found.pooled, "in_body": found.in_body} | ({} if found.tokens is None else {"tokens": found.tokens})
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(arrays, part, metadata={"ids": json.dumps(found.ids)})
    part.replace(file)


def _load(file: Path) -> Features:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as stored:
        names = set(stored.keys())
        arrays = {name: stored.get_tensor(name) for name in names}
        return Features(tuple(json.loads(stored.metadata()["ids"])), arrays["pooled"], arrays["in_body"], arrays.get("tokens"))
