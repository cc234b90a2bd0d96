"""Second stage of supervised pre-training and vanilla CLIP: the encoder that labels taught is set against reports, by raw dot products.

The first stage is recipe `supervised`; this one starts from its run: `pretrain STORE RUN --recipe sup_clip --init SUPERVISED_RUN`.

Source: "More performant and scalable" (arXiv 2509.13175), its original code unread; values as methods.md C gives them. Differs: this house's ViT
and its mean token in place of a 3-D ResNet-18, which `encoder=resnet18` gives in both stages (`asapkit/resnet.py`); the text encoder is frozen;
volumes of one report are no negatives. Cost: every patch is computed, four times the tokens of a step that hides 75 %.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .607 (.553 to .656), untrained .556.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.encoders import chosen_encoder
from asapkit.pairing import Pair, alone
from asapkit.types import Batch, Losses

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """normalise: cosines with a learned temperature, `temperature` at the start, in place of raw dot products (which saturate the softmax).

    text_memory: keep the text features of reports seen before.
    """

    frozen = ("pair.text.",)

    def __init__(self, config: Config, *, normalise: bool = False, temperature: float = 0.07, text_memory: bool = False):
        if temperature <= 0:
            raise ValueError(f"temperature {temperature}: give a number above 0")
        super().__init__()
        self.config, self.encoder, self.gather = config, chosen_encoder(config), alone
        self.pair = Pair(config, scale=1 / temperature if normalise else None, normalise=normalise, text_memory=text_memory)

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.encoder.tokens(image).mean(1)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space."""
        return self.pair(self.feature(batch.image), batch.report_tokens, batch.report_real)

    def forward(self, batch: Batch) -> Losses:
        return {"contrast": self.pair.info_nce(self.embed(batch), batch.report_tokens, batch.report_real, gather=self.gather)}
