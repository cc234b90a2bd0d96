"""ViSD-Boost: fVLM's contrast of organs, with features that first learn to tell normal organs from others and that know what normal anatomy is.

Three losses: `normal`, normal against abnormal volumes of each organ, images alone; `codes`, an autoencoder of normal organs through a small book of
codes; `contrast`, organs against their sentences, the tokens of the last level beside what the codes make of them.

Source: ViSD-Boost (2508.03742) as described in methods.md E10, where only inference was released. Differs: this house's ViT and contract in place of
a 3-D ResNet-18; the first stage, known from the abstract alone, is a supervised contrast and trains together with the rest (in stages: loss
weights of 0, then `--init`); queries pool three levels of tokens and the changed fourth; least and greatest number of an organ's tokens are taken
over all its features, and undone afterwards; the codes learn from normal organs alone, and no other loss reaches them; text, organs and what is
normal as in recipe `fvlm`. Needs organ masks. Cost: 1.38 times the CPU time of a step of recipe `ct_clip` (scale small, texts remembered,
2026-11-23).
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .602 (.556 to .652), untrained .556.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import objectives, pooling
from asapkit.codebook import Codebook
from asapkit.config import Config
from asapkit.pairing import alone
from asapkit.types import Batch, Losses
from asapkit.vit3d import Encoder, take

WEIGHTS = {"contrast": 1.0, "normal": 1.0, "codes": 1.0}


class Method(nn.Module):
    """codes: per organ.   code_depth: blocks before the codes, and as many after.   class_temperature: of `normal`.   The rest as recipe fvlm."""

    frozen = ("pair.text.",)
    needs = ("organs",)

    def __init__(
        self, config: Config, *, codes: int = 100, code_depth: int = 2, class_temperature: float = 0.07, temperature: float = 0.07,
        pool_heads: int = 4, dropout: float = 0.1, text_memory: bool = False,
    ):  # fmt: skip
        if class_temperature <= 0 or code_depth < 1:
            raise ValueError(f"class_temperature {class_temperature}, code_depth {code_depth}: give a number above 0 and at least 1 block")
        super().__init__()
        self.config, self.encoder, self.gather, self.class_temperature = config, Encoder(config), alone, class_temperature
        self.book = Codebook(config.width, organs=len(pooling.GROUPS), heads=config.heads, codes=codes, depth=code_depth)
        self.widen, self.narrow = nn.Linear(2 * config.width, config.width), nn.Linear(config.width, config.width)
        self.pool = pooling.OrganPool(config.width, config.align_width, heads=pool_heads, dropout=dropout)
        self.pair = pooling.OrganPair(config, temperature=temperature, text_memory=text_memory)

    def organs(self, batch: Batch) -> tuple[Float[Tensor, "B G E"], Float[Tensor, "B G"]]:
        """Unit features of a volume's organs (`pooling.GROUPS`), and what the codes of each normal one miss."""
        levels, inside, learn = pooling.levels(self.encoder, batch.image), pooling.inside(batch), self.learned(batch)
        found, missed = [], []
        for g in range(len(pooling.GROUPS)):
            index, real = pooling.rows_inside(inside[..., g])
            rows = [take(x, index) for x in levels]
            usual, error = self.book(rows[-1], real, organ=g, learn=learn[:, g], gather=self.gather)
            rows[-1] = self.narrow(F.gelu(self.widen(torch.cat([rows[-1], usual.to(rows[-1].dtype)], dim=-1))))
            found.append(self.pool(torch.cat(rows, dim=1), real.repeat(1, len(rows)), organ=g))
            missed.append(error)
        return torch.stack(found, dim=1), torch.stack(missed, dim=1)

    @staticmethod
    def learned(batch: Batch) -> Bool[Tensor, "B G"]:
        """Normal organs that are there: what the codes learn from."""
        return pooling.inside(batch).any(1) & pooling.normal(batch)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """All organs of a volume and all that is said of them; the product of two is the mean cosine of their organs, absent ones at zero."""
        organs = self.organs(batch)[0] * pooling.inside(batch).any(1).unsqueeze(-1)
        return tuple(rearrange(x, "b g e -> b (g e)") / x.shape[1] ** 0.5 for x in (organs, self.pair(batch).feature))

    def forward(self, batch: Batch) -> Losses:
        (organs, missed), said, present = self.organs(batch), self.pair(batch), pooling.inside(batch).any(1)
        return {
            "contrast": self.pair.contrast(organs, said, present, gather=self.gather),
            "normal": self.parted(*map(self.gather, (organs, said.normal, present))),
            "codes": missed.sum() / self.learned(batch).sum().clamp(min=1),
        }

    def parted(self, organs: Float[Tensor, "B G E"], normal: Bool[Tensor, "B G"], present: Bool[Tensor, "B G"]) -> Float[Tensor, ""]:
        """Sum over organs: normal ones against abnormal ones, over the volumes of all ranks that have the organ."""
        loss = organs.sum() * 0.0
        for g in range(len(pooling.GROUPS)):
            here = present[:, g]
            loss = loss + objectives.class_contrast(organs[here, g], normal[here, g].long(), temperature=self.class_temperature)
        return loss

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"codes": self.learned(batch).sum()}
