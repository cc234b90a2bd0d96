"""Second stage of supervised pre-training and vanilla CLIP: the encoder that labels taught is set against reports, by raw dot products.

The first stage is recipe `supervised`; this one starts from its run: `pretrain STORE RUN --recipe sup_clip --init SUPERVISED_RUN`.

Source: "More performant and scalable" (arXiv 2509.13175), its original code unread; values as methods.md C gives them. Differs: this house's ViT
and its mean token in place of a 3-D ResNet-18; the text encoder is frozen; volumes of one report are no negatives. Cost: every patch is computed,
about four times the encoder operations of a masked step.
"""

from __future__ import annotations

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
    """normalise: cosines with a learned temperature, `temperature` at the start, in place of raw dot products (which saturate the softmax).

    text_memory: keep the text features of reports seen before.
    """

    frozen = ("text.",)

    def __init__(self, config: Config, *, normalise: bool = False, temperature: float = 0.07, text_memory: bool = False):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature}: give a number above 0")
        self.config = config
        self.encoder = Encoder(config)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        scale = 1 / temperature if normalise else None
        self.pair = Pair(config.width, self.text.width, config.align_width, scale=scale, normalise=normalise)
        self.gather: Callable[[Tensor], Tensor] = lambda x: x  # train.py joins ranks here

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space."""
        text = self.text(batch.report_tokens, batch.report_real)[:, 0]
        return self.pair(self.encoder.tokens(batch.image).mean(1), text)

    def forward(self, batch: Batch) -> Losses:
        return {"contrast": info_nce(self.pair, self.embed(batch), batch.report_tokens, batch.report_real, gather=self.gather)}
