"""MAE in 3-D: reconstruct the hidden patches from the visible ones; no text, no labels.

Source: He et al., Masked Autoencoders Are Scalable Vision Learners (2111.06377); 3-D form as the ASAP paper's `matched` row (same encoder and data).
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .572 (.521 to .631), untrained .556.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import hidden_indices, visible_of
from asapkit.types import Batch, Losses
from asapkit.vit3d import Decoder, Encoder, patches_at

WEIGHTS = {"reconstruct": 1.0}


class Method(nn.Module):
    """`norm_pixels=True` standardises the target of each patch, as MAE; off by default, as ASAP."""

    def __init__(self, config: Config, *, norm_pixels: bool = False):
        super().__init__()
        self.config, self.norm_pixels = config, norm_pixels
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, batch: Batch) -> Losses:
        visible = visible_of(batch, self.config)
        hidden = hidden_indices(visible, self.config.patches)
        predicted, _ = self.decoder(self.encoder(batch.image, visible), visible, only=hidden)
        target = patches_at(batch.image, self.config.patch, hidden)
        return {"reconstruct": objectives.restored(predicted, target, patches=self.config.patches, norm_pixels=self.norm_pixels)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruct": torch.tensor(float(len(batch)))}
