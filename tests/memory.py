"""A small store in memory, an encoder without weights to speak of, and a method that sees bright patches: for tests of features and tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from einops import rearrange

from asapkit.config import Config
from asapkit.store import Store
from asapkit.types import FINDINGS

CONFIG = Config.at("toy")
BRIGHT = 300  # HU of a lesion


class MemoryStore(Store):
    """Ellipsoid bodies with one bright lesion of a patch's size each, where `place` says; truth, sentences and labels to match."""

    def __init__(
        self, *, patients: int = 12, volumes: int = 2, seed: int = 0, config: Config = CONFIG, same_place: bool = False, valid: float = 0.34
    ):
        rng = np.random.default_rng(seed)
        self.root, self.scale, self.contract, self.config = "memory", config.scale, config.contract, config
        self.volumes, self.truths, rows, told = {}, {}, [], []
        for p in range(patients):
            lesion = np.array([2, 2, 1]) if same_place else rng.integers(1, np.array(config.grid) - 1)
            ill = p % 2 == 0
            for v in range(volumes):
                id = f"p{p}_a_{v}"
                split = "valid" if p >= patients * (1 - valid) else "train"
                self.volumes[id], self.truths[id] = self._draw(rng, lesion, ill)
                labels = {f: int(ill) for f in FINDINGS} | {"Hiatal hernia": 0}
                row = {
                    "id": id,
                    "patient": f"p{p}",
                    "study": f"p{p}_a",
                    "split": split,
                    "has_truth": True,
                    "has_organs": True,
                    "hash": f"h{seed}{p}{v}",
                }
                rows.append(row | labels)
                if ill:
                    text = "A nodule is seen in the left lung." if p % 4 else "A nodule is seen in the right lung."
                    told.append((id, "findings", 0, text, "positive", "Lung nodule", 1, "left" if p % 4 else "right", ""))
                    told.append((id, "impression", 0, text, "positive", "Lung nodule", 1, "left" if p % 4 else "right", ""))
                told.append((id, "findings", 1, "No consolidation.", "negative", "Consolidation", 0, "none", ""))
        self.table = pd.DataFrame(rows).set_index("id")
        self.ids = self.table.index.to_list()
        self.__dict__["sentences"] = pd.DataFrame(told, columns=["id", "section", "index", "sentence", "polarity", "finding", "bits", "side", "lobe"])

    def _draw(self, rng, lesion, ill):
        crop, patch = np.array(self.config.crop), np.array(self.config.patch)
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in crop], indexing="ij")
        body = sum(a**2 for a in axes) < 1.3
        ct = np.where(body, 0, -1000) + np.where(body, rng.normal(0, 20, crop), 0)
        truth = np.zeros(crop, np.uint32)
        if ill:
            box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(lesion, patch, strict=True))
            ct[box], truth[box] = BRIGHT, 1
        return np.rint(ct).astype(np.int16), truth

    def cropped(self, id, layer="ct"):
        array = {"ct": self.volumes[id], "truth": self.truths[id]}.get(layer)
        if array is None:  # organs: the left half is left upper lobe, the right half right upper lobe
            array = np.where(np.arange(self.config.crop[0])[:, None, None] < self.config.crop[0] // 2, 1, 3) * np.ones(self.config.crop, np.uint8)
            array = array.astype(np.uint8)
        return array, np.eye(4)


class Bright(torch.nn.Module):
    """Encoder whose tokens are the mean, the maximum and the spread of a patch, times a weight."""

    def __init__(self, config: Config = CONFIG, *, weight: float = 1.0):
        super().__init__()
        self.grid, self.width, self.contract, self.patch = config.grid, 3, config.contract, config.patch
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.calls = 0

    def tokens(self, image):
        self.calls += 1
        px, py, pz = self.patch
        x = rearrange(image, "b 1 (x px) (y py) (z pz) -> b (x y z) (px py pz)", px=px, py=py, pz=pz)
        return torch.stack([x.mean(-1), x.amax(-1), x.std(-1)], dim=-1) * self.weight

    def hidden(self, image, layers):
        return [self.tokens(image) * (layer + 2) for layer in layers]


class Matcher(torch.nn.Module):
    """Method whose map of any sentence is the brightness of the patches, turned over with sign=-1; K as given."""

    def __init__(self, *, sign: int = 1, k: int = 1):
        super().__init__()
        self.encoder, self.sign, self.k = Bright(), sign, k

    def aligned(self, image):
        return self.encoder.tokens(image)

    def match(self, aligned, sentences):
        similarity = torch.tanh(self.sign * aligned[:, 0] / 2).expand(len(sentences), -1)
        return similarity, torch.full((len(sentences),), self.k)
