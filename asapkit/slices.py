"""Attention within slices: patches of a volume as rows of one slice each, every row with its own copy of the class token.

Source: HLIP (2505.21862) as described in methods.md E11; what encoders of this house and released weights (`peers.hlip`) share.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

EVERY = 3  # every third block attends over the whole volume


def slices_by_block(depth: int, slices: int) -> tuple[int, ...]:
    """In how many slices each block sees a volume: 1, the whole, in every third block counted back from the last (2, 5, 8, 11 of 12)."""
    return tuple(1 if (depth - 1 - n) % EVERY == 0 else slices for n in range(depth))


def apart(x: Float[Tensor, "B M D"], slices: int, *, first: bool = False) -> Float[Tensor, "S m D"]:
    """Class token and patches of a volume as rows of one slice each, every row with its copy of the class token.

    Slices are the last axis of the patches' order (x, y, z), or with `first` the first (z, y, x).
    """
    if slices == 1:
        return x
    patches = rearrange(x[:, 1:], "b (s n) d -> (b s) n d" if first else "b (n s) d -> (b s) n d", s=slices)
    return torch.cat([repeat(x[:, :1], "b 1 d -> (b s) 1 d", s=slices), patches], dim=1)


def together(x: Float[Tensor, "S m D"], slices: int, *, first: bool = False) -> Float[Tensor, "B M D"]:
    """Undoes `apart`; the copies of the class token, which went their own ways, are averaged."""
    if slices == 1:
        return x
    cls = rearrange(x[:, 0], "(b s) d -> b s d", s=slices).mean(1, keepdim=True)
    return torch.cat([cls, rearrange(x[:, 1:], "(b s) n d -> b (s n) d" if first else "(b s) n d -> b (n s) d", s=slices)], dim=1)


def looks(q: Float[Tensor, "S H m E"], k: Float[Tensor, "S H m E"], patches: Int[Tensor, " Q"], *, slices: int) -> Float[Tensor, "B H Q N"]:
    """How much each of `patches` looks at every patch of the volume, zero outside its own slice; the class token's share is left out.

    q, k: queries and keys of one block, rows as `apart` gives them.
    """
    q, k = (rearrange(x, "(b s) h m e -> b s m h e", s=slices) for x in (q, k))
    of, row = patches % slices, patches // slices + 1  # the class token is row 0
    scores = torch.einsum("bqhe,bqmhe->bhqm", q[:, of, row], k[:, of]) / q.shape[-1] ** 0.5
    share = scores.softmax(-1)[..., 1:]
    return rearrange(share.unsqueeze(-1) * F.one_hot(of, slices).to(share)[:, None], "b h q n s -> b h q (n s)")


def in_turn(visible: Int[Tensor, "B V"], slices: int) -> bool:
    """Whether every slice has as many visible patches, one of each slice after the other: what `apart` takes (`masking.visible_in_slices`)."""
    return visible.shape[1] % slices == 0 and bool((visible % slices == torch.arange(visible.shape[1], device=visible.device) % slices).all())
