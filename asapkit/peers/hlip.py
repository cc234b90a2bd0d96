"""HLIP's vision transformer: most blocks attend within a slice of patches, every third over the whole scan.

Source: HLIP (2505.21862); github Zch0414/hlip, `visual_encoder.py` at commit fe8d764: a ViT-B whose blocks 2, 5, 8, 11 see the scan. The class
token is copied into every slice and averaged when slices meet again; it has no position.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from asapkit.peers.frame import Geometry
from asapkit.peers.vit import ViT
from asapkit.slices import EVERY, apart, together


class HLIP(ViT):
    """One scan: no level of several scans in a study."""

    def __init__(self, geometry: Geometry, *, width: int, depth: int, heads: int):
        super().__init__(geometry, width=width, depth=depth, heads=heads)

    def states(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        slices = self.own_grid[0]
        x = self.embed(own)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        states, parted = [], False
        for number, layer in enumerate(self.blocks):
            whole = number % EVERY == EVERY - 1
            if whole and parted:
                x = together(x, slices, first=True)
            elif not whole and not parted:
                x = apart(x, slices, first=True)
            x, parted = layer(x), not whole
            states.append(x[:, 1:] if whole else rearrange(x[:, 1:], "(b s) n d -> b (s n) d", s=slices))
        return states
