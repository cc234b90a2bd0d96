"""HLIP's vision transformer: most blocks attend within a slice of patches, every third over the whole scan.

Source: HLIP (2505.21862); github Zch0414/hlip, `visual_encoder.py` at commit fe8d764: a ViT-B whose blocks 2, 5, 8, 11 see the scan. The class
token is copied into every slice and averaged when slices meet again; it has no position.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from asapkit.peers.frame import Geometry
from asapkit.peers.vit import ViT

EVERY = 3  # every third block attends over the whole scan


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
                x = together(x, slices)
            elif not whole and not parted:
                x = apart(x, slices)
            x, parted = layer(x), not whole
            states.append(x[:, 1:] if whole else rearrange(x[:, 1:], "(b s) n d -> b (s n) d", s=slices))
        return states


def apart(x: Float[Tensor, "B M D"], slices: int) -> Float[Tensor, "S m D"]:
    """Class token and patches of a scan as rows of one slice each, every row with its copy of the class token."""
    patches = rearrange(x[:, 1:], "b (s n) d -> (b s) n d", s=slices)
    return torch.cat([repeat(x[:, :1], "b 1 d -> (b s) 1 d", s=slices), patches], dim=1)


def together(x: Float[Tensor, "S m D"], slices: int) -> Float[Tensor, "B M D"]:
    """Undoes `apart`; the copies of the class token, which went their own ways, are averaged."""
    cls = rearrange(x[:, 0], "(b s) d -> b s d", s=slices).mean(1, keepdim=True)
    return torch.cat([cls, rearrange(x[:, 1:], "(b s) n d -> b (s n) d", s=slices)], dim=1)
