"""Merlin: labels and reports in turn teach one volume feature. Matched form, on the 3-D ViT.

Source: github StanfordMIMI/Merlin as described in methods.md E8. Differs: this house's ViT and its mean token in place of an inflated
ResNet-152 (which `peers.merlin` runs on released weights); the store's labels of 18 findings in place of 1,692 codes of health records; the text
encoder is frozen; volumes of one report are no negatives. Cost: every patch is computed, about four times the encoder operations of a masked step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import TextEncoder
from asapkit.pairing import Pair, info_nce
from asapkit.types import FINDINGS, Batch, Losses
from asapkit.vit3d import Encoder

WEIGHTS = {"contrast": 1.0, "labels": 1.0}


class Method(nn.Module):
    """scale: factor on the cosines at the start; the released model starts at e.   text_memory: keep the text features of reports seen before."""

    frozen = ("text.",)

    def __init__(self, config: Config, *, scale: float = math.e, text_memory: bool = False):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.pair = Pair(config.width, self.text.width, config.align_width, scale=scale)
        self.head = nn.Linear(config.width, len(FINDINGS))
        self.gather: Callable[[Tensor], Tensor] = lambda x: x  # train.py joins ranks here

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space, unit length."""
        return self.embedded(self.encoder.tokens(batch.image).mean(1), batch)

    def embedded(self, volume: Float[Tensor, "B D"], batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        return self.pair(volume, self.text(batch.report_tokens, batch.report_real)[:, 0])

    def forward(self, batch: Batch) -> Losses:
        volume = self.encoder.tokens(batch.image).mean(1)
        contrast = info_nce(self.pair, self.embedded(volume, batch), batch.report_tokens, batch.report_real, gather=self.gather)
        return {"contrast": contrast, "labels": objectives.labels_bce(self.head(volume), batch.labels)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"labels": (batch.labels >= 0).sum()}
