"""CT-CLIP: the mean of a volume's patch tokens against its findings, InfoNCE over the batch. Matched form, on the 3-D ViT.

Source: github ibrahimethemhamamci/CT-CLIP as described in methods.md E6. Differs: the encoder is this house's ViT with its mean token (theirs is a
CT-ViT, its grid flattened into one linear layer of 151 million weights); the text encoder is frozen; volumes of one report are no negatives.
Cost: every patch is computed, about four times the encoder operations of a masked step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.language import TextEncoder
from asapkit.pairing import Pair, info_nce
from asapkit.types import Batch, Losses
from asapkit.vit3d import Encoder

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """scale: factor on the cosines at the start; the released model starts at e.   text_memory: keep the text features of findings seen before."""

    frozen = ("text.",)

    def __init__(self, config: Config, *, scale: float = math.e, text_memory: bool = False):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.pair = Pair(config.width, self.text.width, config.align_width, scale=scale)
        self.gather: Callable[[Tensor], Tensor] = lambda x: x  # train.py joins ranks here

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and findings in one space, unit length."""
        text = self.text(batch.findings_tokens, batch.findings_real)[:, 0]
        return self.pair(self.encoder.tokens(batch.image).mean(1), text)

    def forward(self, batch: Batch) -> Losses:
        return {"contrast": info_nce(self.pair, self.embed(batch), batch.findings_tokens, batch.findings_real, gather=self.gather)}
