"""SigVLP's vision tower: SigLIP2 blocks on 3-D patches, with the positions that its released weights were trained with.

Source: SigVLP (2602.21735); github WongJiayi/ReciproVox, commit 892a8ec, `third_party/SigVLP`. Two things are not what they are called there, and
are kept because the weights saw nothing else: the "3d" sin-cos code is added to a map whose channels come first by a function that takes them last,
so that it tells channels and columns only; and the rotation of queries and keys is the text tower's, over the running number of a patch, base 1000,
with its cosines laid out in neighbouring pairs while halves are rotated.
"""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asapkit import vit3d
from asapkit.peers.building import Built, State, depth_of, sized
from asapkit.peers.frame import Geometry, Triple, count
from asapkit.peers.vit import ViT
from asapkit.rotary import Turn

BASE = 1000.0


class RotaryAttention(vit3d.Attention):
    """Attention of `vit3d` whose queries and keys are turned by their place."""

    def __init__(self, width: int, heads: int, *, patches: int):
        super().__init__(width, heads)
        head = width // heads
        angles = torch.outer(torch.arange(patches, dtype=torch.float32), BASE ** -(torch.arange(0, head, 2, dtype=torch.float32) / head))
        self.register_buffer("cos", angles.cos().repeat_interleave(2, dim=1), persistent=False)
        self.register_buffer("sin", angles.sin().repeat_interleave(2, dim=1), persistent=False)

    def turned(self, x: Float[Tensor, "B H M d"], rows: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B H M d"]:
        return Turn(self.cos.unsqueeze(0), self.sin.unsqueeze(0))(x, rows)

    def forward(self, x: Float[Tensor, "B N D"], rows: Int[Tensor, "B V"] | None = None, turn: vit3d.Turning | None = None) -> Float[Tensor, "B _ D"]:
        """All tokens, or the ones in `rows` alone, by this layout of places and no other."""
        return super().forward(x, rows, self.turned)


class SigLIP3D(ViT):
    """No class token; GELU by tanh. The pooling head of the source is no part of it."""

    def __init__(self, geometry: Geometry, *, width: int, depth: int, heads: int):
        super().__init__(geometry, width=width, depth=depth, heads=heads, cls=False, activation="tanh")
        for layer in self.blocks:
            layer.attn = RotaryAttention(width, heads, patches=count(self.grid))


def column_code(grid: Triple, width: int) -> Float[Tensor, "N D"]:
    """What the source adds to its patches: channel c at column w gets sin (even w) or cos (odd w) of c / 10000^(2 floor(w / 2) / n).

    n is the width over three, rounded up to an even number; grid is (slices, rows, columns).
    """
    n = 2 * ceil(width / 6)
    columns = torch.arange(grid[2])
    angles = torch.outer(1.0 / 10000 ** (2 * (columns // 2) / n), torch.arange(width, dtype=torch.float32))
    code = torch.where((columns % 2 == 0)[:, None], angles.sin(), angles.cos())
    return code.repeat(grid[0] * grid[1], 1)


def build(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """Heads of 64, as in SigLIP2's large tower."""
    kernel = state["patch_embed.proj.weight"]
    own = tuple(kernel.shape[2:])
    wanted = sized(geometry, crop=crop, patch=tuple(own[geometry.frame.axes.index(axis)] for axis in "xyz"))
    width = len(kernel)
    state["positions"] = column_code(wanted.frame.own(wanted.grid), width)[None].to(kernel.device)
    settings = {"geometry": wanted.to_dict(), "width": width, "depth": depth_of(state), "heads": max(1, width // 64)}
    return Built("siglip", settings, state, {"positions": "not stored there; computed as the source computes them"})
