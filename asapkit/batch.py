"""Store -> Batch: crop, scale, tokenise, collate. The only random place on the data side, and every draw comes from a volume's own stream.

A volume's stream is seeded by (seed, epoch, id): one process and many, first run and resumed run draw the same numbers. Phantom truth is never read.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, runtime_checkable
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asapkit import ct, organs, reports
from asapkit.config import Config, Contract
from asapkit.language import token_ids, tokenizer
from asapkit.store import Layer
from asapkit.types import FINDINGS, ORGANS, Batch, Refused

AIR = -0.95  # network units (-950 HU for a -1000..1000 window): a patch whose mean lies below is taken for air around the body


@runtime_checkable
class Readable(Protocol):
    """What training reads: a store, or several as one (`sources.Sources`)."""

    root: Path
    contract: Contract
    table: pd.DataFrame

    def layer(self, id: str, name: str) -> Layer | None: ...


class Items(torch.utils.data.Dataset):
    """One volume with its text as numpy arrays, indexed by (id, epoch); give it to a DataLoader with `collate`, or call `batch`."""

    def __init__(self, store: Readable, config: Config, *, augment: bool | None = None):
        if store.contract != config.contract:
            raise Refused(
                f"{store.root}: {differing(store.contract, config.contract)}; preprocess again at scale {config.scale} or pass that setting"
            )
        self.store, self.config = store, config
        self.augment = config.augment if augment is None else augment
        self.text: dict[str, dict[str, np.ndarray]] = {}

    def __getitem__(self, key: tuple[str, int]) -> dict:
        id, epoch = key
        rng = np.random.default_rng([self.config.seed, epoch, crc32(id.encode())])
        item = self.voxels(id, rng)
        row = self.store.table.loc[id]
        item["labels"] = np.array([row.get(name, -1) for name in FINDINGS], dtype=np.float32)
        item |= self.words(id, row["findings"], row["impression"])
        item["patch_order"] = rng.random(self.config.patches, dtype=np.float32)
        item["report_order"] = rng.random(len(item["report_tokens"]), dtype=np.float32)
        return item

    def batch(self, ids: list[str], *, epoch: int = 0) -> Batch:
        return collate([self[id, epoch] for id in ids], max_sentences=self.config.max_sentences)

    def voxels(self, id: str, rng: np.random.Generator) -> dict:
        """Image in [-1, 1] and soft proportions of organs and lesions in one crop; all get the same crop and padding."""
        config = self.config
        lazy, labels, lesions = (self.store.layer(id, name) for name in ("ct", "organs", "lesions"))
        box = random_box(lazy.shape, config.crop, rng) if self.augment and config.fit == "crop_pad" else tuple(slice(0, n) for n in lazy.shape)
        image = scale_hu(ct.fit(lazy[box], config.crop, fit=config.fit), config.window_hu)
        if self.augment and rng.random() < 0.1:
            image = np.clip(image + np.float32(rng.uniform(-0.1, 0.1)), -1, 1)
        means = patch_means(image, config.patch)
        share, marked = np.zeros((config.patches, len(ORGANS)), np.float32), np.zeros(config.patches, np.float32)
        if labels is not None:
            share = organs.proportions(ct.fit(labels[box], config.crop, fit=config.fit), config.patch)
        if lesions is not None:
            marked = patch_means(ct.fit(lesions[box], config.crop, fit=config.fit).astype(np.float32), config.patch)
        told = {"organs": share, "has_organs": labels is not None, "lesions": marked, "has_lesions": lesions is not None}
        return {"id": id, "image": image, "in_body": means > AIR} | told

    def words(self, id: str, findings: str, impression: str) -> dict:
        """Tokens of the findings with their sentences, and of the whole report. Sentence meanings stay strings until the batch numbers them."""
        if id not in self.text:
            self.text[id] = encode(findings, impression, self.config.text_encoder, self.config.max_tokens)
        return self.text[id]


def encode(findings: str, impression: str, text_encoder: str, max_tokens: int) -> dict:
    """What `tokenised` gives, and what each sentence says: its meaning, whether it is positive, the organs that it may speak of."""
    text = tokenised(findings, impression, text_encoder, max_tokens)
    said = text.pop("sentences")
    named = [(reports.organs_named(sentence) or ORGANS) for sentence in said]
    return text | {
        "meanings": [reports.meaning(sentence) for sentence in said],
        "positive": np.array([reports.polarity(sentence) == "positive" for sentence in said], bool),
        "sentence_organs": np.array([[organ in organs_named for organ in ORGANS] for organs_named in named], bool).reshape(-1, len(ORGANS)),
    }


def tokenised(findings: str, impression: str, text_encoder: str, max_tokens: int) -> dict:
    """[CLS] + tokens of each findings sentence with its index, without [SEP] as released; the sentences; and [CLS] findings impression [SEP]."""
    words = tokenizer(text_encoder)
    tokens, sentence, said = [words.cls_token_id], [-1], []
    pieces = reports.split(findings)
    *own, whole = token_ids([*pieces, reports.join(findings, impression)], text_encoder)
    for text, ids in zip(pieces, own, strict=True):
        if not ids or len(tokens) + len(ids) > max_tokens:
            continue
        tokens += ids
        sentence += [len(said)] * len(ids)
        said.append(text)
    whole = [words.cls_token_id, *whole[: max_tokens - 2], words.sep_token_id]
    return {
        "findings_tokens": np.array(tokens), "findings_sentence": np.array(sentence), "sentences": said, "report_tokens": np.array(whole),
        "report_special": np.isin(whole, (words.cls_token_id, words.sep_token_id)),
    }  # fmt: skip


def collate(items: list[dict], *, max_sentences: int = 48) -> Batch:
    """Pads texts to the longest of the batch; sentences beyond `max_sentences` of a report are left out of the alignment."""
    stack = {k: torch.from_numpy(np.stack([item[k] for item in items])) for k in ("in_body", "organs", "lesions", "labels", "patch_order")}
    count = min(max((len(item["meanings"]) for item in items), default=0), max_sentences)
    meanings = [np.array([meaning_number(m) for m in item["meanings"]], np.int64) for item in items]
    sentence = pad([item["findings_sentence"] for item in items], fill=-1)
    report = pad([item["report_tokens"] for item in items])
    return Batch(
        ids=tuple(item["id"] for item in items),
        image=torch.from_numpy(np.stack([item["image"] for item in items]))[:, None],
        has_organs=torch.tensor([item["has_organs"] for item in items]),
        has_lesions=torch.tensor([item["has_lesions"] for item in items]),
        findings_tokens=pad([item["findings_tokens"] for item in items]),
        findings_real=pad([np.ones(len(item["findings_tokens"]), bool) for item in items]),
        findings_sentence=sentence.masked_fill(sentence >= count, -1),
        sentence_real=pad([np.ones(len(m), bool) for m in meanings], length=count),
        sentence_meaning=pad(meanings, fill=-1, length=count),
        sentence_positive=pad([item["positive"] for item in items], length=count),
        sentence_organs=pad([item["sentence_organs"] for item in items], length=count),
        report_tokens=report,
        report_real=pad([np.ones(len(item["report_tokens"]), bool) for item in items]),
        report_special=pad([item["report_special"] for item in items]),
        report_order=pad([item["report_order"] for item in items], fill=2.0),
        **stack,
    )


@cache
def meaning_number(meaning: str) -> int:
    """The same number, at least 0, for the same meaning in every batch of every rank: they are compared across ranks."""
    return int.from_bytes(blake2b(meaning.encode(), digest_size=8).digest()) >> 1


def pad(rows: list[np.ndarray], *, fill: float = 0, length: int | None = None) -> Tensor:
    """Stacks rows of different lengths, cut or filled to `length` (default: the longest, at least 1)."""
    length = max([len(row) for row in rows] + [1]) if length is None else length
    out = np.full((len(rows), length, *rows[0].shape[1:]), fill, rows[0].dtype)
    for n, row in enumerate(rows):
        out[n, : min(len(row), length)] = row[:length]
    return torch.from_numpy(out)


def scale_hu(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """HU -> float32 in [-1, 1], clipped."""
    low, high = window_hu
    image = np.multiply(hu, np.float32(2 / (high - low)), dtype=np.float32)
    if low != -high:  # a pass over the volume that a symmetric window does not need
        image -= np.float32((high + low) / (high - low))
    return np.clip(image, -1, 1, out=image)


def patch_means(image: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Mean of every patch, (N,), row-major x, y, z."""
    (gx, gy, gz), (px, py, pz) = (n // p for n, p in zip(image.shape, patch, strict=True)), patch
    sums = image.reshape(gx, px, -1).sum(1).reshape(gx, gy, py, -1).sum(2).reshape(gx, gy, gz, pz).sum(3)  # axis by axis: eight times the speed
    return sums.reshape(-1) / np.float32(px * py * pz)


def random_box(shape: tuple[int, ...], crop: tuple[int, int, int], rng: np.random.Generator, *, least: float = 0.9) -> tuple[slice, ...]:
    """A random sub-box: each axis keeps a share drawn from [least, 1], then a random stretch of at most `crop` voxels of it.

    Source: the released loader's RandScaleCrop and RandSpatialCrop (methods.md F row 23). Differs: keeps at least 90 % rather than 80 %.
    """
    box = []
    for n, c in zip(shape, crop, strict=True):
        kept = max(1, round(n * rng.uniform(least, 1.0)))
        size = min(kept, c)
        start = int(rng.integers(0, n - kept + 1)) + int(rng.integers(0, kept - size + 1))
        box.append(slice(start, start + size))
    return tuple(box)


def differing(have, want) -> str:
    """Which fields of two contracts differ, in words."""
    names = [n for n in want.__dataclass_fields__ if getattr(have, n) != getattr(want, n)]
    return "made under another contract: " + ", ".join(f"{n} {getattr(have, n)} instead of {getattr(want, n)}" for n in names)
