"""What a method answers to a sentence about a volume: the map, the patches it selects, what lies there, and how right it is. No widget here.

What takes long, the features of a volume, is made once and remembered: a new sentence costs its words and one product of matrices.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asapkit import examples
from asapkit.analysis import patch_centres_mm, top_patches
from asapkit.explore.sheet import Crop, crop_of
from asapkit.types import ORGANS, Refused

SCORES = {"hit": "best patch in the truth", "auroc": "AUROC of the map", "top_k_inside": "share of the top K inside", "iou": "IoU"}
"""The grounding scores of `tasks.ground.measure` that are shown, and what they are called."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Where a method sees a sentence. `rows`: one per selected patch, best first: rank, similarity, organ, share, x_mm, y_mm, z_mm, patch."""

    sentence: str
    similarity: np.ndarray  # (N,), NaN where no evidence can lie: air around the body, padding
    k: int  # what was asked for: by the selector, or by hand
    selected: int  # what the selector says
    rows: pd.DataFrame
    grid: tuple[int, int, int]
    patch: tuple[int, int, int]  # voxels
    truth: np.ndarray | None = None  # Boolean (X, Y, Z): the voxels that the sentence states
    scores: dict[str, float] | None = None
    remark: str = ""

    @property
    def top(self) -> np.ndarray:
        """Selected patches, best first."""
        return self.rows["patch"].to_numpy()

    def voxel(self, rank: int = 1) -> tuple[int, int, int]:
        """The middle of a selected patch."""
        place = np.unravel_index(int(self.top[rank - 1]), self.grid)
        return tuple(int(at * p + p // 2) for at, p in zip(place, self.patch, strict=True))

    def rank_at(self, voxel) -> int | None:
        """Rank of the selected patch that a voxel lies in; None where it lies in none."""
        place = tuple(int(v) // p for v, p in zip(voxel, self.patch, strict=True))
        found = np.flatnonzero(self.top == np.ravel_multi_index(place, self.grid))
        return int(found[0]) + 1 if len(found) else None

    def told(self) -> str:
        """The numbers in one line."""
        whose = "chosen by the selector" if self.k == self.selected else f"by hand; the selector says {self.selected}"
        text = f"K = {self.k} of {self.similarity.size} patches ({whose})"
        if self.scores is None:
            return f"{text} · no truth is known for this sentence here"
        hit = f"{SCORES['hit']}: {'yes' if self.scores['hit'] else 'no'}"
        return " · ".join([text, hit, *(f"{SCORES[name]} {self.scores[name]:.2f}" for name in ("auroc", "top_k_inside", "iou"))])


def check(method, store) -> None:
    """Raises: Refused for a method that aligns no sentences, or a store of another contract, naming the fields that differ."""
    from asapkit.features import require_contract

    if not hasattr(method, "match") or not hasattr(method, "aligned"):
        raise Refused("this method aligns no sentences; load a run of asap or another recipe with `match`")
    require_contract(method.encoder, store)


def stated(store, id: str, sentence: str) -> int:
    """The truth's bits that a sentence of this volume's own report states; 0 for any other sentence, and for one that states nothing."""
    if store.sentences is None or not store.table.at[id, "has_truth"]:
        return 0
    rows = store.sentences[(store.sentences["id"] == id) & (store.sentences["sentence"] == sentence.strip())]
    return int(np.bitwise_or.reduce(rows["bits"].to_numpy(np.uint32))) if len(rows) else 0


def evidence_voxel(inside: np.ndarray) -> tuple[int, int, int]:
    """A voxel inside (X, Y, Z) whose planes show it well: on the axial plane with most of it, the one nearest to the middle there."""
    level = int(inside.sum((0, 1)).argmax())
    there = np.argwhere(inside[:, :, level])
    x, y = there[((there - there.mean(0)) ** 2).sum(1).argmin()]
    return int(x), int(y), level


class Answers:
    """Asks a method about volumes of a store. Features of the last `remember` volumes are kept.  Raises: Refused as `check` does."""

    def __init__(self, method, store, *, remember: int = 8):
        check(method, store)
        self.method, self.store, self.remember = method.eval(), store, remember
        self._known: OrderedDict[str, tuple] = OrderedDict()

    def crop(self, id: str) -> Crop:
        return self._features(id)[0]

    def ask(self, id: str, sentence: str, *, k: int = 0) -> Answer:
        """k: how many patches to select; 0 leaves it to the selector. Scores are those of `tasks.ground`, among the patches that can be selected.

        Raises: Refused for an unknown volume, a sentence without a word to look for, or a volume that shows no body.
        """
        import torch

        from asapkit.features import patch_of

        sentence = examples.asked(sentence)
        crop, scene = self._features(id)
        with torch.inference_mode():
            similarity, budget = self.method.match(scene.aligned.float(), [sentence])
        similarity, selected = similarity[0].float().numpy().copy(), int(budget[0])
        seen = np.where(scene.in_body, similarity, np.nan)
        if not scene.in_body.any():
            raise Refused(f"{id}: no patch of it shows a body; look at the scan itself first")
        wanted, patch = int(k) or selected, patch_of(self.method.encoder)
        top = top_patches(seen, wanted)
        bits = stated(self.store, id, sentence)
        truth = None if not bits else (crop.truth & np.uint32(bits)) != 0
        truth = None if truth is None or not truth.any() else truth  # what lies outside the crop cannot be found
        scores = None if truth is None else _scores(scene, sentence, truth, (similarity, wanted), patch)
        remark = f"K = {wanted} is more than the {len(top)} patches that show the body: all of them are selected" if wanted > len(top) else ""
        rows = _rows(top, seen, scene.organs, tuple(self.method.encoder.grid), patch, crop.affine)
        return Answer(sentence.strip(), seen, wanted, selected, rows, tuple(self.method.encoder.grid), patch, truth, scores, remark)

    def _features(self, id: str) -> tuple:
        """The volume and its `tasks.ground.Scene`; candidates are patches that hold some body and lie in the scan, not in its mirrored padding."""
        if id in self._known:
            self._known.move_to_end(id)
            return self._known[id]
        import torch

        from asapkit.batch import AIR, patch_means, scale_hu
        from asapkit.examples import scanned
        from asapkit.features import patch_of
        from asapkit.organs import proportions
        from asapkit.tasks.ground import Scene

        crop, patch = crop_of(self.store, id), patch_of(self.method.encoder)
        scaled = scale_hu(crop.volume, self.store.contract.window_hu)
        with torch.inference_mode():
            aligned = self.method.aligned(torch.from_numpy(scaled)[None, None])[0]
        seen = (patch_means(scaled, patch) > AIR) & scanned(self.store.layer(id, "ct").shape, self.store.contract, patch)
        scene = Scene(id, aligned.half(), seen, None if crop.organs is None else proportions(crop.organs, patch))
        while len(self._known) >= self.remember:
            self._known.popitem(last=False)
        self._known[id] = crop, scene
        return self._known[id]


def _scores(scene, sentence: str, truth: np.ndarray, found: tuple, patch: tuple[int, int, int]) -> dict[str, float]:
    from asapkit.tasks.ground import measure, patch_share

    measured = measure(scene, sentence, patch_share(truth, patch), found)
    return {name: measured[name] for name in SCORES}


def _rows(top: np.ndarray, similarity: np.ndarray, organs: np.ndarray | None, grid, patch, affine: np.ndarray) -> pd.DataFrame:
    """What and where the selected patches are. organ: the one that fills most of a patch, "" where none does; share: how much of it."""
    share = np.zeros((similarity.size, len(ORGANS)), np.float32) if organs is None else organs
    best = share[top].argmax(1)
    filled = share[top, best]
    named = [ORGANS[n] if s > 0 else "" for n, s in zip(best, filled, strict=True)]
    centres = dict(zip(("x_mm", "y_mm", "z_mm"), patch_centres_mm(grid, patch, affine)[top].T, strict=True))
    told = {"rank": np.arange(1, len(top) + 1), "similarity": similarity[top].astype(float), "organ": named, "share": filled.astype(float)}
    return pd.DataFrame(told | centres | {"patch": top})
