"""M3D-CLIP: the class token of a volume against its whole report, InfoNCE over the joined batch. Matched form, on the 3-D ViT.

Source: github BAAI-DCAI/M3D as described in methods.md E7. Differs: this house's ViT, positions and contract; the text encoder is frozen; the
scale is learned as a logarithm, where the released code multiplies by log(1 / 0.07) = 2.66 itself (`released_scale`); volumes of one report are
no negatives. Cost: every patch is computed, four times the tokens of a step that hides 75 %.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .579 (.520 to .640), untrained .556.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.encoders import chosen_encoder
from asapkit.pairing import Pair, alone
from asapkit.types import Batch, Losses

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """released_scale: the logarithm of 1 / 0.07 as the factor itself, hence softer.   text_memory: keep the text features of reports seen before."""

    frozen = ("pair.text.",)

    def __init__(self, config: Config, *, released_scale: bool = False, text_memory: bool = False):
        start = {"scale": math.log(1 / 0.07), "log_scale": False} if released_scale else {"scale": 1 / 0.07}
        super().__init__()
        self.config, self.encoder, self.gather = config, chosen_encoder(config), alone
        self.pair = Pair(config, text_memory=text_memory, **start)

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.encoder(image)[:, 0]

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space, unit length."""
        return self.pair(self.feature(batch.image), batch.report_tokens, batch.report_real)

    def forward(self, batch: Batch) -> Losses:
        return {"contrast": self.pair.info_nce(self.embed(batch), batch.report_tokens, batch.report_real, gather=self.gather)}
