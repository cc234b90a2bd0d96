"""HLIP: most blocks attend within a slice of patches, every third over the whole volume; its class token against the report. On this house's ViT.

Source: HLIP (2505.21862), github Zch0414/hlip, as described in methods.md E11; `peers.hlip` runs its released weights. Differs: this house's
contract and positions; a slice is a layer of patches along z; one volume a study, hence no level of several scans; which blocks see the volume is
counted back from the last, so that it does at any depth (2, 5, 8, 11 of 12, as theirs); no drop-path; the text encoder is frozen; volumes of one
report are no negatives.
Cost: .71 of the CPU time of a step of recipe `ct_clip` (scale small, texts remembered), .27 where half the patches are seen (2026-11-23).
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .596 (.549 to .644), untrained .556.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import visible_in_slices
from asapkit.pairing import Pair, alone, same_report
from asapkit.types import Batch, Losses
from asapkit.vit3d import Encoder

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """loss: softmax (InfoNCE) | sigmoid (SigLIP's, scale 10 and bias -10 at the start).   see: share of every slice's patches that a step computes.

    text_memory: keep the text features of reports seen before.
    """

    frozen = ("pair.text.",)

    def __init__(self, config: Config, *, loss: str = "softmax", see: float = 1.0, text_memory: bool = False):
        if loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss {loss!r}: there are softmax, sigmoid")
        if not 0 < see <= 1:
            raise ValueError(f"see {see}: give a share above 0, at most 1")
        super().__init__()
        config = replace(config, attend="slices")
        self.config, self.encoder, self.gather, self.loss = config, Encoder(config), alone, loss
        self.see = math.ceil(see * config.patches / config.grid[2])
        self.pair = Pair(config, text_memory=text_memory, **({"scale": 10.0, "bias": -10.0} if loss == "sigmoid" else {}))

    def feature(self, image: Float[Tensor, "B 1 X Y Z"], visible: Tensor | None = None) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.encoder(image, visible)[:, 0]

    def embed(self, batch: Batch, visible: Tensor | None = None) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space, unit length."""
        return self.pair(self.feature(batch.image, visible), batch.report_tokens, batch.report_real)

    def forward(self, batch: Batch) -> Losses:
        slices = self.config.grid[2]
        whole = self.see * slices == self.config.patches
        last = ~batch.in_body if self.config.hide_air_first else None
        visible = None if whole else visible_in_slices(batch.patch_order, slices=slices, visible=self.see, last=last)
        embedded, text = self.embed(batch, visible), (batch.report_tokens, batch.report_real)
        if self.loss == "softmax":
            return {"contrast": self.pair.info_nce(embedded, *text, gather=self.gather)}
        logits = self.pair.logits(*map(self.gather, embedded))
        return {"contrast": objectives.sigmoid_contrast(logits, same_report(*text, gather=self.gather))}
