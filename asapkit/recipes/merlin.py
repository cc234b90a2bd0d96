"""Merlin: labels and reports in turn teach one volume feature. Matched form, on the 3-D ViT.

Source: github StanfordMIMI/Merlin as described in methods.md E8. Differs: this house's ViT and its mean token in place of an inflated
ResNet-152 (which `peers.merlin` runs on released weights); the store's labels of 18 findings in place of 1,692 codes of health records; the text
encoder is frozen; volumes of one report are no negatives. Cost: every patch is computed, four times the tokens of a step that hides 75 %.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .614 (.572 to .655), untrained .556.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.encoders import chosen_encoder
from asapkit.pairing import Pair, alone
from asapkit.types import FINDINGS, Batch, Losses

WEIGHTS = {"contrast": 1.0, "labels": 1.0}


class Method(nn.Module):
    """scale: factor on the cosines at the start; the released model starts at e.   text_memory: keep the text features of reports seen before."""

    frozen = ("pair.text.",)
    needs = ("labels",)

    def __init__(self, config: Config, *, scale: float = math.e, text_memory: bool = False):
        super().__init__()
        self.config, self.encoder, self.gather = config, chosen_encoder(config), alone
        self.pair = Pair(config, scale=scale, text_memory=text_memory)
        self.head = nn.Linear(config.width, len(FINDINGS))

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.encoder.tokens(image).mean(1)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space, unit length."""
        return self.pair(self.feature(batch.image), batch.report_tokens, batch.report_real)

    def forward(self, batch: Batch) -> Losses:
        volume = self.feature(batch.image)
        embedded = self.pair(volume, batch.report_tokens, batch.report_real)
        contrast = self.pair.info_nce(embedded, batch.report_tokens, batch.report_real, gather=self.gather)
        return {"contrast": contrast, "labels": objectives.labels_bce(self.head(volume), batch.labels)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"labels": (batch.labels >= 0).sum()}
