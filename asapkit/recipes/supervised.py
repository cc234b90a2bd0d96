"""Supervised ceiling: the same encoder trained on the labels, nothing hidden.

Source: the first stage of "More performant and scalable" (arXiv 2509.13175, methods.md C) on our 3-D ViT, with `encoder=resnet18` on its own 3-D
ResNet-18 (from Kinetics' weights: `--init r3d_18.pth`); unknown labels (-1) have no gradient. Differs: mean and maximum of the patches of the body
are read, where the original reads the mean of all.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .567 (.520 to .612), untrained .556.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.encoders import chosen_encoder
from asapkit.masking import visible_patches
from asapkit.types import FINDINGS, Batch, Losses

WEIGHTS = {"labels": 1.0}


class Method(nn.Module):
    """One linear layer on the mean and the maximum of the patch tokens inside the body.

    see: share of the patches that a training step computes; air around the body is left out first, then patches at random.
    """

    needs = ("labels",)

    def __init__(self, config: Config, *, see: float = 1.0):
        super().__init__()
        self.config, self.see = config, round(see * config.patches)
        self.encoder = chosen_encoder(config)
        self.head = nn.Linear(2 * config.width, len(FINDINGS))

    def forward(self, batch: Batch) -> Losses:
        seen = visible_patches(batch.patch_order, visible=self.see, last=~batch.in_body)
        tokens = self.encoder(batch.image, seen)[:, 1:]
        body = batch.in_body.gather(1, seen).unsqueeze(-1)
        mean = (tokens * body).sum(1) / body.sum(1).clamp(min=1)
        best = tokens.masked_fill(~body, float("-inf")).amax(1).nan_to_num(neginf=0.0)
        return {"labels": objectives.labels_bce(self.head(torch.cat([mean, best], dim=-1)), batch.labels)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"labels": (batch.labels >= 0).sum()}
