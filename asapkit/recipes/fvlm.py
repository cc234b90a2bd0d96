"""fVLM: every organ, pooled from its own patches, against the sentences that name it; organs that are both normal are no negatives. On the 3-D ViT.

Source: github alibaba-damo-academy/fvlm as described in methods.md E9. Differs: this house's ViT (it has a class token, which is not read), contract
and crops; an organ's text is the sentences of the findings that name it, by rules, where theirs were taken apart by a language model; an organ is
normal where no sentence states that something is there; each level of tokens is normalised before it is pooled; organs cut by the crop count; the
text encoder is frozen; the gradient reaches every rank's features, theirs the own rank's. Needs organ masks; volumes without any are left out.
Cost: every patch is computed; 1.03 times the CPU time of a step of recipe `ct_clip` (scale small, texts remembered, 2026-11-23).
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .639 (.581 to .702), untrained .556.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from asapkit import pooling
from asapkit.config import Config
from asapkit.pairing import alone
from asapkit.types import Batch, Losses
from asapkit.vit3d import Encoder, take

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """temperature: learned, its value at the start.   pool_heads, dropout: of the attention over an organ's tokens.

    text_memory: keep the features of texts seen before.
    """

    frozen = ("pair.text.",)
    needs = ("organs",)

    def __init__(self, config: Config, *, temperature: float = 0.07, pool_heads: int = 4, dropout: float = 0.1, text_memory: bool = False):
        super().__init__()
        self.config, self.encoder, self.gather = config, Encoder(config), alone
        self.pool = pooling.OrganPool(config.width, config.align_width, heads=pool_heads, dropout=dropout)
        self.pair = pooling.OrganPair(config, temperature=temperature, text_memory=text_memory)

    def organs(self, batch: Batch) -> Float[Tensor, "B G E"]:
        """Unit features of a volume's organs (`pooling.GROUPS`)."""
        levels, inside, found = pooling.levels(self.encoder, batch.image), pooling.inside(batch), []
        for g in range(len(pooling.GROUPS)):
            index, real = pooling.rows_inside(inside[..., g])
            tokens = torch.cat([take(x, index) for x in levels], dim=1)
            found.append(self.pool(tokens, real.repeat(1, len(levels)), organ=g))
        return torch.stack(found, dim=1)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """All organs of a volume and all that is said of them; the product of two is the mean cosine of their organs, absent ones at zero."""
        organs = self.organs(batch) * pooling.inside(batch).any(1).unsqueeze(-1)
        return tuple(rearrange(x, "b g e -> b (g e)") / x.shape[1] ** 0.5 for x in (organs, self.pair(batch).feature))

    def forward(self, batch: Batch) -> Losses:
        present = pooling.inside(batch).any(1)
        return {"contrast": self.pair.contrast(self.organs(batch), self.pair(batch), present, gather=self.gather)}
