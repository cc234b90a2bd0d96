"""Plain vision transformers of other methods on volumes: MAE, MRM, M3AE, Hi-End-MAE, M3D-CLIP, fVLM; HLIP and SigVLP build on it.

Blocks are those of `vit3d`, under timm's names. Sources differ in the activation, in the norms' epsilon, in a norm before the blocks, in having a
class token, and in positions; positions are stored per patch, since a source may have learned them.
Source: Dosovitskiy et al. (2010.11929); He et al. (2111.06377); the repositories named in `families`.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import vit3d
from asapkit.peers.frame import Geometry, Peer, Triple, count


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x): CLIP's approximation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "quick": quick_gelu, "tanh": partial(F.gelu, approximate="tanh")}


class Mlp(vit3d.Mlp):
    def __init__(self, width: int, activation: str):
        super().__init__(width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


def block(width: int, heads: int, *, activation: str, eps: float) -> vit3d.Block:
    """A pre-norm block with a source's activation and epsilon."""
    made = vit3d.Block(width, heads)
    made.mlp = Mlp(width, activation)
    made.norm1.eps = made.norm2.eps = eps
    return made


class ViT(Peer):
    """Patches by convolution, positions, class token where there is one (its own position is added when weights are loaded), blocks, norm."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        width: int,
        depth: int,
        heads: int,
        cls: bool = True,
        norm_pre: bool = False,
        activation: str = "gelu",
        eps: float = 1e-6,
    ):
        super().__init__(geometry, width=width)
        own_patch = geometry.frame.own(geometry.patch)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, width, own_patch, stride=own_patch)})
        self.register_buffer("positions", torch.zeros(1, count(self.grid), width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.norm_pre = nn.LayerNorm(width, eps=eps) if norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(block(width, heads, activation=activation, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)

    def embed(self, own: Float[Tensor, "B 1 U V W"]) -> Float[Tensor, "B N D"]:
        """Patch tokens with their positions."""
        return self.patch_embed["proj"](own).flatten(2).transpose(1, 2) + self.positions

    def states(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        x = self.embed(own)
        first = 0 if self.cls_token is None else 1
        if first:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm_pre(x)
        states = []
        for layer in self.blocks:
            x = layer(x)
            states.append(x[:, first:])
        return states

    def finish(self, state: Tensor) -> Tensor:
        return self.norm(state)


# ---------------------------------------------------------------------------------------------------------------- positions


def moved_positions(table: Float[Tensor, "N D"], old: Triple, new: Triple) -> tuple[Float[Tensor, "M D"], str]:
    """Positions of a grid given for another one (both in the network's axis order), and how: kept, computed, or interpolated.

    A table that is the sin-cos code of its grid is computed anew, exactly; a learned one is interpolated trilinearly, half-voxel exact.
    """
    if old == new:
        return table, "kept"
    if vit3d.is_sincos(table, old):
        return vit3d.sincos_positions(new, table.shape[1]), "computed"
    volume = table.reshape(1, *old, -1).permute(0, 4, 1, 2, 3)
    moved = F.interpolate(volume, size=new, mode="trilinear", align_corners=False)
    return moved.permute(0, 2, 3, 4, 1).reshape(count(new), -1), "interpolated"


def raised_positions(table: Float[Tensor, "N D"], new: Triple) -> Float[Tensor, "M D"]:
    """Positions of a square 2-D grid made 3-D for (slices, rows, columns): in-plane bicubic, plus the 1-D sin-cos code of the slice.

    Source: HLIP (2505.21862), which starts from an ImageNet MAE in this way.  Raises: ValueError where N is no square.
    """
    side = round(len(table) ** 0.5)
    if side**2 != len(table):
        raise ValueError(f"{len(table)} positions are no square of patches")
    plane = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (side, side) != new[1:]:
        plane = F.interpolate(plane, size=new[1:], mode="bicubic", align_corners=False)
    half = table.shape[1] // 2
    angles = torch.arange(new[0], dtype=torch.float64)[:, None] / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
    along = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, table.shape[1] - 2 * half)).to(table)
    return (along[:, None, None, :] + plane[0].permute(1, 2, 0)[None]).reshape(count(new), -1)


def raised_patches(kernel: Float[Tensor, "D C v w"], patch: Triple) -> Float[Tensor, "D 1 pu pv pw"]:
    """A 2-D patch embedding made 3-D: colours summed, resized in plane, spread evenly over the slices of a patch.

    A patch that is the same in every slice then gives what the grey 2-D patch gave.  Source: HLIP; Carreira and Zisserman (1705.07750).
    """
    grey = kernel.sum(1, keepdim=True)
    if tuple(grey.shape[2:]) != patch[1:]:
        grey = F.interpolate(grey, size=patch[1:], mode="bicubic", align_corners=False)
    return grey[:, :, None].repeat(1, 1, patch[0], 1, 1) / patch[0]
