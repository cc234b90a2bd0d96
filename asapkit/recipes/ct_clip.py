"""CT-CLIP: the mean of a volume's patch tokens against its findings, InfoNCE over the batch. Matched form, on the 3-D ViT.

Source: github ibrahimethemhamamci/CT-CLIP as described in methods.md E6. Differs: the encoder is this house's ViT with its mean token (theirs is a
CT-ViT, its grid flattened into one linear layer of 151 million weights); the text encoder is frozen; volumes of one report are no negatives.
Cost: every patch is computed, four times the tokens of a step that hides 75 %.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .561 (.491 to .627), untrained .556.
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
    """scale: factor on the cosines at the start; the released model starts at e.   text_memory: keep the text features of findings seen before."""

    frozen = ("pair.text.",)
    reads = "findings"  # the text of a batch that is contrasted; "report" where a method does not say

    def __init__(self, config: Config, *, scale: float = math.e, text_memory: bool = False):
        super().__init__()
        self.config, self.encoder, self.gather = config, chosen_encoder(config), alone
        self.pair = Pair(config, scale=scale, text_memory=text_memory)

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.encoder.tokens(image).mean(1)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and findings in one space, unit length."""
        return self.pair(self.feature(batch.image), batch.findings_tokens, batch.findings_real)

    def forward(self, batch: Batch) -> Losses:
        return {"contrast": self.pair.info_nce(self.embed(batch), batch.findings_tokens, batch.findings_real, gather=self.gather)}
